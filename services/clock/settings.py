"""What a clock service is told."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, ClassVar, Final, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from services.clock.discipline import Rules
from shared.roles import Role
from shared.settings import ServiceSettings
from shared.units import NANOSECONDS_PER_SECOND

NTP_PORT: Final = 123
DEFAULT_SERVERS: Final = "pool.ntp.org,time.google.com,time.windows.com"

POLITE_INTERVAL_S: Final = 64
"""Polling public servers more often "might be considered abuse" (chrony.conf(5))."""

_PUBLIC_SUFFIXES: Final = (
    "ntp.org",
    "google.com",
    "windows.com",
    "apple.com",
    "cloudflare.com",
    "nist.gov",
    "facebook.com",
    "aws.com",
)


class NtpServer(NamedTuple):
    """An NTP server: a name or an address, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return self.host if self.port == NTP_PORT else f"{self.host}:{self.port}"


def _parse_servers(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [_parse_server(part) for part in (part.strip() for part in value.split(",")) if part]


def _parse_server(text: str) -> NtpServer:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") > 1:
        host, port = str(ipaddress.IPv6Address(text)), ""
    else:
        host, _, port = text.partition(":")
    if not host or (port and not port.isdecimal()):
        raise ValueError(f"{text!r} is not of the form host, host:port or [ipv6]:port")
    number = int(port or NTP_PORT)
    if not 1 <= number <= 65535:
        raise ValueError(f"{text!r} has a port outside 1..65535")
    return NtpServer(host, number)


NtpServerList = Annotated[list[NtpServer], NoDecode, BeforeValidator(_parse_servers), Field(max_length=16)]


class ClockSettings(ServiceSettings):
    """The settings of a clock service.

    Attributes:
        data_dir: where the bound of its hybrid logical clock lies.
        ntp_servers: comma-separated `host[:port]`. Empty means that there is none: LOGICAL, or the host's chrony.
        ntp_poll_interval_s: between rounds of questions. Below the default only servers of one's own may be asked.
        ntp_timeout_s: how long one exchange may take.
        ntp_min_sources: fewer usable sources are no majority; 1 only makes sense for trials and a trusted own server.
        ntp_precision_floor_us: what one exchange over this network can at best be trusted with: 1000 over the
            Internet, 100 within a LAN.
        ntp_panic_s: a majority that is further away than this from the host's clock is refused.
        host_chrony: use the host's chronyd where `chronyc` finds one and it knows better.
        chronyc_command: how chronyd is asked.
    """

    ROLE: ClassVar[Role] = Role.CLOCK

    data_dir: Path
    ntp_servers: NtpServerList = Field(default_factory=lambda: [_parse_server(s) for s in DEFAULT_SERVERS.split(",")])
    ntp_poll_interval_s: float = Field(default=POLITE_INTERVAL_S, ge=0.1, le=1024)
    ntp_timeout_s: float = Field(default=2.0, gt=0, le=10)
    ntp_min_sources: int = Field(default=3, ge=1, le=16)
    ntp_precision_floor_us: int = Field(default=1000, ge=10, le=100_000)
    ntp_panic_s: int = Field(default=1000, ge=1)
    host_chrony: bool = True
    chronyc_command: str = "chronyc"

    @model_validator(mode="after")
    def _check_politeness(self) -> Self:
        if self.ntp_poll_interval_s < POLITE_INTERVAL_S:
            public = [server.host for server in self.ntp_servers if _is_public(server.host)]
            if public:
                raise ValueError(
                    f"TRIVET_NTP_POLL_INTERVAL_S={self.ntp_poll_interval_s:g} is below {POLITE_INTERVAL_S} s, which is "
                    f"abuse of the public server {public[0]}; use servers of your own or a longer interval"
                )
        return self

    def rules(self) -> Rules:
        """The part that `discipline` decides by."""
        return Rules(
            min_sources=self.ntp_min_sources,
            holdover_after_ns=round(3 * self.ntp_poll_interval_s * NANOSECONDS_PER_SECOND),
            panic_ns=self.ntp_panic_s * NANOSECONDS_PER_SECOND,
        )


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return host.lower().rstrip(".").endswith(_PUBLIC_SUFFIXES)
