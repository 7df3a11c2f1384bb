"""Headers of a file, in and out."""

from __future__ import annotations

import pytest

from services.gateway.semantics.file_headers import content_type, user_metadata
from shared.errors import InvalidRequestError
from shared.units import KIB


def test_metadata_is_kept_by_lower_case_name() -> None:
    """Other headers are nobody's metadata."""
    raw = [(b"X-Trivet-Meta-Colour", b" red "), (b"x-trivet-meta-n", b""), (b"x-other", b"1")]
    assert user_metadata(raw) == {"colour": "red", "n": ""}


def test_metadata_is_bounded_on_both_sides_of_each_limit() -> None:
    """2 KiB a value and 8 KiB in all are taken, one byte more is not."""
    value = b"v" * 2 * KIB
    assert user_metadata([(b"x-trivet-meta-a", value)]) == {"a": value.decode()}
    with pytest.raises(InvalidRequestError):
        user_metadata([(b"x-trivet-meta-a", value + b"v")])
    names = [(b"x-trivet-meta-%d" % n, value[: 2 * KIB - 1]) for n in range(4)]
    assert len(user_metadata(names)) == 4
    with pytest.raises(InvalidRequestError):
        user_metadata([*names, (b"x-trivet-meta-z", b"")])


@pytest.mark.parametrize(
    "raw",
    [
        [(b"x-trivet-meta-", b"v")],
        [(b"x-trivet-meta-a b", b"v")],
        [(b"x-trivet-meta-" + b"n" * 129, b"v")],
        [(b"x-trivet-meta-a", b"\xff")],
        [(b"x-trivet-meta-a", b"1"), (b"X-Trivet-Meta-A", b"2")],
    ],
)
def test_metadata_that_could_not_be_sent_back_is_refused(raw) -> None:
    """Names are tokens, values printable ASCII, each once."""
    with pytest.raises(InvalidRequestError):
        user_metadata(raw)


def test_a_content_type_is_kept_as_it_is_or_refused() -> None:
    """It is opaque; only what cannot be a header value is refused."""
    assert content_type([]) == content_type(["  "]) == "application/octet-stream"
    assert content_type([" text/html; charset=x "]) == "text/html; charset=x"
    assert content_type(["a" * 255])
    for bad in (["a" * 256], ["text/\xe4"], ["a\x00b"], ["text/plain", "text/html"]):
        with pytest.raises(InvalidRequestError):
            content_type(bad)
