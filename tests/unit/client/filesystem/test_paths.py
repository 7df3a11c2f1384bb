"""Names of files and of the directories that they imply."""

from __future__ import annotations

import pytest

from trivet.filesystem import TrivetFileSystem
from trivet.filesystem.paths import parents, prefix_of, split


@pytest.mark.parametrize(
    ("path", "stripped"),
    [
        ("trivet://bucket/a/b", "bucket/a/b"),
        ("trivet://bucket/a/", "bucket/a"),
        ("/bucket", "bucket"),
        ("trivet://", ""),
        (["trivet://a/b", "c"], ["a/b", "c"]),
    ],
)
def test_a_path_is_a_bucket_and_a_key(path, stripped) -> None:
    """With the protocol or without."""
    assert TrivetFileSystem._strip_protocol(path) == stripped


def test_a_path_is_split_at_its_first_slash() -> None:
    """Keys have slashes of their own."""
    assert [split(path) for path in ("", "b", "b/k", "b/k/l", "b//k")] == [
        ("", ""),
        ("b", ""),
        ("b", "k"),
        ("b", "k/l"),
        ("b", "/k"),
    ]
    assert (prefix_of(""), prefix_of("a/b")) == ("", "a/b/")


def test_a_key_lies_in_directories_below_the_one_that_is_looked_at() -> None:
    """Up to one without a name."""
    assert parents("a/b/c.txt", "") == ["a", "a/b"]
    assert parents("a/b/c.txt", "a/") == ["a/b"]
    assert parents("c.txt", "") == parents("a/b", "a/") == parents("/a", "") == []
    assert parents("a//b", "") == ["a"]
