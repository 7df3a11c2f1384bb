"""What kind of file a key says it is."""

from __future__ import annotations

import mimetypes

import pytest

from trivet.content_types import guessed_type


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("photos/cat.JPG", "image/jpeg"),
        ("a.json", "application/json"),
        ("a.json.gz", None),
        ("folder.json/large", None),
        (".json", None),
        ("data:text/html,x", None),
    ],
)
def test_common_endings_need_no_table_of_the_machine(monkeypatch, key, kind) -> None:
    """It is read from several files, and differs between machines."""

    def read(*_: object) -> None:
        raise AssertionError("the table was read")

    monkeypatch.setattr(mimetypes, "guess_type", read)
    assert guessed_type(key) == kind


def test_other_endings_are_looked_up_there(monkeypatch) -> None:
    """Those of compressed files have no type. No machine knows these endings: another test may have read its table before."""
    known = {"a.trivet-odd": ("a/odd", None), "a.trivet-packed": ("a/odd", "packed")}
    monkeypatch.setattr(mimetypes, "guess_type", known.__getitem__)
    assert (guessed_type("a.trivet-odd"), guessed_type("a.trivet-packed")) == ("a/odd", None)
