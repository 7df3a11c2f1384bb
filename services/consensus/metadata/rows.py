"""The rows of the tables as values, and the bytes of a version's body and of a request's outcome.

Stored bytes outlive the process that wrote them, so each form begins with its version. A body also begins with a checksum:
SQLite notices torn writes, not a disk that returns other bytes than it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgpack
from blake3 import blake3

from shared.contracts.cluster import NodeState, StorageNode
from shared.contracts.metadata import Durability, FileContent, FileVersion
from shared.contracts.time import ClockState, Stamp

BODY_VERSION: Final = 1
_CHECKSUM_BYTES: Final = 8


class RowDamagedError(Exception):
    """A stored row does not fit its checksum: this member's state must be rebuilt. Never crosses the wire."""


@dataclass(frozen=True, slots=True)
class State:
    """What the state machine knows besides its rows.

    Attributes:
        highest_hlc: of every stamp applied; the next one is greater.
        horizon: the index below which deletions are forgotten and lists cannot be pinned.
    """

    last_applied: int
    last_term: int
    cluster_id: str | None
    epoch: int
    highest_hlc: int
    horizon: int


@dataclass(frozen=True, slots=True)
class BucketRow:
    """A bucket that exists."""

    name: str
    incarnation: int
    created_ns: int


@dataclass(frozen=True, slots=True)
class FileRow:
    """What a list shows of one version of a file."""

    key: bytes
    version: int
    size_bytes: int
    etag: str
    content_type: str
    modified_ns: int


@dataclass(frozen=True, slots=True)
class TombstoneRow:
    """The last trace of a key that is absent: when it was deleted and what its Last-Modified was."""

    deleted_index: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A storage node. `admitted_epoch` is the first epoch of its present admission."""

    node_id: str
    url: str
    zone: str
    state: NodeState
    capacity_bytes: int
    admitted_epoch: int

    def to_wire(self) -> StorageNode:
        """As the node map shows it; what is used is known to the leader from heartbeats, not to the log."""
        return StorageNode(
            id=self.node_id, url=self.url, zone=self.zone, state=self.state, capacity_bytes=self.capacity_bytes
        )


@dataclass(frozen=True, slots=True)
class RequestRow:
    """The stored result of a proposal. `outcome` is what `commands` made of it."""

    log_index: int
    term: int
    outcome: bytes


def encode_version(version: FileVersion) -> bytes:
    """The body of a row of `versions`: checksum, form, then the fields by position (names would double a small row)."""
    content, durability, stamp = version.content, version.durability, version.stamp
    packed: bytes = msgpack.packb(
        (
            version.bucket,
            version.key,
            version.version,
            version.term,
            version.etag,
            (content.size_bytes, content.chunk_size_bytes, content.chunk_digests, bytes.fromhex(content.digest)),
            version.content_type,
            version.user_metadata,
            version.epoch,
            (durability.target, durability.acknowledged, durability.nodes),
            (stamp.earliest_ns, stamp.latest_ns, stamp.hlc, stamp.state.value),
            version.modified_ns,
        )
    )
    body = bytes((BODY_VERSION,)) + packed
    return _checksum(body) + body


def decode_version(stored: bytes) -> FileVersion:
    """The inverse of `encode_version`.

    Raises:
        RowDamagedError: the bytes are not those that were written.
    """
    body = stored[_CHECKSUM_BYTES:]
    if _checksum(body) != stored[:_CHECKSUM_BYTES] or body[0] != BODY_VERSION:
        raise RowDamagedError("a row of the table `versions` is damaged")
    fields: Any = msgpack.unpackb(memoryview(body)[1:])
    size_bytes, chunk_size_bytes, chunk_digests, digest = fields[5]
    target, acknowledged, nodes = fields[9]
    earliest_ns, latest_ns, hlc, state = fields[10]
    return FileVersion(
        bucket=fields[0],
        key=fields[1],
        version=fields[2],
        term=fields[3],
        etag=fields[4],
        content=FileContent(
            size_bytes=size_bytes,
            chunk_size_bytes=chunk_size_bytes,
            chunk_digests=chunk_digests,
            digest=digest.hex(),
        ),
        content_type=fields[6],
        user_metadata=fields[7],
        epoch=fields[8],
        durability=Durability(target=target, acknowledged=acknowledged, nodes=nodes),
        stamp=Stamp(earliest_ns=earliest_ns, latest_ns=latest_ns, hlc=hlc, state=ClockState(state)),
        modified_ns=fields[11],
    )


def _checksum(body: bytes) -> bytes:
    return blake3(body).digest(_CHECKSUM_BYTES)
