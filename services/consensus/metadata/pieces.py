"""Pieces of chunk lists: what the content of a file made of parts consists of. Pure; rows come in as values.

A piece is a range of bytes of a manifest. It carries the digest of the manifest's chunk list, so that content ids need no
manifest, and its chunk size, so that it can be counted in chunks without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgpack

from shared.contracts.etags import content_id_of_pieces
from shared.contracts.files import FileContent
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.uploads import PieceExtent

_NUMBERS: Final = 4


class Piece(NamedTuple):
    """Bytes of a manifest. `digest`: of its chunk list (`shared.contracts.etags.list_digest`)."""

    manifest: int
    skip_bytes: int
    take_bytes: int
    chunk_size_bytes: int
    digest: bytes

    @property
    def chunk_count(self) -> int:
        """How many chunks of the manifest it lies in."""
        if self.take_bytes == 0:
            return 0
        size_bytes = self.chunk_size_bytes
        return (self.skip_bytes + self.take_bytes - 1) // size_bytes - self.skip_bytes // size_bytes + 1


class ChunkList(NamedTuple):
    """Chunks in order, each of `chunk_size_bytes` but the last, which has the rest of `size_bytes`."""

    size_bytes: int
    chunk_size_bytes: int
    chunk_digests: bytes


def pack_pieces(pieces: Sequence[Piece]) -> tuple[list[int], bytes]:
    """Two values that msgpack stores compactly: the numbers of all pieces, and their digests."""
    return [number for piece in pieces for number in piece[:_NUMBERS]], b"".join(piece.digest for piece in pieces)


def unpack_pieces(numbers: Sequence[int], digests: bytes) -> list[Piece]:
    """The inverse of `pack_pieces`."""
    each = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
    return list(map(Piece, numbers[::4], numbers[1::4], numbers[2::4], numbers[3::4], each))


def encode_pieces(pieces: Sequence[Piece]) -> bytes:
    """The body of a composition."""
    packed: bytes = msgpack.packb(pack_pieces(pieces))
    return packed


def decode_pieces(body: bytes) -> list[Piece]:
    """The inverse of `encode_pieces`."""
    numbers, digests = msgpack.unpackb(body)
    return unpack_pieces(numbers, digests)


def content_id(pieces: Iterable[Piece]) -> str:
    """What the content is known by where no request carried all of its bytes."""
    return content_id_of_pieces((piece.digest, piece.skip_bytes, piece.take_bytes) for piece in pieces)


def cut_pieces(pieces: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    """The pieces of the bytes from `start` to `stop`, the latter excluded."""
    found: list[Piece] = []
    offset = 0
    for piece in pieces:
        first, last = max(start, offset), min(stop, offset + piece.take_bytes)
        if first < last:
            skip_bytes = piece.skip_bytes + first - offset
            found.append(piece._replace(skip_bytes=skip_bytes, take_bytes=last - first))
        offset += piece.take_bytes
        if offset >= stop:
            break
    return found


def covering(content: FileContent, start: int, stop: int) -> tuple[ChunkList, int]:
    """The chunks of a list that the bytes from `start` to `stop` lie in, and the bytes to skip of the first of them."""
    full = content.chunk_size_bytes
    if start >= stop:
        return ChunkList(0, full, b""), 0
    first, end = start // full, (stop - 1) // full + 1
    digests = content.chunk_digests[first * DIGEST_BYTES : end * DIGEST_BYTES]
    return ChunkList(min(content.size_bytes, end * full) - first * full, full, digests), start - first * full


def extent_of(chunks: ChunkList, offset_bytes: int, skip_bytes: int, take_bytes: int, limit_chunks: int) -> PieceExtent:
    """What stands at `offset_bytes` of a file: some bytes of a chunk list, `limit_chunks` chunks of it at most."""
    full = chunks.chunk_size_bytes
    first = skip_bytes // full
    stop = min(skip_bytes + take_bytes, (first + limit_chunks) * full)
    end = (stop - 1) // full + 1
    return PieceExtent(
        offset_bytes=offset_bytes,
        size_bytes=stop - skip_bytes,
        skip_bytes=skip_bytes - first * full,
        chunk_size_bytes=full,
        chunk_digests=chunks.chunk_digests[first * DIGEST_BYTES : end * DIGEST_BYTES],
        last_chunk_bytes=min(chunks.size_bytes, end * full) - (end - 1) * full,
    )
