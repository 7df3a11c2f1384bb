"""What files are called at their target."""

from __future__ import annotations

import pytest

from trivet.cli.addresses import parse_remote
from trivet.cli.naming import target_of


@pytest.mark.parametrize(
    ("source", "key", "target", "expected"),
    [
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts/", "drafts/cat.jpg"),
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts", "drafts/cat.jpg"),
        ("photos/2026/cat.jpg", "2026/cat.jpg", "drafts/tom.jpg", "drafts/tom.jpg"),
        ("photos/2026", "2026/a/b.jpg", "drafts/", "drafts/2026/a/b.jpg"),
        ("photos/2026/", "2026/a/b.jpg", "drafts/", "drafts/a/b.jpg"),
        ("photos/2026", "2026/a/b.jpg", "drafts/old", "drafts/old/a/b.jpg"),
        ("photos/2026/", "2026/a/b.jpg", "drafts/old", "drafts/old/a/b.jpg"),
        ("photos", "2026/a.jpg", "drafts/", "drafts/2026/a.jpg"),
        ("photos/2026/*.jpg", "2026/a.jpg", "drafts/", "drafts/a.jpg"),
        ("photos/**/a.jpg", "2026/x/a.jpg", "drafts/", "drafts/2026/x/a.jpg"),
        ("photos/star[*]", "star*", "drafts/", "drafts/star*"),
    ],
)
def test_the_slash_at_the_end_decides(source, key, target, expected) -> None:
    """Of the target: files come below it under their names. Of the source: its contents, without its name."""
    assert target_of(parse_remote(source), key, parse_remote(target)).short == expected
