"""What a consensus member is told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from services.consensus.peering.mesh import HANDSHAKE_LIMIT
from shared.roles import Role
from shared.settings import ClockList, ServiceSettings
from shared.units import GIB, MIB


class ConsensusSettings(ServiceSettings):
    """Settings of one member.

    Attributes:
        data_dir: log, term, vote and state machine of this member; belongs to it alone.
        clock_urls: the clock services.
        peer_port: where it listens for Raft messages, on `host`.
        peer_handshake_limit: connections to it whose caller has not proved yet that it is a member; one more ends the oldest.
        raft_heartbeat_interval_ms, election_timeout_*_ms: raftos' timing; the election timeout is drawn anew each time.
        proposal_deadline_s: how long a proposal or read may take here.
        checkpoint_entries: entries applied between two durable checkpoints of the state machine.
        log_keep_entries: entries that stay in the log below a checkpoint, so that a follower that was away needs no snapshot.
        slow_leader_ms: a leader hands over that a majority takes longer to answer, if another is far quicker; 0 for never.
        disk_reserve_bytes: with less than this free, the member hands over leadership and takes no new files.
        cursor_retention_s: how long a list can go on that is pinned to the index where it began; then its cursor gets 410.
        tombstone_retention_s: how long the version of a deleted key is known.
        gc_grace_s: for how long, at least, a version that was replaced or deleted still keeps its chunks.
        max_download_age_s: for how long a download keeps the chunks of a version that is replaced or deleted meanwhile. What
            a version refers to is kept for the longer of the two.
        condemned_retention_s: for how long it is known which chunks may be deleted, by the log's own clock: the longest upload.
        audit_retention_s, audit_limit_bytes: for how long rows of the audit trail are kept, by the log's own clock, and how many
            bytes of them; the leader's settings count. Export them before (docs/operations.md).
        bucket_limit: buckets that may exist in the cluster; the leader's setting counts.
        heartbeat_grace_s: silence after which a storage node counts as inactive.
        replica_count: of every chunk, the same variable as the gateways'; what metrics call missing is counted by it.
        heartbeat_interval_s: of the storage nodes, the same variable as theirs; one that is 1.5 intervals silent is suspect.
    """

    ROLE: ClassVar[Role] = Role.CONSENSUS

    port: int = Field(default=8201, ge=1, le=65535)
    peer_port: int = Field(default=8251, ge=1, le=65535)
    peer_handshake_limit: int = Field(default=HANDSHAKE_LIMIT, ge=8, le=10_000)
    data_dir: Path
    clock_urls: ClockList = Field(default_factory=list)
    raft_heartbeat_interval_ms: int = Field(default=100, ge=10, le=10_000)
    election_timeout_min_ms: int = Field(default=2000, ge=100, le=60_000)
    election_timeout_max_ms: int = Field(default=4000, ge=200, le=120_000)
    proposal_deadline_s: float = Field(default=5.0, gt=0, le=60)
    checkpoint_entries: int = Field(default=250, ge=1, le=1_000_000)
    log_keep_entries: int = Field(default=2_000, ge=0, le=10_000_000)
    slow_leader_ms: int = Field(default=500, ge=0, le=60_000)
    disk_reserve_bytes: int = Field(default=64 * MIB, ge=0)
    cursor_retention_s: int = Field(default=900, ge=1, le=86_400)
    tombstone_retention_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    gc_grace_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    max_download_age_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    condemned_retention_s: int = Field(default=7 * 86_400, ge=1, le=90 * 86_400)
    audit_retention_s: int = Field(default=7 * 86_400, ge=1, le=366 * 86_400)
    audit_limit_bytes: int = Field(default=GIB, ge=MIB, le=64 * GIB)
    bucket_limit: int = Field(default=10_000, ge=1, le=1_000_000)
    heartbeat_grace_s: float = Field(default=60.0, gt=0)
    heartbeat_interval_s: float = Field(default=30.0, gt=0)
    replica_count: int = Field(default=3, ge=1, le=16)

    @model_validator(mode="after")
    def _check_timing(self) -> Self:
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ValueError("TRIVET_ELECTION_TIMEOUT_MAX_MS must be more than TRIVET_ELECTION_TIMEOUT_MIN_MS")
        if self.election_timeout_min_ms < 3 * self.raft_heartbeat_interval_ms:
            raise ValueError(
                "TRIVET_ELECTION_TIMEOUT_MIN_MS must be at least three times TRIVET_RAFT_HEARTBEAT_INTERVAL_MS"
            )
        return self
