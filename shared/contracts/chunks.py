"""What gateways and storage nodes say to each other about chunks.

Routes of a storage node (all signed, see `shared.peer_calls.request_signing`):

    PUT    /v1/chunks/{digest}   raw body; START_INDEX_QUERY; 201 stored, 200 already there; durable before the answer
    GET    /v1/chunks/{digest}   200 raw body, or 206 for one byte Range; the whole is verified on the way out;
                                 WITH_START_INDEX_QUERY
    HEAD   /v1/chunks/{digest}   200 with Content-Length; 404
    DELETE /v1/chunks/{digest}   204; 404
    POST   /v1/chunks/has        HasRequest -> HasResponse
    POST   /v1/chunks/confirm    ConfirmRequest -> ConfirmResponse: may I drop these, of which you are an expected holder?
    POST   /v1/chunks/batch      small puts, gets and has together: `shared.contracts.chunk_batches`
    GET    /v1/chunks            InventoryPage; `prefix`, `after`, `limit`: what is held, in order of digests
    GET    /v1/partitions        PartitionSums of all groups (see `shared.partitions`)
    GET    /v1/partitions/{group}  PartitionSums of the partitions of one group, two hex digits
    GET    /v1/status            NodeStatus
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from shared.contracts.base import WireModel
from shared.contracts.reconcile import ReconcileReport

START_INDEX_QUERY: Final = "start_index"
"""The log index that the upload read when it began (docs/promises.md, "The life of a chunk"). In the target,
because that is signed."""

WITH_START_INDEX_QUERY: Final = "with_start_index"
"""`true` asks a GET for `START_INDEX_HEADER`. Only when asked, because a body may be at hand while its record is not."""

START_INDEX_HEADER: Final = "x-trivet-start-index"
"""In the answer to a GET that asks for it: the largest start index that uploads recorded on the chunk, a decimal number. Who
pulls the chunk records at least that."""

PULL_HEADER: Final = "x-trivet-pull"
"""In a request about chunks by a node that repairs itself: no client waits for the answer, so it may wait behind those for which
one does. The value says nothing."""

FENCE_HEADER: Final = "x-trivet-fence"
"""In the answers about chunks: the fence of the node (`shared.contracts.cluster.HeartbeatResponse`), a decimal number. A publish
that counts an acknowledgement names the one that came with it."""

MAX_HAS_DIGESTS: Final = 10_000
MAX_PAGE_CHUNKS: Final = 1000
MAX_CONFIRM_CHUNKS: Final = 1000


class HasRequest(WireModel):
    """Which of these chunks do you hold?

    `start_index` is set by uploads only: the node then durably records max(start_index) on each chunk that it reports.
    `verify`: first read, past the page cache, those that are not verified, in the order given and up to a bound of the node
    (TRIVET_MAX_VERIFY_BYTES). One that is bad is quarantined, and is not reported.
    """

    digests: list[str] = Field(max_length=MAX_HAS_DIGESTS)
    start_index: int | None = Field(default=None, ge=0, lt=2**63)
    verify: bool = False


class HasResponse(WireModel):
    """The subset of the asked digests that this node holds durably, in the order asked.

    `verified`: those of `present` that this run of the node wrote, or read from the medium and found whole, within
    TRIVET_VERIFIED_MAX_AGE_S. Of the others it knows only that they were acknowledged once.
    """

    present: list[str]
    verified: list[str] = Field(default=[])


class SurplusChunk(WireModel):
    """A chunk that another node wants to drop, with the start index that is recorded there."""

    digest: str
    start_index: int = Field(ge=0, lt=2**63)


class ConfirmRequest(WireModel):
    """Which of these chunks are you an expected holder of in this epoch, hold, and have verified?

    The node first durably records max(start_index) on each that it confirms, and before that reads, past the page cache,
    those that are not verified, up to a bound of the node (TRIVET_MAX_VERIFY_BYTES).
    """

    epoch: int = Field(ge=0, lt=2**63)
    chunks: list[SurplusChunk] = Field(max_length=MAX_CONFIRM_CHUNKS)


class ConfirmResponse(WireModel):
    """The chunks that are confirmed, in the order asked. None unless `epoch`, the node's own, is the one that was asked for.

    `epoch` is None while the node does not know which chunks it should hold.
    """

    epoch: int | None
    confirmed: list[str]


class ChunkStored(WireModel):
    """Answer to a PUT: the chunk is durable in at least one tier of this node."""

    digest: str
    size_bytes: int
    tier: str
    created: bool


class HeldChunk(WireModel):
    """One chunk of an inventory. `start_index` is the largest that uploads recorded on it."""

    digest: str
    size_bytes: int
    start_index: int


class InventoryPage(WireModel):
    """Chunks in order of digests. `next_after` begins the next page; None on the last.

    A chunk that is held throughout is listed exactly once; one that comes or goes meanwhile may or may not be.
    """

    chunks: list[HeldChunk]
    next_after: str | None


class PartitionSum(WireModel):
    """The chunks whose digests begin with `prefix`, summed up. `checksum` has 64 hex digits."""

    prefix: str
    chunk_count: int
    used_bytes: int
    checksum: str = Field(pattern="^[0-9a-f]{64}$")


class PartitionSums(WireModel):
    """In order of prefixes, those that are empty left out. Holds all that was acknowledged before it was asked for."""

    partitions: list[PartitionSum]


class TierStatus(WireModel):
    """One tier of a node. What it does not know now is None, never 0: an operator may remove what is empty.

    `sole_chunk_count`: those of its chunks that no tier listed before it holds; the sum is what the node holds.
    `lost_chunk_count`: chunks of which no good replica is left here, and which are to be fetched from a peer; None where
    another tier knows it.
    """

    name: str
    is_available: bool
    chunk_count: int | None
    sole_chunk_count: int | None
    used_bytes: int | None
    capacity_bytes: int | None
    lost_chunk_count: int | None = None


class ScrubStatus(WireModel):
    """The background re-read. `progress` is the part of this pass that is done; the counts are since the start."""

    progress: float
    finished_passes: int
    read_chunks: int
    read_bytes: int
    bad_chunks: int


class RefetchStatus(WireModel):
    """Chunks that this node lost and takes from its peers: still lost, fetched and failed since the start."""

    lost_chunks: int | None
    fetched_chunks: int
    failed_attempts: int


class NodeStatus(WireModel):
    """A storage node about itself. `chunk_count` is over all tiers, and None while one of them does not know.

    `is_accepting_writes` is false while a typical chunk would be refused: durability cannot be promised, or there is no
    room. It is for operators: who writes hears 503 or 507 and turns to another node. Reads and deletes may go on.
    """

    node_id: str
    cluster_id: str
    mode: str
    is_accepting_writes: bool
    capacity_bytes: int | None
    used_bytes: int | None
    chunk_count: int | None
    tiers: list[TierStatus]
    scrub: ScrubStatus | None = None
    refetch: RefetchStatus | None = None
    reconcile: ReconcileReport | None = None
