"""A version of a file, what it refers to, and the conditions of a change. Parts of the contracts of the Raft log."""

from __future__ import annotations

from pydantic import Field

from shared.contracts.base import WireModel
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import Stamp


class FileContent(WireModel):
    """The bytes a version refers to: `chunk_digests` is the concatenation of raw 32-byte digests, in file order.

    Every chunk has `chunk_size_bytes` but the last, which has the rest. A file of zero bytes has no chunks. Content that is
    composed of parts has no list of its own, and an answer may leave out a long one: `ListPieces` reads both.

    Attributes:
        digest: BLAKE3-256 of all bytes, where one request carried them.
        composition: the number of the pieces that the content is composed of; None where it is a list of its own.
        composed_chunks: how many chunks the pieces of a composition lie in.
    """

    size_bytes: int = Field(ge=0)
    chunk_size_bytes: int = Field(ge=1)
    chunk_digests: bytes
    digest: str | None
    composition: int | None = None
    composed_chunks: int | None = None

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return -(-self.size_bytes // self.chunk_size_bytes) if self.composed_chunks is None else self.composed_chunks

    @property
    def has_chunk_list(self) -> bool:
        """Whether `chunk_digests` has all chunks; otherwise `ListPieces` has them."""
        return self.composition is None and len(self.chunk_digests) == self.chunk_count * DIGEST_BYTES

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
    """One published version of a file, as readers see it. `version` is its log index.

    Attributes:
        version_id: the version that clients know it by, where that is another one: its content was current before.
        is_null: it is the null version of its key, as S3 calls what was written while its bucket kept no versions.
        created_ns: when the key came into being, kept as long as it is replaced; None if that was not recorded.
        content_id: of content that is composed; `shared.contracts.etags.content_id_of` says it of all.
        patch_index: of the entry that last changed `tags`; 0 for none.
        owner: the identity whose usage it counts in (`shared.contracts.usage`); None of nobody's.
        s3: what only S3 shows of it; None of what was put by `/v1`.
    """

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
    version_id: int | None = None
    is_null: bool = True
    created_ns: int | None = None
    content_id: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    patch_index: int = 0
    owner: str | None = None
    s3: S3Attributes | None = None

    @property
    def stored_ns(self) -> int:
        """Last-Modified as S3 has it: the stamp's time, which two versions may share and which is never ahead of the clock."""
        return self.stamp.approximate_ns


class Published(WireModel):
    """The version that is visible now; `created` when there was no file under its key before."""

    created: bool
    version: FileVersion


class Preconditions(WireModel):
    """Checked in `apply`, at the instant the change would happen. Etags are strong, without quotes; `*` is any.

    A version is known by its own etag and by that which S3 shows of it (`shared.contracts.s3.shown_etag`).

    Attributes:
        unmodified_since_s: the file's Last-Modified, in whole Unix seconds, is not later. Without a file it holds.
        size_bytes: the file has exactly that size.
        stored_s: Last-Modified as S3 has it (`FileVersion.stored_ns`) is exactly that, in whole Unix seconds.
    """

    if_match: list[str] | None = None
    if_none_match: list[str] | None = None
    unmodified_since_s: int | None = None
    size_bytes: int | None = None
    stored_s: int | None = None
