"""Frames of several small calls: what comes out is what went in, and nothing else passes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.chunk_batches import (
    BatchAnswer,
    BatchRequest,
    Failed,
    Found,
    GetItem,
    HasItem,
    Held,
    PutItem,
    Stored,
    cut_bodies,
    encode_head,
    join_frame,
    split_frame,
)

_DIGESTS = st.binary(min_size=32, max_size=32)
_ITEMS = st.one_of(
    st.builds(PutItem, digest=_DIGESTS, size_bytes=st.integers(0, 100), start_index=st.integers(0, 2**63 - 1)),
    st.builds(GetItem, digest=_DIGESTS),
    st.builds(HasItem, digest=_DIGESTS, start_index=st.none() | st.integers(0, 2**63 - 1), verify=st.booleans()),
)
_RESULTS = st.one_of(
    st.builds(Stored, created=st.booleans()),
    st.builds(Found, size_bytes=st.integers(0, 100)),
    st.builds(Held, present=st.booleans(), verified=st.booleans()),
    st.builds(Failed, problem=st.just({"code": "chunk-not-found", "status": 404})),
)


@given(items=st.lists(_ITEMS))
def test_a_request_comes_out_as_it_went_in(items: list[PutItem | GetItem | HasItem]) -> None:
    sizes = [item.size_bytes for item in items if isinstance(item, PutItem)]
    bodies = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    head = encode_head(BatchRequest(items))
    signed, request, body = split_frame(join_frame(head, bodies), BatchRequest)
    assert signed == head
    assert request.items == items
    assert [bytes(piece) for piece in cut_bodies(body, sizes)] == bodies


@given(results=st.lists(_RESULTS), fence=st.none() | st.integers(0, 2**63 - 1))
def test_an_answer_comes_out_as_it_went_in(results: list[Stored | Found | Held | Failed], fence: int | None) -> None:
    head = encode_head(BatchAnswer(results, fence))
    assert split_frame(head, BatchAnswer)[1] == BatchAnswer(results, fence)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\x09short",
        b"\xff\xff\xff\xff" + b"x" * 10,
        b"\0\0\0\x01\xc1",
        b"\0\0\0\x02{}",
        (2**18 + 1).to_bytes(4, "big") + bytes(2**18 + 1),
    ],
)
def test_what_is_no_frame_is_a_value_error(frame: bytes) -> None:
    with pytest.raises(ValueError):
        split_frame(frame, BatchRequest)


def test_a_request_with_a_field_that_is_not_known_is_refused() -> None:
    encoded = msgspec.msgpack.encode({"items": [], "compress": True})
    with pytest.raises(ValueError, match="compress"):
        split_frame(len(encoded).to_bytes(4, "big") + encoded, BatchRequest)


def test_an_answer_with_a_field_that_is_not_known_is_read() -> None:
    encoded = msgspec.msgpack.encode({"results": [], "since": 7})
    assert split_frame(len(encoded).to_bytes(4, "big") + encoded, BatchAnswer)[1] == BatchAnswer([])


@pytest.mark.parametrize("sizes", [[3], [1, 2, 2], [5, -1]])
def test_sizes_that_do_not_fit_the_bytes_are_a_value_error(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        cut_bodies(memoryview(b"four"), sizes)
