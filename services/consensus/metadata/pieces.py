"""Pieces of chunk lists: what the content of a file made of parts consists of. Pure; rows come in as values.

A piece is a range of bytes of a manifest. It carries the digest of the manifest's chunk list, so that content ids need no
manifest, and its chunk size, so that it can be counted in chunks without one. Many of them are kept as bytes: joining ten
thousand parts joins bytes and looks at no piece.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple, Self

import msgpack

from shared.contracts.etags import content_id_of_identities, piece_identity
from shared.contracts.files import FileContent
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.uploads import PieceExtent

_IDENTITY: Final = struct.Struct(">32sQQ")
"""Of `piece_identity`: digest, bytes skipped, bytes taken."""

_PLACE: Final = struct.Struct(">QQ")
"""Manifest and chunk size."""

IDENTITY_BYTES: Final = _IDENTITY.size
PLACE_BYTES: Final = _PLACE.size


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


@dataclass(frozen=True, slots=True)
class PieceList:
    """Pieces in the order of a file, as bytes: the identity and the place of each."""

    identities: bytes
    places: bytes

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Self:
        """The list of these."""
        each = list(pieces)
        return cls(
            b"".join(piece_identity(piece.digest, piece.skip_bytes, piece.take_bytes) for piece in each),
            b"".join(_PLACE.pack(piece.manifest, piece.chunk_size_bytes) for piece in each),
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The inverse of `encode`."""
        return cls(*msgpack.unpackb(body))

    def encode(self) -> bytes:
        """The body of a composition."""
        packed: bytes = msgpack.packb((self.identities, self.places))
        return packed

    def __len__(self) -> int:
        return len(self.places) // _PLACE.size

    @property
    def content_id(self) -> str:
        """What the content is known by where no request carried all of its bytes."""
        return content_id_of_identities(self.identities)

    @property
    def chunk_size_bytes(self) -> int | None:
        """Of the first piece; None without one."""
        return int(_PLACE.unpack_from(self.places)[1]) if self.places else None

    def offsets(self) -> list[int]:
        """Where each piece begins in the file, and the file's size at the end."""
        return list(accumulate((take_bytes for _, _, take_bytes in _IDENTITY.iter_unpack(self.identities)), initial=0))

    def manifests(self) -> set[int]:
        """All that the pieces lie in."""
        return {manifest for manifest, _ in _PLACE.iter_unpack(self.places)}

    def between(self, first: int, end: int) -> list[Piece]:
        """The pieces from one position to another, the latter excluded."""
        identities = _IDENTITY.iter_unpack(self.identities[first * _IDENTITY.size : end * _IDENTITY.size])
        places = _PLACE.iter_unpack(self.places[first * _PLACE.size : end * _PLACE.size])
        return [
            Piece(manifest, skip_bytes, take_bytes, chunk_size_bytes, digest)
            for (digest, skip_bytes, take_bytes), (manifest, chunk_size_bytes) in zip(identities, places, strict=True)
        ]

    def cut(self, start: int, stop: int) -> list[Piece]:
        """The pieces of the bytes from `start` to `stop`, the latter excluded."""
        if start >= stop:
            return []
        offsets = self.offsets()
        first, end = bisect_right(offsets, start) - 1, bisect_left(offsets, stop)
        return [
            piece._replace(
                skip_bytes=piece.skip_bytes + max(start - offset, 0),
                take_bytes=min(stop, offset + piece.take_bytes) - max(start, offset),
            )
            for offset, piece in zip(offsets[first:end], self.between(first, end), strict=True)
            if piece.take_bytes
        ]


class ChunkList(NamedTuple):
    """Chunks in order, each of `chunk_size_bytes` but the last, which has the rest of `size_bytes`."""

    size_bytes: int
    chunk_size_bytes: int
    chunk_digests: bytes


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
