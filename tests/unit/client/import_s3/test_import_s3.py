"""What the importer decides without a server: what a target still lacks, and how a body is framed."""

from __future__ import annotations

import random

import pytest

from trivet.cli.commands.import_s3 import read_key
from trivet.import_s3.histories import Version, count_present, is_proved, may_equal, what_differs
from trivet.import_s3.transfer import carried, framed, framed_size
from trivet.import_s3.units import KIB

ONE, TWO, PARTS, MARKER = (
    Version("1", is_marker=False, size=3, etag="a" * 32),
    Version("2", is_marker=False, size=3, etag="b" * 32),
    Version("3", is_marker=False, size=3, etag="b" * 32 + "-2"),
    Version("4", is_marker=True, size=0, etag=""),
)


@pytest.mark.parametrize(
    ("source", "target", "present"),
    [
        ([ONE, TWO], [], 0),
        ([ONE, TWO], [ONE], 1),
        ([ONE, MARKER, TWO], [ONE, MARKER], 2),
        ([ONE, TWO], [ONE, TWO], 2),
        ([ONE, TWO], [TWO], None),
        ([ONE], [ONE, TWO], None),
        ([ONE, TWO], [MARKER], None),
        ([PARTS], [ONE], 1),
    ],
)
def test_what_is_there_is_the_beginning_or_a_conflict(source, target, present) -> None:
    """Anything else than the beginning of the source's history is left alone."""
    assert count_present(source, target) == present
    assert (what_differs(source, target) == "") is (present == len(source))


def test_etags_of_parts_prove_and_disprove_nothing() -> None:
    """The same ETag proves; another one, where one of them is of parts, has to be read; a length always counts."""
    other = Version("9", is_marker=False, size=3, etag="c" * 32 + "-1")
    assert (is_proved(PARTS, PARTS), is_proved(PARTS, other), may_equal(PARTS, other)) == (True, False, True)
    assert not may_equal(PARTS, Version("9", is_marker=False, size=4, etag="c" * 32 + "-1"))
    assert not may_equal(ONE, TWO)


@pytest.mark.parametrize("size", [0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 1024 * KIB])
def test_the_length_of_a_framed_body_is_known_before(size, seed) -> None:
    """It is sent in the head."""
    body = random.Random(seed).randbytes(size)
    pieces = [body[start : start + 256 * KIB] for start in range(0, size, 256 * KIB)]
    assert len(b"".join(framed(pieces))) == framed_size(size)


def test_the_framing_of_an_upload_is_no_coding_of_an_object() -> None:
    """Servers that stored it are not copied in this."""
    head = {"content-encoding": "gzip, aws-chunked", "x-amz-meta-a": "1", "etag": '"x"', "content-type": "a/b"}
    assert carried(head) == {"content-encoding": "gzip", "x-amz-meta-a": "1", "content-type": "a/b"}
    assert carried({"content-encoding": "aws-chunked"}) == {}


@pytest.mark.parametrize("text", ["id\nsecret.with.dots\n", "id secret.with.dots", "id.secret.with.dots"])
def test_a_key_file_is_read_as_people_write_it(text, tmp_path) -> None:
    """On two lines, or on one."""
    (tmp_path / "key").write_text(text)
    assert read_key(tmp_path / "key") == ("id", "secret.with.dots")


def test_a_key_file_without_a_secret_is_refused_without_showing_it(tmp_path) -> None:
    """The message names the file alone."""
    (tmp_path / "key").write_text("confidential")
    with pytest.raises(ValueError, match="no id and secret") as caught:
        read_key(tmp_path / "key")
    assert "confidential" not in str(caught.value)
