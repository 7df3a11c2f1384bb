"""What the chunk store needs from a tier, and the values that cross between them.

The Protocol stands here, with its consumer, so that a tier can be replaced by a fake; tests/contract/storage holds every
implementation to the same sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import TrivetError
from shared.partitions import SetSum

Body = bytes | bytearray | memoryview
"""The bytes of a chunk. Nobody changes them once they were checked; what is not `bytes` spares a copy, no more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The bytes of one chunk as they came off the socket.

    Invariant: the pieces, joined, hash to `digest` (64 hex digits, BLAKE3-256); the maker of a Chunk has checked it.

    Attributes:
        blocks: a buffer that begins at a page and with the bytes of the chunk, and is long enough for whole blocks of a disk;
            None when the pieces lie elsewhere. Its owner may use it again once the call that was given the chunk returned.
    """

    digest: str
    size_bytes: int
    pieces: tuple[bytes | memoryview, ...]
    blocks: memoryview | None = None

    def body(self) -> bytes:
        """All bytes in one object; copies them unless they arrived in one piece. Meant for small chunks."""
        only = self.pieces[0] if len(self.pieces) == 1 else None
        return only if isinstance(only, bytes) else b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """Where a chunk became durable, and whether this put brought it or found it there."""

    tier: str
    created: bool


@dataclass(frozen=True, slots=True)
class ChunkPut:
    """A chunk to be stored with max(`start_index`)."""

    chunk: Chunk
    start_index: int


@dataclass(frozen=True, slots=True)
class LostChunk:
    """A chunk that was acknowledged here and of which no good replica is left here; to be fetched from a peer."""

    digest: str
    start_index: int


@dataclass(frozen=True, slots=True)
class ConditionalDelete:
    """A chunk to be deleted if `condition` is true of the start index that is recorded on it at that moment.

    `condition` is called in the step that deletes, maybe by another thread and maybe again: it is quick and never raises.
    """

    digest: str
    condition: Callable[[int], bool]


class HolderView(Protocol):
    """What this node knows of placement, at one moment."""

    @property
    def epoch(self) -> int | None:
        """Of the node map that `is_expected` goes by; None while none was read."""

    def is_expected(self, digest: bytes) -> bool:
        """Whether this node is an expected holder of the raw `digest`, by the node map of `epoch`. Asked by the thousand."""


class Tier(Protocol):
    """Keeps chunks durably and hands out whole ones only.

    A tier checks digests itself, because it alone knows whether it has a second copy to fall back on.
    """

    @property
    def name(self) -> str:
        """As in `STORAGE_MODE`."""

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        """Store `chunk` and record max(`start_index`) on it; both are durable when this returns. Idempotent.

        A replica that is held already counts only if it is verified; otherwise it is verified now, or replaced by `chunk`.

        Raises:
            DiskFullError: there is no room; definite.
            UnavailableError: durability cannot be promised now; `definite` says whether it may have happened.
        """

    async def get(self, digest: str) -> Body:
        """The whole chunk, checked against `digest` after the last copy.

        Raises:
            ChunkNotFoundError: not held here.
            ChunkCorruptError: held, but no good replica of it is left here; it is quarantined, no longer held, and lost.
            UnavailableError: the medium does not answer.
        """

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        """As `put` of each, together: one transaction and one fsync for all small ones. The digests are different.

        Args:
            yields: no request waits for these, so they wait for those that one does.

        Raises what concerns all of them; what concerns one stands in its place.
        """

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """As `get` of each, together: one question for all small ones. One above `max_bytes` is not read.

        Raises what concerns all of them. What concerns one stands in its place: what `get` raises, and
        PayloadTooLargeError.
        """

    def is_verified(self, digest: str) -> bool:
        """Whether this process wrote the replica, or read it from the medium, within the setting `verified_max_age_s`."""

    async def verify(self, digest: str) -> int:
        """Read the replica from the medium, or write it anew, so that it is verified; its length in bytes.

        Raises what `get` and `put` raise.
        """

    async def get_size_bytes(self, digest: str) -> int:
        """Length of the chunk, from the records; its bytes are not read.

        Raises:
            ChunkNotFoundError: not held here.
            UnavailableError: the medium does not answer.
        """

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """Those of `digests` that are held durably; with `start_index`, max(`start_index`) is durable on each of them.

        Raises:
            DiskFullError: there is no room to write the start index down; definite.
            UnavailableError: the medium does not answer, does not take the start index, or cannot tell of one of
                `digests` whether it is held.
        """

    async def record_start_indexes(self, start_indexes: Mapping[str, int]) -> set[str]:
        """As `has`, each with a start index of its own: those that are held, on which max(start index) is durable now.

        Raises what `has` raises.
        """

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """The start indexes that are recorded on those of `digests` that are held.

        Raises:
            UnavailableError: the medium does not answer, or cannot tell of one of `digests` whether it is held.
        """

    async def delete(self, digest: str) -> bool:
        """Forget a chunk durably, a lost one too; False when it was not held.

        Raises:
            DiskFullError: not even the deletion can be written down, because others took the reserve; definite.
            UnavailableError: durability cannot be promised now; not definite once it was tried.
        """

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """Forget durably those of `candidates` that are held, or lost, and whose condition is true; which they were.

        The condition is evaluated in the step that deletes. So a start index that was acknowledged before it was seen by the
        condition, and one that is acknowledged later belongs to a chunk that is stored again. Many are deleted in one
        transaction, but not all: after an error some may be gone. One is left for a later call while it is not sure that it
        would stay deleted, or while its record is damaged. The digests are different.

        Raises what `delete` raises.
        """

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """Up to `limit` chunks in order of digests: those that begin with the hex digits `prefix` and come after `after`.

        A chunk that is held throughout a walk over all pages is listed exactly once. Both arguments may be empty.

        Raises:
            UnavailableError: the medium does not answer.
        """

    async def sums(self, group: int | None) -> list[SetSum]:
        """The sums of all groups, or of the partitions of one group, in order (see `shared.partitions`).

        They hold everything that was acknowledged before the call.

        Raises:
            UnavailableError: the medium does not answer.
        """

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        """Up to `limit` lost chunks in order of digests, those after `after`. The list survives restarts.

        What the tier can put back from a copy of its own is put back first, and is not lost.

        Raises:
            UnavailableError: the medium does not answer.
        """

    async def restore(self, chunk: Chunk) -> bool:
        """Store `chunk` durably if it is lost, with the start index that it had; False when it is not lost any more.

        A chunk that was deleted meanwhile is so not brought back. Raises what `put` raises.
        """

    async def statuses(self) -> list[TierStatus]:
        """Counts of this tier and of those below it."""

    def reasons_against_writes(self) -> list[str]:
        """Why puts are refused now, in words for /readyz; empty when they are not."""

    def shortage(self) -> str | None:
        """Why a typical chunk finds no room, as far as is known without asking; None when it does. Reads and deletes go on."""

    def degradations(self) -> list[str]:
        """What is degraded while all promises are kept, in words for /readyz."""
