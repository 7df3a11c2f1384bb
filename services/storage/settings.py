"""The settings of a storage node, checked together before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from shared.roles import Role
from shared.settings import ClockList, ConsensusList, ServiceSettings, read_secret
from shared.units import KIB, MIB


class StorageSettings(ServiceSettings):
    """Settings of one storage node.

    Attributes:
        data_dir: this node's own folder; also used in mode `redis`, for the identity.
        storage_mode: `tiered` (write-behind through Redis to disk), `disk`, or `redis` (Redis is the store of record).
        redis_url: `redis://host:port/0` or `unix:///path/of/the/socket`; needed by every mode but `disk`.
        redis_username: a user of the ACL of Redis; the default user when not set.
        redis_password: of the ACL user.
        redis_deadline_ms: for one call in mode `tiered`; a hung Redis costs a request no more than this.
        redis_record_deadline_ms: likewise in mode `redis`, where nothing else can answer in its place.
        redis_limit_bytes: how much of Redis the tiered mode fills with chunks; below the server's `maxmemory`.
        advertised_url: where gateways reach this node.
        zone: failure domain.
        capacity_bytes: what this node may hold; the whole file system when not set.
        full_percent: from here on writes are refused.
        slow_commit_ms: a disk whose commits take this long (median) is reported as slow.
        small_chunk_bytes: up to here chunks are packed in the catalog, and go through Redis in mode `tiered`.
        max_chunk_bytes: larger bodies are refused.
        typical_chunk_bytes: reserved for a read before its size is known.
        max_warm_files: chunk files kept open, so that what the page cache holds is read without a thread; 0 for none.
        verified_max_age_s: a replica counts for a repeated put without a read for this long after it was written or read.
        max_verified_chunks: of so many chunks those times are kept, 250 bytes each; the oldest are forgotten.
        max_verify_bytes: read at most for one query of a gateway that asks for verified replicas.
        max_inflight_bytes: chunk bodies in memory at once.
        write_behind_bytes: acknowledged by Redis and not yet on disk, kept in memory until they are, objects and all.
        flush_interval_s: how often the write-behind buffer goes to disk.
        scrub_period_s: the time in which every chunk on disk is read and checked once.
        scrub_max_bytes_per_s: the fastest that the scrub reads, whatever the period asks for.
        scrub_start_delay_s: the scrub begins when the node has run this long.
        refetch_interval_s: how often lost chunks are fetched from the peers.
        refetch_retry_base_s, refetch_retry_cap_s: the first and the longest wait for a lost chunk that no peer can give.
        refetch_max_bytes_per_s: how fast lost chunks are fetched.
        replica_count: how many nodes hold a chunk; the same as the gateways'.
        gc_grace_s: a chunk to which no file refers is reported for deletion when it is older than this by the log's age.
        reconcile_interval_s: how often the log is asked for changes of references; twelve times that is between two
            comparisons of all that is held with all that should be.
        reconcile_max_bytes_per_s: how fast missing chunks are fetched, and how fast a verify pass reads.
        ready_when_in_sync: /readyz of the operations port also waits until this node holds everything that it should, so that a
            rollout does not take the next node away before. Gateways ask the data port, and use the node meanwhile.
        consensus_urls, clock_urls: the other services.
        heartbeat_interval_s, heartbeat_retry_base_s: between heartbeats to consensus; the first wait after a failed one.
    """

    ROLE: ClassVar[Role] = Role.STORAGE

    data_dir: Path
    storage_mode: Literal["tiered", "disk", "redis"] = "tiered"
    redis_url: str | None = None
    redis_username: str | None = None
    redis_password: SecretStr | None = None
    redis_password_file: Path | None = None
    redis_deadline_ms: int = Field(default=50, ge=1)
    redis_record_deadline_ms: int = Field(default=500, ge=1)
    redis_limit_bytes: int = Field(default=384 * MIB, ge=MIB)
    advertised_url: str = Field(pattern=r"^https?://[^/]+$")
    zone: str = Field(default="default", min_length=1, max_length=64)
    capacity_bytes: int | None = Field(default=None, ge=MIB)
    full_percent: int = Field(default=95, ge=1, le=100)
    slow_commit_ms: int = Field(default=100, ge=1)
    small_chunk_bytes: int = Field(default=64 * KIB, ge=0, le=MIB)
    max_chunk_bytes: int = Field(default=8 * MIB, ge=KIB, le=64 * MIB)
    typical_chunk_bytes: int = Field(default=MIB, ge=KIB)
    max_warm_files: int = Field(default=256, ge=0, le=65_536)
    verified_max_age_s: float = Field(default=86_400.0, ge=0)
    max_verified_chunks: int = Field(default=100_000, ge=1)
    max_verify_bytes: int = Field(default=32 * MIB, ge=KIB)
    max_inflight_bytes: int = Field(default=32 * MIB, ge=MIB)
    write_behind_bytes: int = Field(default=16 * MIB, ge=KIB)
    flush_interval_s: float = Field(default=1.0, gt=0)
    scrub_period_s: float = Field(default=7 * 86_400.0, gt=0)
    scrub_max_bytes_per_s: int = Field(default=20 * MIB, ge=KIB)
    scrub_start_delay_s: float = Field(default=60.0, ge=0)
    refetch_interval_s: float = Field(default=5.0, gt=0)
    refetch_retry_base_s: float = Field(default=5.0, gt=0)
    refetch_retry_cap_s: float = Field(default=300.0, gt=0)
    refetch_max_bytes_per_s: int = Field(default=20 * MIB, ge=KIB)
    replica_count: int = Field(default=3, ge=1, le=16)
    gc_grace_s: int = Field(default=86_400, ge=1)
    reconcile_interval_s: float = Field(default=5.0, gt=0)
    reconcile_max_bytes_per_s: int = Field(default=64 * MIB, ge=KIB)
    ready_when_in_sync: bool = False
    consensus_urls: ConsensusList = Field(min_length=1)
    clock_urls: ClockList = Field(default=[])
    heartbeat_interval_s: float = Field(default=30.0, gt=0)
    heartbeat_retry_base_s: float = Field(default=5.0, gt=0)

    @model_validator(mode="after")
    def _check_storage(self) -> Self:
        if self.storage_mode != "disk" and self.redis_url is None:
            raise ValueError(f"TRIVET_STORAGE_MODE={self.storage_mode} needs TRIVET_REDIS_URL")
        if self.max_chunk_bytes > self.max_inflight_bytes:
            raise ValueError(
                f"TRIVET_MAX_CHUNK_BYTES={self.max_chunk_bytes} is more than "
                f"TRIVET_MAX_INFLIGHT_BYTES={self.max_inflight_bytes}: the largest chunk could never be received"
            )
        self.redis_secret()
        return self

    def redis_secret(self) -> str | None:
        """The password of Redis. Raises ValueError when its file cannot be read."""
        return read_secret(self.redis_password, self.redis_password_file, "TRIVET_REDIS_PASSWORD")
