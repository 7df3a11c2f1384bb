"""A version of a file, what it refers to, and the conditions of a change. Parts of the contracts of the Raft log."""

from __future__ import annotations

from pydantic import Field

from shared.contracts.base import WireModel
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.time import Stamp


class FileContent(WireModel):
    """The bytes a version refers to: `chunk_digests` is the concatenation of raw 32-byte digests, in file order.

    Every chunk has `chunk_size_bytes` but the last, which has the rest. A file of zero bytes has no chunks.
    """

    size_bytes: int = Field(ge=0)
    chunk_size_bytes: int = Field(ge=1)
    chunk_digests: bytes
    digest: str

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self.chunk_digests) // DIGEST_BYTES

    def chunk(self, index: int) -> tuple[str, int]:
        """(hex digest, size in bytes) of one chunk. A list of all would be twenty times as large as the digests."""
        digest = self.chunk_digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES].hex()
        return digest, min(self.chunk_size_bytes, self.size_bytes - index * self.chunk_size_bytes)


class Durability(WireModel):
    """How many replicas of every chunk were fsynced when the receipt was made, and on which nodes.

    `acknowledged` is the minimum over the chunks; `nodes` lists every node that acknowledged one of them.
    """

    target: int
    acknowledged: int
    nodes: list[str]


class FileVersion(WireModel):
    """One published version of a file, as readers see it. `version` is its log index."""

    bucket: str
    key: str
    version: int
    term: int
    etag: str
    content: FileContent
    content_type: str
    user_metadata: dict[str, str]
    epoch: int
    durability: Durability
    stamp: Stamp
    modified_ns: int
    """Last-Modified source: the stamp's time in nanoseconds since the Unix epoch, made monotonic per key in whole seconds,
    which is all that an HTTP date can tell apart."""


class Preconditions(WireModel):
    """Checked in `apply`, at the instant the change would happen. Etags are strong, without quotes; `*` is any.

    `unmodified_since_s`: the file's Last-Modified, in whole Unix seconds, is not later. Without a file it holds.
    """

    if_match: list[str] | None = None
    if_none_match: list[str] | None = None
    unmodified_since_s: int | None = None
