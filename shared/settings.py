"""The settings that every service has, and how a wrong one ends a start: with one sentence.

Values come from the environment (`TRIVET_...`) or from the file that `TRIVET_ENV_FILE` names; secrets also from files of
their own (`..._FILE`), as containers mount them. All are checked together before anything is opened.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, NoReturn, Self, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.cluster_keys import PeerKeys
from shared.contracts.names import check_member_id
from shared.errors import InvalidNameError
from shared.peer_address import PeerAddress
from shared.roles import Role

MAX_PORT: Final = 65535
MIN_TOKEN_CHARACTERS: Final = 16

EXIT_CONFIGURATION = 78
"""sysexits.h EX_CONFIG: the supervisor should not try again without a change."""


class PeerKeySettings(BaseSettings):
    """What a process proves itself with to the others.

    Attributes:
        peer_keys: the text of a file of `shared.cluster_keys`: the keys of this process' pairs of roles, each in one or two
            generations. The first of two signs, both are accepted, so that they can be rotated.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVET_", extra="ignore", frozen=True)

    ROLE: ClassVar[Role] = Role.OPERATOR

    peer_keys: SecretStr | None = None
    peer_keys_file: Path | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        self.read_peer_keys()
        return self

    def read_peer_keys(self) -> PeerKeys:
        """The keys that sign and verify internal requests.

        Raises:
            ValueError: they are missing, unreadable, malformed, or those of another role.
        """
        text = read_secret(self.peer_keys, self.peer_keys_file, "TRIVET_PEER_KEYS")
        if text is None:
            raise ValueError(
                "the peer keys are missing: set TRIVET_PEER_KEYS_FILE to the file of this role that `make secrets` or "
                "`make run` wrote; they have no default"
            )
        keys = PeerKeys.parse(text)
        if keys.role is not self.ROLE:
            raise ValueError(f"TRIVET_PEER_KEYS: the keys are those of a {keys.role}; this is a {self.ROLE}")
        return keys


class ServiceSettings(PeerKeySettings):
    """What every service is told.

    Attributes:
        node_id: this process' stable id, e.g. `storage-2`; also the destination that callers sign for.
        cluster_id: which cluster it belongs to; a data folder of another one is refused.
        host, port: where it listens.
        operations_host, operations_port: where health, metrics and administration are; the same host, and a port 80
            (a gateway: 10) above, unless said otherwise.
        metrics_token: lets other machines read /metrics; without one only this machine may.
        log_level: one of `debug`, `info`, `warning`, `error`.
        log_file: where the log goes instead of standard error, if not empty; rotated.
        request_log: which requests have a line in the log, with the id that they have in all services: those that failed (500
            and above, 50 a second), or all, which costs some 20 µs each.
        otlp_endpoint: where spans of requests are exported to, an OpenTelemetry collector that speaks OTLP over HTTP
            (`http://host:4318`). Empty: none are made. Needs the dependencies of the group `telemetry`.
        shutdown_grace_s: how long requests under way may take after SIGTERM.
    """

    model_config = SettingsConfigDict(env_prefix="TRIVET_", extra="ignore", frozen=True)

    OPERATIONS_DISTANCE: ClassVar[int] = 80

    node_id: str
    cluster_id: str = Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)
    operations_host: str | None = None
    operations_port: int | None = Field(default=None, ge=1, le=65535)
    metrics_token: SecretStr | None = None
    metrics_token_file: Path | None = None
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_file: Path | None = None
    request_log: Literal["none", "failed", "all"] = "failed"
    otlp_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    shutdown_grace_s: int = Field(default=20, ge=0)

    @field_validator("log_file", mode="before")
    @classmethod
    def _read_log_file(cls, value: object) -> object:
        # As everywhere: a variable that is set to nothing is not set.
        return None if value == "" else value

    @model_validator(mode="after")
    def _check_identity(self) -> Self:
        try:
            check_member_id(self.node_id)
        except InvalidNameError as error:
            raise ValueError(f"TRIVET_NODE_ID: {error.message}") from error
        self.read_metrics_token()
        if self.operations_address()[1] == self.port or self.operations_address()[1] > MAX_PORT:
            raise ValueError(f"TRIVET_OPERATIONS_PORT: {self.operations_address()[1]} is the data port, or no port")
        return self

    def operations_address(self) -> tuple[str, int]:
        """Host and port of the operations listener."""
        port = self.port + self.OPERATIONS_DISTANCE if self.operations_port is None else self.operations_port
        return self.operations_host or self.host, port

    def read_metrics_token(self) -> str | None:
        """What a reader of /metrics from another machine shows, or None when none may.

        Raises:
            ValueError: it cannot be read, or is shorter than `MIN_TOKEN_CHARACTERS`.
        """
        return read_token(self.metrics_token, self.metrics_token_file, "TRIVET_METRICS_TOKEN")


