"""Which processes make a local cluster, with which ports, folders and environment. Pure: it starts and writes nothing.

The ports are those of docs/operations.md, "Ports", moved by the offset.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from local_cluster.layout import Layout
from local_cluster.local_secrets import LocalSecrets
from services.storage.redis_node.server_config import USERNAME, config_lines
from shared.contracts.cluster import ConsensusMember
from shared.peer_address import PeerAddress
from shared.roles import Role

HOST: Final = "127.0.0.1"
MEMBER_COUNT: Final = 3

ALLOCATOR_ENVIRONMENT: Final = {
    # 1 MiB bodies stay in the heap instead of being mapped, zeroed and unmapped one by one.
    # 32 MiB is the largest threshold that every glibc takes; before 2.35 a larger one is ignored without a word.
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_TOP_PAD_": "16777216",
}
STORAGE_ALLOCATOR_ENVIRONMENT: Final = {
    **ALLOCATOR_ENVIRONMENT,
    # Its disk threads would each get an arena, and every arena keeps what chunk bodies once took.
    "MALLOC_ARENA_MAX": "2",
}


class Kind(StrEnum):
    """What a process is; the order is the order of starting, its reverse that of stopping."""

    REDIS = "redis"
    CLOCK = "clock"
    CONSENSUS = "consensus"
    STORAGE = "storage"
    GATEWAY = "gateway"


_FIRST_PORT: Final = {
    Kind.GATEWAY: 8080,
    Kind.STORAGE: 8101,
    Kind.REDIS: 8151,
    Kind.CONSENSUS: 8201,
    Kind.CLOCK: 8301,
}
_FIRST_PEER_PORT: Final = 8251
_FIRST_S3_PORT: Final = 9000
_FIRST_OPERATIONS_PORT: Final = {
    Kind.GATEWAY: 8090,
    Kind.STORAGE: 8181,
    Kind.CONSENSUS: 8281,
    Kind.CLOCK: 8381,
}


_ROLES: Final = {
    Kind.GATEWAY: Role.GATEWAY,
    Kind.STORAGE: Role.STORAGE,
    Kind.CONSENSUS: Role.CONSENSUS,
    Kind.CLOCK: Role.CLOCK,
}


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process to run.

    Attributes:
        url: where it answers; for Redis a `unix://` or `redis://` URL without the password.
        operations_url: health, metrics and administration; empty for Redis.
        s3_url: where a gateway speaks S3; empty for all others.
        ports: every TCP port it listens on; a Redis on a Unix socket has none.
        environment: added to the launcher's own environment.
        private_config: text that must stand in `config_file`, mode 0600, before the start; Redis takes its password so.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]
    url: str
    ports: tuple[int, ...]
    operations_url: str = ""
    s3_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    config_file: Path | None = None
    private_config: str = field(default="", repr=False)

    @property
    def peer(self) -> PeerAddress:
        """The address that signed requests are made for."""
        return PeerAddress(self.name, self.url, _ROLES[self.kind])

    @property
    def operations_peer(self) -> PeerAddress:
        """The address of its operations listener."""
        return PeerAddress(self.name, self.operations_url, _ROLES[self.kind])


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """All processes, in the order of starting, and what `init` tells consensus."""

    cluster_id: str
    processes: tuple[ProcessSpec, ...]
    members: tuple[ConsensusMember, ...]
    admitted_nodes: tuple[str, ...]

    def of_kind(self, kind: Kind) -> list[ProcessSpec]:
        """The processes of one kind, by number."""
        return [spec for spec in self.processes if spec.kind is kind]

    def get(self, name: str) -> ProcessSpec:
        """The process of that name. Raises KeyError."""
        for spec in self.processes:
            if spec.name == name:
                return spec
        raise KeyError(name)


Overrides = Mapping[str, Mapping[str, str]]
"""Environment by process name (`storage-2`), kind (`storage`) or `*`; the narrower one wins."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many of what a cluster has. Every storage node has a Redis of its own; there is one clock.

    Attributes:
        storage_nodes: that there ever were: their numbers are not used again.
        removed_nodes: the numbers of those that have left.
        has_redis_ports: each Redis listens on a TCP port, before which tests can put a proxy, instead of its Unix socket.
    """

    storage_nodes: int = 3
    gateways: int = 1
    has_redis_ports: bool = False
    removed_nodes: frozenset[int] = frozenset()

    def numbers(self, kind: Kind) -> list[int]:
        """Of the processes of one kind; everything is numbered from one."""
        if kind in {Kind.REDIS, Kind.STORAGE}:
            return [number for number in range(1, self.storage_nodes + 1) if number not in self.removed_nodes]
        return list(range(1, {Kind.CONSENSUS: MEMBER_COUNT, Kind.GATEWAY: self.gateways, Kind.CLOCK: 1}[kind] + 1))


DEFAULT_SHAPE: Final = Shape()


def process_names(kind: Kind, shape: Shape = DEFAULT_SHAPE) -> list[str]:
    """`storage-1`, `storage-2`, ..."""
    return [f"{kind}-{number}" for number in shape.numbers(kind)]


def all_ports(port_offset: int, shape: Shape = DEFAULT_SHAPE) -> list[int]:
    """Every port that a cluster with this offset takes."""
    ports = [
        _port(kind, number, port_offset)
        for kind in Kind
        if kind is not Kind.REDIS or shape.has_redis_ports
        for number in shape.numbers(kind)
    ]
    ports += [
        first + number - 1 + port_offset
        for kind, first in _FIRST_OPERATIONS_PORT.items()
        for number in shape.numbers(kind)
    ]
    ports += [_s3_port(number, port_offset) for number in shape.numbers(Kind.GATEWAY)]
    return ports + [_FIRST_PEER_PORT + index + port_offset for index in range(MEMBER_COUNT)]


def make_plan(
    layout: Layout,
    secrets: LocalSecrets,
    port_offset: int,
    redis_server: Path,
    overrides: Overrides,
    *,
    shape: Shape = DEFAULT_SHAPE,
) -> ClusterPlan:
    """The plan of one cluster."""
    consensus_urls = _peer_list(Kind.CONSENSUS, port_offset)
    clock_urls = _peer_list(Kind.CLOCK, port_offset)
    common = {
        **ALLOCATOR_ENVIRONMENT,
        "PYTHONUNBUFFERED": "1",
        "TRIVET_CLUSTER_ID": secrets.cluster_id,
        "TRIVET_HOST": HOST,
    }
    own: dict[Kind, dict[str, str]] = {
        Kind.CLOCK: {},
        Kind.CONSENSUS: {"TRIVET_CLOCK_URLS": clock_urls},
        Kind.STORAGE: {
            **STORAGE_ALLOCATOR_ENVIRONMENT,
            "TRIVET_CLOCK_URLS": clock_urls,
            "TRIVET_CONSENSUS_URLS": consensus_urls,
        },
        Kind.GATEWAY: {
            "TRIVET_CLOCK_URLS": clock_urls,
            "TRIVET_CONSENSUS_URLS": consensus_urls,
            "TRIVET_SEALING_KEY_FILE": str(secrets.sealing_key_file),
            "TRIVET_ROOT_KEY_FILE": str(secrets.root_key_file),
        },
    }
    redis = {
        number: _redis(layout, name, port, secrets, redis_server)
        for number, name, port in zip(
            shape.numbers(Kind.REDIS),
            process_names(Kind.REDIS, shape),
            _redis_ports(port_offset, shape),
            strict=True,
        )
    }
    processes = [*redis.values()]
    for kind, environment in own.items():
        for number, name in zip(shape.numbers(kind), process_names(kind, shape), strict=True):
            port = _port(kind, number, port_offset)
            operations_port = _FIRST_OPERATIONS_PORT[kind] + number - 1 + port_offset
            special = _special(layout, secrets, kind, number, port_offset)
            if kind is Kind.STORAGE:
                special["TRIVET_REDIS_URL"] = redis[number].url
            processes.append(
                ProcessSpec(
                    name=name,
                    kind=kind,
                    command=(sys.executable, "-m", f"services.{kind}.main"),
                    url=_url(port),
                    ports=(port, *_further_ports(kind, number, port_offset), operations_port),
                    operations_url=_url(operations_port),
                    s3_url=_url(_s3_port(number, port_offset)) if kind is Kind.GATEWAY else "",
                    environment={
                        **common,
                        **secrets.environment(_ROLES[kind]),
                        "TRIVET_NODE_ID": name,
                        "TRIVET_PORT": str(port),
                        "TRIVET_OPERATIONS_PORT": str(operations_port),
                        # The file that the launcher opens for its output; the process itself rotates it.
                        "TRIVET_LOG_FILE": str(layout.log_file(name)),
                        **environment,
                        **special,
                        **overrides.get("*", {}),
                        **overrides.get(kind, {}),
                        **overrides.get(name, {}),
                    },
                )
            )
    admitted = tuple(process_names(Kind.STORAGE, shape))
    return ClusterPlan(secrets.cluster_id, tuple(processes), _members(port_offset), admitted)


def _special(layout: Layout, secrets: LocalSecrets, kind: Kind, number: int, port_offset: int) -> dict[str, str]:
    name = f"{kind}-{number}"
    if kind is Kind.GATEWAY:
        return {"TRIVET_S3_PORT": str(_s3_port(number, port_offset))}
    data = {"TRIVET_DATA_DIR": str(layout.data_dir(name))}
    if kind is Kind.CONSENSUS:
        return data | {"TRIVET_PEER_PORT": str(_FIRST_PEER_PORT + number - 1 + port_offset)}
    if kind is Kind.STORAGE:
        return data | {
            "TRIVET_ADVERTISED_URL": _url(_port(kind, number, port_offset)),
            "TRIVET_ZONE": f"zone-{number}",
            "TRIVET_REDIS_USERNAME": USERNAME,
            "TRIVET_REDIS_PASSWORD_FILE": str(secrets.redis_password_files[f"{Kind.REDIS}-{number}"]),
        }
    return data


def _redis(layout: Layout, name: str, port: int | None, secrets: LocalSecrets, redis_server: Path) -> ProcessSpec:
    config_file = layout.secrets / f"{name}.conf"
    password = secrets.redis_password_files[name].read_text().strip()
    # Port 0 is none at all.
    listen = (
        ("port 0", f'unixsocket "{layout.socket(name)}"', "unixsocketperm 600")
        if port is None
        else (f"bind {HOST}", f"port {port}")
    )
    lines = (
        "# Written by local_cluster at every start. This node's own Redis: durable at every acknowledged write.",
        *listen,
        "protected-mode yes",
        f'dir "{layout.data_dir(name)}"',
        "tcp-backlog 128",
        "daemonize no",
        *config_lines(password),
    )
    return ProcessSpec(
        name=name,
        kind=Kind.REDIS,
        command=(str(redis_server), str(config_file)),
        url=f"unix://{quote(str(layout.socket(name)))}" if port is None else f"redis://{HOST}:{port}/0",
        ports=() if port is None else (port,),
        config_file=config_file,
        private_config="\n".join(lines) + "\n",
    )


def _members(port_offset: int) -> tuple[ConsensusMember, ...]:
    return tuple(
        ConsensusMember(
            id=name,
            url=_url(_port(Kind.CONSENSUS, number, port_offset)),
            peer_address=f"{HOST}:{_FIRST_PEER_PORT + number - 1 + port_offset}",
        )
        for number, name in enumerate(process_names(Kind.CONSENSUS), 1)
    )


def _peer_list(kind: Kind, port_offset: int) -> str:
    return ",".join(
        f"{name}={_url(_port(kind, number, port_offset))}" for number, name in enumerate(process_names(kind), 1)
    )


def _further_ports(kind: Kind, number: int, port_offset: int) -> tuple[int, ...]:
    if kind is Kind.GATEWAY:
        return (_s3_port(number, port_offset),)
    return (_FIRST_PEER_PORT + number - 1 + port_offset,) if kind is Kind.CONSENSUS else ()


def _s3_port(number: int, port_offset: int) -> int:
    return _FIRST_S3_PORT + number - 1 + port_offset


def _port(kind: Kind, number: int, port_offset: int) -> int:
    return _FIRST_PORT[kind] + number - 1 + port_offset


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _redis_ports(port_offset: int, shape: Shape) -> list[int | None]:
    return [
        _port(Kind.REDIS, number, port_offset) if shape.has_redis_ports else None
        for number in shape.numbers(Kind.REDIS)
    ]
