"""Which bytes a Range header asks for (RFC 9110 section 14), and how several of them look on the wire."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.api.range_parts import RangeParts
from services.gateway.semantics.byte_ranges import MAX_RANGES, ByteSpan, requested_spans
from shared.errors import RangeNotSatisfiableError


def spans_of(value: str, size_bytes: int = 10) -> list[tuple[int, int]] | None:
    spans = requested_spans({"range": value}, size_bytes, "e")
    return None if spans is None else [(span.start, span.stop) for span in spans]


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=2-4", [(2, 5)]),
        ("bytes=9-", [(9, 10)]),
        ("bytes=5-999", [(5, 10)]),
        ("bytes=5-" + "9" * 400, [(5, 10)]),
        ("bytes=-3", [(7, 10)]),
        ("bytes=-" + "9" * 400, [(0, 10)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=0-1,3-4", [(0, 2), (3, 5)]),
        ("bytes=8-9, 0-1", [(8, 10), (0, 2)]),
        ("bytes= \t0-1 ,, ,-1,", [(0, 2), (9, 10)]),
        ("bytes=0-1,10-,-0", [(0, 2)]),
        ("bytes=0-4,5-", [(0, 5), (5, 10)]),
    ],
)
def test_ranges_are_served_in_the_order_asked_for(value, spans) -> None:
    """Those behind the end are left out; names of units know no case; empty list elements count for nothing."""
    assert spans_of(value) == spans


@pytest.mark.parametrize(
    "value",
    [
        *("", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=4-2", "bytes=0-1,4-2", "bytes=0-1 x"),
        *("lines=0-1", "bytes=0--1", "bytes=+1-2", "bytes=1_0-", "bytes=\u0661-", "bytes=0-1;2-3", "bytes =0-1"),
    ],
)
def test_what_breaks_the_grammar_is_ignored(value) -> None:
    """The whole file is sent, as section 14.2 allows."""
    assert spans_of(value) is None


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("bytes=10-", 10),
        ("bytes=-0", 10),
        ("bytes=10-,11-12", 10),
        ("bytes=0-", 0),
        ("bytes=-5", 0),
        ("bytes=" + "9" * 400 + "-", 10),
        ("bytes=0-,0-0", 10),
        ("bytes=0-5,4-9", 10),
        ("bytes=" + ",".join("0-0" for _ in range(MAX_RANGES + 1)), 1000),
    ],
)
def test_ranges_that_do_not_exist_or_ask_for_too_much_are_416(value, size_bytes) -> None:
    """Behind the end, more bytes than the file, or one range more than are taken."""
    with pytest.raises(RangeNotSatisfiableError) as caught:
        spans_of(value, size_bytes)
    assert caught.value.facts == {"size_bytes": size_bytes}


def test_as_many_ranges_as_are_taken() -> None:
    """The other side of the edge."""
    value = "bytes=" + ",".join(f"{2 * number}-{2 * number}" for number in range(MAX_RANGES))
    assert spans_of(value, 100) == [(2 * number, 2 * number + 1) for number in range(MAX_RANGES)]


@pytest.mark.parametrize(
    ("if_range", "holds"),
    [('"e"', True), ('"x"', False), ('W/"e"', False), ("Wed, 18 Nov 2026 11:06:40 GMT", False), ("", False)],
)
def test_if_range_holds_for_the_exact_strong_tag_only(if_range, holds) -> None:
    """Otherwise the whole file is sent."""
    spans = requested_spans({"range": "bytes=0-1", "if-range": if_range}, 10, "e")
    assert (spans is not None) == holds


def test_a_hostile_header_costs_no_time() -> None:
    """No value makes the parser go back over what it has read: that would take minutes, on any machine."""
    began = time.perf_counter()
    for value in ("bytes=" + "0" * 60_000, "bytes=" + "," * 60_000, "bytes=" + "0-," * 20_000 + "x"):
        assert spans_of(value) is None
    assert time.perf_counter() - began < 10


@given(st.text(alphabet="bytes=0123456789-, \t", max_size=40), st.integers(0, 30))
def test_whatever_is_asked_for_lies_in_the_file(text, size_bytes) -> None:
    """Every span has a byte, none lies outside, and together they are no more than the file."""
    for value in (text, f"bytes={text}"):
        try:
            spans = requested_spans({"range": value}, size_bytes, "e")
        except RangeNotSatisfiableError:
            continue
        for span in spans or ():
            assert 0 <= span.start < span.stop <= size_bytes
        assert sum(span.size_bytes for span in spans or ()) <= size_bytes


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=2, max_size=5),
    st.integers(min_value=1, max_value=60),
)
def test_a_mime_parser_finds_the_ranges_again(pairs, piece_bytes) -> None:
    """However the bytes are cut on their way: every part has its type, its Content-Range and its bytes."""
    body = bytes(range(100))
    spans = [ByteSpan(start, start + length) for start, length in pairs]
    parts = RangeParts(spans, len(body), "text/x-test")
    sent = b""
    for span in spans:
        for start in range(span.start, span.stop, piece_bytes):
            piece = body[start : min(start + piece_bytes, span.stop)]
            sent += parts.before(len(piece)) + piece
    sent += parts.closing
    assert len(sent) == parts.length_bytes
    message = message_from_bytes(f"content-type: {parts.content_type}\r\n\r\n".encode("ascii") + sent)
    found = message.get_payload()
    assert isinstance(found, list)
    for span, part in zip(spans, found, strict=True):
        assert isinstance(part, Message)
        assert part.get_content_type() == "text/x-test"
        assert part["content-range"] == f"bytes {span.start}-{span.stop - 1}/100"
    # The parser of mail may touch line ends, so the bytes are looked for where they stand.
    assert all(body[span.start : span.stop] in sent for span in spans)
