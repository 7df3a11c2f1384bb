"""What a gateway is told, checked together before it opens a port.

The limits depend on each other: budgets that could deadlock, or files whose list of digests would not fit into one log
entry, are refused at start and not found out under load.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, IPvAnyNetwork, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.gateway.origin_rules import LOOPBACK_NAMES, OriginRules, bare_host, normal_origin
from shared.access_keys import PlainKey
from shared.contracts.access import IdentityLimits
from shared.contracts.uploads import FILE_BYTES_MAX
from shared.roles import Role
from shared.settings import ClockList, ConsensusList, QuorumSettings, ServiceSettings, read_secret
from shared.units import KIB, MIB

FIRST_RESERVATION_BYTES: Final = 64 * KIB
"""What a request reserves for the first bytes of a chunk; the rest follows once they have come."""

MAX_CHUNKS_PER_LOG_ENTRY: Final = 30_000
"""32 bytes each: a version must fit into one log entry of 1 MiB (docs/consensus.md, "Limits")."""

MIN_SEALING_KEY_CHARACTERS: Final = 43
"""What 32 bytes take in base64, the densest way in which people write them."""


_DOMAIN: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*")
_ADDRESS: Final = re.compile(r"[0-9.]+")


def _parse_hosts(value: object) -> object:
    return _parse_list(value, bare_host, "a host name or address without a port")


def _parse_origins(value: object) -> object:
    return _parse_list(value, normal_origin, "an origin such as https://app.example.org")


def _parse_domains(value: object) -> object:
    return _parse_list(value, _domain, "a domain name such as s3.example.org")


def _domain(text: str) -> str | None:
    name = bare_host(text)
    # Whatever is before the first dot of an address or of a single label is no bucket.
    return name if name is not None and _DOMAIN.fullmatch(name) and not _ADDRESS.fullmatch(name) else None


def _parse_list(value: object, normal: Callable[[str], str | None], kind: str) -> object:
    if not isinstance(value, str):
        return value
    parsed = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        if (entry := normal(part)) is None:
            raise ValueError(f"{part!r} is not {kind}")
        parsed.append(entry)
    return parsed


def _parse_networks(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


NetworkList = Annotated[list[IPvAnyNetwork], NoDecode, BeforeValidator(_parse_networks)]
Anonymous = Literal["none", "read", "write"]
"""What requests without a credential may do."""

HostList = Annotated[list[str], NoDecode, BeforeValidator(_parse_hosts)]
OriginList = Annotated[list[str], NoDecode, BeforeValidator(_parse_origins)]
DomainList = Annotated[list[str], NoDecode, BeforeValidator(_parse_domains)]
"""Comma-separated settings."""


class GatewaySettings(ServiceSettings, QuorumSettings):
    """Everything a gateway can be told.

    Attributes:
        consensus_urls, clock_urls: the other services.
        public_hosts: the names and addresses, without port, under which clients reach this gateway; any other in a Host
            header is 421. Empty: the loopback names and `host`. The address to which a connection came is always taken.
        cors_origins: origins such as `https://app.example.org` whose pages may read and change files from a browser.
        sealing_key_file: a file with one or two lines of at least 32 random bytes, written as text, which only gateways have,
            all the same: secrets of access keys are sealed under it. The first line seals, both unseal, so that it can be
            replaced. A gateway without one refuses to start.
        audit_reads: which requests that change nothing are written as lines on standard output: those that were refused, all of
            them, or none. Changes stand in the audit trail. A read is a line of about 400 bytes, so only refusals by default.
        trusted_proxies: addresses and networks, such as `10.0.0.0/8`, of proxies that end TLS: a key is taken from them where
            X-Forwarded-Proto says https.
        allow_plain_bearer: take keys from everywhere, also without TLS: the network is private. Readiness says that it is so.
        anonymous: what requests without a credential may do: nothing, read and list files, or change them as well. From this
            machine only, and not through a proxy.
        anonymous_anywhere: from everywhere.
        root_key_file: a file with an access key, `TV….secret` on one line. It becomes the first root key of a cluster that has
            none; afterwards it counts no more.
        anonymous_requests_per_s, anonymous_bytes_per_s: at this gateway, of each address that sends no credential; none: no
            limit. Those of an identity are its own (`limits`).
        s3_port: where S3 is spoken, on `host`; 0: nowhere.
        s3_domains: names such as `s3.example.org`: a Host that is `<bucket>.s3.example.org` names the bucket. Empty: the path
            names it, whatever the Host says.
        s3_region: the one that this cluster is in, as clients of S3 are told.
        s3_strict_region: refuse signatures made for another region.
        strict_reads: serve only what `read_quorum` replicas confirm, also when a request does not ask for it.
        chunk_size_bytes: how files are cut; readers take it from each version, so it can be changed.
        max_inflight_bytes: chunk bytes held at one time, over all requests.
        max_file_bytes: the longest file.
        max_concurrent_requests: file transfers, HEADs included, at one time; more are answered 503 at once.
        upload_window_chunks, read_ahead_chunks: parallelism of one transfer.
        max_parallel_chunks: chunks on their way to replicas at one time, over all requests.
        chunk_cache_bytes: what the cache of small chunks that were read may take, beside `max_inflight_bytes`; 0: none.
        record_cache_bytes: what the cache of files' records may take; 0: none.
        slow_client_bytes_per_s: a transfer whose client is slower may end while others wait for a slot or bytes.
        admission_wait_s: how long a new transfer may wait for its first budget.
        budget_wait_s: how long a transfer under way may wait for its next.
        gc_grace_s: for how long chunks are kept that nothing refers to; the same as the consensus members'. A body that takes
            half as long is logged in parts.
        max_download_age_s: a download that takes longer is broken off; the same as the consensus members', which keep chunks
            of replaced files for so long.
        replica_timeout_s: how long a replica may take for one chunk before the attempt is given up.
        consensus_deadline_s: how long metadata may take.
        start_index_max_age_s: a small upload without conditions begins with what the last linearizable read of this gateway
            said, if that is younger; 0: every upload reads first.
        confirmation_max_age_s: for how long a GET counts a replica that its node confirmed, instead of asking again; 0: not
            at all.
        reconnect_base_s, reconnect_limit_s: backoff of the probes of a node that failed.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVET_", extra="ignore", frozen=True)

    ROLE: ClassVar[Role] = Role.GATEWAY
    OPERATIONS_DISTANCE: ClassVar[int] = 10

    port: int = Field(default=8080, ge=1, le=65535)
    consensus_urls: ConsensusList = Field(min_length=1)
    clock_urls: ClockList = Field(default_factory=list)
    public_hosts: HostList = Field(default_factory=list)
    cors_origins: OriginList = Field(default_factory=list)
    sealing_key_file: Path | None = None
    audit_reads: Literal["denied", "all", "none"] = "denied"
    trusted_proxies: NetworkList = Field(default_factory=list)
    allow_plain_bearer: bool = False
    anonymous: Anonymous = "none"
    anonymous_anywhere: bool = False
    root_key_file: Path | None = None
    anonymous_requests_per_s: int | None = Field(default=None, ge=1, le=10**6)
    anonymous_bytes_per_s: int | None = Field(default=None, ge=KIB, lt=2**53)
    s3_port: int = Field(default=9000, ge=0, le=65535)
    s3_domains: DomainList = Field(default_factory=list)
    s3_region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]{1,64}$")
    s3_strict_region: bool = False
    strict_reads: bool = False

    chunk_size_bytes: int = Field(default=MIB, ge=4 * KIB, le=4 * MIB)
    max_inflight_bytes: int = Field(default=64 * MIB, ge=MIB)
    max_file_bytes: int = Field(default=FILE_BYTES_MAX, ge=1, le=FILE_BYTES_MAX)
    max_concurrent_requests: int = Field(default=256, ge=1)
    upload_window_chunks: int = Field(default=8, ge=1, le=64)
    read_ahead_chunks: int = Field(default=4, ge=1, le=64)
    max_parallel_chunks: int = Field(default=16, ge=1, le=256)

    chunk_cache_bytes: int = Field(default=32 * MIB, ge=0)
    record_cache_bytes: int = Field(default=16 * MIB, ge=0)
    slow_client_bytes_per_s: int = Field(default=64 * KIB, ge=0)
    admission_wait_s: float = Field(default=1.0, ge=0)
    budget_wait_s: float = Field(default=10.0, gt=0)
    gc_grace_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    max_download_age_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    replica_timeout_s: float = Field(default=4.0, gt=0)
    consensus_deadline_s: float = Field(default=5.0, gt=0)
    start_index_max_age_s: float = Field(default=5.0, ge=0)
    confirmation_max_age_s: float = Field(default=60.0, ge=0)
    reconnect_base_s: float = Field(default=5.0, gt=0)
    reconnect_limit_s: float = Field(default=60.0, gt=0)

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        # All requests may hold a first reservation at once, and one of them must still be able to fill its chunk, beside
        # the eighth that is kept for small transfers.
        needed = (self.max_concurrent_requests * FIRST_RESERVATION_BYTES + self.chunk_size_bytes) * 8 // 7 + 1
        if needed > self.max_inflight_bytes:
            raise ValueError(
                f"TRIVET_MAX_INFLIGHT_BYTES={self.max_inflight_bytes} is too small for "
                f"TRIVET_MAX_CONCURRENT_REQUESTS={self.max_concurrent_requests}: requests could wait for each other for "
                f"ever; it needs at least {needed}"
            )
        self.read_sealing_keys()
        self.read_root_key()
        if self.s3_port in {self.port, self.operations_address()[1]}:
            raise ValueError(f"TRIVET_S3_PORT: {self.s3_port} is the data port or the operations port")
        return self

    def origin_rules(self) -> OriginRules:
        """Which names are this gateway's, and whose pages may use it."""
        hosts = self.public_hosts or filter(None, (*LOOPBACK_NAMES, bare_host(self.host)))
        return OriginRules(frozenset(hosts), frozenset(self.cors_origins))

    def anonymous_limits(self) -> IdentityLimits:
        """Of each address that sends no credential."""
        return IdentityLimits(requests_per_s=self.anonymous_requests_per_s, bytes_per_s=self.anonymous_bytes_per_s)

    def read_sealing_keys(self) -> list[str]:
        """The lines of the file with the sealing key.

        Raises:
            ValueError: it is missing, cannot be read, or is no such file.
        """
        text = read_secret(None, self.sealing_key_file, "TRIVET_SEALING_KEY")
        if text is None:
            raise ValueError(
                "the sealing key is missing: set TRIVET_SEALING_KEY_FILE to a file with at least 32 random bytes, the same for "
                "every gateway of the cluster; it has no default"
            )
        lines = text.split()
        if not 1 <= len(lines) <= 2:
            raise ValueError("TRIVET_SEALING_KEY_FILE has one line, or two while the sealing key is replaced")
        if any(len(line) < MIN_SEALING_KEY_CHARACTERS for line in lines):
            raise ValueError(
                f"a line of TRIVET_SEALING_KEY_FILE has fewer than {MIN_SEALING_KEY_CHARACTERS} characters; make one with "
                "`openssl rand -hex 32`"
            )
        return lines

    def read_root_key(self) -> PlainKey | None:
        """The key of the file, or None when there is no file.

        Raises:
            ValueError: it cannot be read, or is no key.
        """
        text = read_secret(None, self.root_key_file, "TRIVET_ROOT_KEY")
        if text is None:
            return None
        try:
            return PlainKey.parse(text)
        except ValueError as error:
            raise ValueError(f"TRIVET_ROOT_KEY_FILE: {error}") from error