class QuorumSettings(BaseSettings):
    """N, W and R. Checked together: W <= N, R <= N, and W + R <= N only when it is asked for by name.

    Attributes:
        replica_count: N, how many storage nodes are to hold each chunk; the same at every service that has it.
        write_quorum: W, how many must have a chunk on disk before an upload is answered.
        read_quorum: R, how many must hold a chunk before a download is answered.
        allow_non_overlapping_quorums: W + R <= N is meant: then a read may meet no replica that a write waited for.
    """

    replica_count: int = Field(default=3, ge=1, le=16)
    write_quorum: int = Field(default=2, ge=1, le=16)
    read_quorum: int = Field(default=2, ge=1, le=16)
    allow_non_overlapping_quorums: bool = False

    @model_validator(mode="after")
    def _check_quorums(self) -> Self:
        n, w, r = self.replica_count, self.write_quorum, self.read_quorum
        if w > n:
            raise ValueError(f"TRIVET_WRITE_QUORUM={w} is more than TRIVET_REPLICA_COUNT={n}: no write could succeed")
        if r > n:
            raise ValueError(f"TRIVET_READ_QUORUM={r} is more than TRIVET_REPLICA_COUNT={n}: no read could succeed")
        if w + r <= n and not self.allow_non_overlapping_quorums:
            raise ValueError(
                f"TRIVET_WRITE_QUORUM={w} and TRIVET_READ_QUORUM={r} do not overlap in TRIVET_REPLICA_COUNT={n}; "
                "set TRIVET_ALLOW_NON_OVERLAPPING_QUORUMS=true if that is meant"
            )
        return self


def _parse_peers(value: object, role: Role) -> object:
    if not isinstance(value, str):
        return value
    peers = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        peer_id, equals, url = part.partition("=")
        if not equals or not url.startswith(("http://", "https://")):
            raise ValueError(f"{part!r} is not of the form id=http://host:port")
        peers.append(PeerAddress(peer_id, url.rstrip("/"), role))
    return peers


ConsensusList = Annotated[list[PeerAddress], NoDecode, BeforeValidator(partial(_parse_peers, role=Role.CONSENSUS))]
"""A comma-separated setting: `consensus-1=http://127.0.0.1:8201,consensus-2=http://127.0.0.1:8202`."""
ClockList = Annotated[list[PeerAddress], NoDecode, BeforeValidator(partial(_parse_peers, role=Role.CLOCK))]
"""As `ConsensusList`, of clock services."""


def read_secret(value: SecretStr | None, path: Path | None, name: str) -> str | None:
    """The secret itself, from the setting or from the file; None when neither is set.

    Raises:
        ValueError: both are set, or the file cannot be read.
    """
    if value is not None and path is not None:
        raise ValueError(f"set {name} or {name}_FILE, not both")
    if path is None:
        return None if value is None else value.get_secret_value()
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ValueError(f"{name}_FILE: cannot read {path}: {error.strerror}") from error


def read_token(value: SecretStr | None, path: Path | None, name: str) -> str | None:
    """A bearer token, as `read_secret`.

    Raises:
        ValueError: as `read_secret`, or it is shorter than `MIN_TOKEN_CHARACTERS`.
    """
    token = read_secret(value, path, name)
    if token is not None and len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(f"{name} has fewer than {MIN_TOKEN_CHARACTERS} characters")
    return token


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read and check the settings of one service, or end the process with one clear sentence per mistake."""
    try:
        # The environment is read here and nowhere else.
        return kind(_env_file=os.environ.get("TRIVET_ENV_FILE"))  # noqa: TID251
    except ValidationError as error:
        refuse_to_start("; ".join(_sentence(detail["loc"], detail["msg"]) for detail in error.errors()))


def refuse_to_start(reason: str) -> NoReturn:
    """End the process with `EXIT_CONFIGURATION` and the reason on standard error."""
    sys.stderr.write(f"trivet: refusing to start: {reason}\n")
    raise SystemExit(EXIT_CONFIGURATION)


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"TRIVET_{'_'.join(str(part) for part in location).upper()}: {text}" if location else text
