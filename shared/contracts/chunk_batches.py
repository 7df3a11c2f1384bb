"""Small calls of several requests to one storage node in one HTTP request: `POST /v1/chunks/batch` (S-101).

A *frame* is four bytes with the length of its head (big-endian), the head in msgpack, and bytes of chunks one after the
other: those of the puts in a request, those of the gets in an answer, in the order of the items. The body digest that is
signed, and the digest that the answer's MAC covers, are of the length and the head alone: the head names every chunk by
its digest, and whoever takes the bytes checks them against it.

Each item succeeds or fails by itself, as the single call would. An answer has one result per item, in the order of the items.
What is no such frame is refused as a whole, and nothing of it was done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from shared.units import KIB, MIB

BATCH_PATH: Final = "/v1/chunks/batch"

MAX_BATCH_ITEMS: Final = 256
MAX_BATCH_BYTES: Final = 4 * MIB
"""Bytes of chunks in one frame."""
MAX_BATCHED_CHUNK_BYTES: Final = 64 * KIB
"""A larger chunk travels alone."""

_LENGTH_BYTES: Final = 4
_MAX_HEAD_BYTES: Final = 256 * KIB
MAX_FRAME_BYTES: Final = _LENGTH_BYTES + _MAX_HEAD_BYTES + MAX_BATCH_BYTES

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
StartIndex = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class PutItem(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """Store the next `size_bytes` of the frame under `digest`; as PUT of one chunk.

    One above MAX_BATCHED_CHUNK_BYTES is refused (413).
    """

    digest: Digest
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    start_index: StartIndex


class GetItem(msgspec.Struct, frozen=True, array_like=True, tag="get"):
    """The bytes of `digest`, verified; as GET of one chunk.

    One above MAX_BATCHED_CHUNK_BYTES is refused (413), and so is one that has no room in the answer behind those before it
    (MAX_BATCH_BYTES). `with_start_index` as `shared.contracts.chunks.WITH_START_INDEX_QUERY`.
    """

    digest: Digest
    with_start_index: bool = False


class HasItem(msgspec.Struct, frozen=True, array_like=True, tag="has"):
    """Is `digest` held? `start_index` and `verify` as in `shared.contracts.chunks.HasRequest`."""

    digest: Digest
    start_index: StartIndex | None = None
    verify: bool = False


BatchItem = PutItem | GetItem | HasItem


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a request."""

    items: Annotated[list[BatchItem], msgspec.Meta(max_length=MAX_BATCH_ITEMS)]


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="put"):
    """The chunk is durable in at least one tier of this node, and so is max(start index)."""

    created: bool


class Found(msgspec.Struct, frozen=True, array_like=True, tag="get"):
    """The next `size_bytes` of the frame are the chunk. `start_index`: see `GetItem`; None unless it was asked for."""

    size_bytes: int
    start_index: int | None = None


class Held(msgspec.Struct, frozen=True, array_like=True, tag="has"):
    """Whether the chunk is held durably, and verified (`shared.contracts.chunks.HasResponse`)."""

    present: bool
    verified: bool


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The item's problem document; `shared.errors.error_from_problem` gives the typed error."""

    problem: dict[str, Any]


BatchResult = Stored | Found | Held | Failed


class BatchAnswer(msgspec.Struct, frozen=True):
    """The head of an answer. `fence`: of the acknowledgements in it (`shared.contracts.chunks.FENCE_HEADER`).

    Answers ignore fields that they do not know, so that a node of the next version may say more.
    """

    results: list[BatchResult]
    fence: int | None = None


_HeadT = TypeVar("_HeadT", BatchRequest, BatchAnswer)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[type[Any], msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (BatchRequest, BatchAnswer)
}


def encode_head(head: BatchRequest | BatchAnswer) -> bytes:
    """The length and the head: what stands before the bytes in a frame, and what is signed."""
    encoded = _ENCODER.encode(head)
    return len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded


def join_frame(head: bytes, bodies: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """A whole frame; `head` from `encode_head`."""
    return b"".join([head, *bodies])


def split_frame(frame: bytes | memoryview, kind: type[_HeadT]) -> tuple[bytes, _HeadT, memoryview]:
    """The signed part of a frame, its head, and the bytes behind it.

    Raises:
        ValueError: it is not a frame with such a head; msgspec's errors are ValueErrors.
    """
    view = memoryview(frame)
    end = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "big")
    if not _LENGTH_BYTES < end <= min(len(view), _LENGTH_BYTES + _MAX_HEAD_BYTES):
        raise ValueError("not a frame: its length is wrong")
    head: _HeadT = _DECODERS[kind].decode(view[_LENGTH_BYTES:end])
    return bytes(view[:end]), head, view[end:]


def cut_bodies(body: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """The bytes of each item, one after the other.

    Raises:
        ValueError: the sizes do not add up to what is there.
    """
    if any(size < 0 for size in sizes) or sum(sizes) != len(body):
        raise ValueError("the sizes in the head do not fit the bytes behind it")
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return pieces
