"""What gateways and storage nodes say to each other about chunks.

Routes of a storage node (all signed, see `shared.request_signing`):

    PUT    /v1/chunks/{digest}   raw body; START_INDEX_HEADER; 201 stored, 200 already there; durable before the answer
    GET    /v1/chunks/{digest}   200 raw body, or 206 for one byte Range; the whole is verified on the way out
    HEAD   /v1/chunks/{digest}   200 with Content-Length; 404
    DELETE /v1/chunks/{digest}   204; 404
    POST   /v1/chunks/has        HasRequest -> HasResponse
    GET    /v1/status            NodeStatus
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from shared.contracts.base import WireModel

START_INDEX_HEADER: Final = "X-Trivet-Start-Index"
"""The log index that the upload read when it began (DESIGN.md section 4, Garbage)."""

MAX_HAS_DIGESTS: Final = 10_000


class HasRequest(WireModel):
    """Which of these chunks do you hold?

    `start_index` is set by uploads only: the node then durably records max(start_index) on each chunk that it reports.
    """

    digests: list[str] = Field(max_length=MAX_HAS_DIGESTS)
    start_index: int | None = Field(default=None, ge=0, lt=2**63)


class HasResponse(WireModel):
    """The subset of the asked digests that this node holds durably, in the order asked."""

    present: list[str]


class ChunkStored(WireModel):
    """Answer to a PUT: the chunk is durable in at least one tier of this node."""

    digest: str
    size_bytes: int
    tier: str
    created: bool


class TierStatus(WireModel):
    """One tier of a node. What it does not know now is None, never 0: an operator may remove what is empty.

    `sole_chunk_count`: those of its chunks that no tier listed before it holds; the sum is what the node holds.
    """

    name: str
    is_available: bool
    chunk_count: int | None
    sole_chunk_count: int | None
    used_bytes: int | None
    capacity_bytes: int | None


class NodeStatus(WireModel):
    """A storage node about itself. `chunk_count` is over all tiers, and None while one of them does not know."""

    node_id: str
    cluster_id: str
    mode: str
    is_accepting_writes: bool
    capacity_bytes: int
    used_bytes: int | None
    chunk_count: int | None
    tiers: list[TierStatus]
