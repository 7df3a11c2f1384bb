"""Whether a secret that came with a request could be read on its way, and who may come without one. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from services.gateway.access.principal import NOBODY, READER, WRITER, Principal
from services.gateway.settings import Anonymous, GatewaySettings
from shared.errors import PlainCredentialError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED_BY_PROXY: Final = frozenset({
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
})  # fmt: skip
"""Headers by which a proxy says that it speaks for somebody else."""


@dataclass(slots=True)
class Peer:
    """How a request came.

    Attributes:
        address: of the connection's other end; empty where there is none, as on a Unix socket.
        is_tls: this process itself ended TLS.
        forwarded_proto: the header X-Forwarded-Proto, repeated fields joined by commas.
        is_forwarded: a proxy says that it came for somebody else.
    """

    address: str
    is_tls: bool = False
    forwarded_proto: str | None = None
    is_forwarded: bool = False


@dataclass(frozen=True, slots=True)
class TransportRules:
    """What the settings say.

    Attributes:
        trusted_proxies: whose X-Forwarded-Proto is believed.
        allow_plain_bearer: secrets are taken from wherever they come: the network is private.
        anonymous: what clients without a credential may do.
        anonymous_anywhere: and not on this machine only.
    """

    trusted_proxies: tuple[Network, ...] = ()
    allow_plain_bearer: bool = False
    anonymous: Anonymous = "none"
    anonymous_anywhere: bool = False

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """As the gateway was told."""
        return cls(
            tuple(ipaddress.ip_network(str(network)) for network in settings.trusted_proxies),
            settings.allow_plain_bearer,
            settings.anonymous,
            settings.anonymous_anywhere,
        )

    def check_secret_from(self, peer: Peer) -> None:
        """Let a request pass whose secret nobody could read on its way.

        A trusted proxy is believed also where it says that its client came without TLS, on this machine, too.

        Raises:
            PlainCredentialError: definite.
        """
        if self.allow_plain_bearer or peer.is_tls:
            return
        if self.trusted_proxies and _is_within(peer.address, self.trusted_proxies):
            if peer.forwarded_proto is None and _is_loopback(peer.address):
                return
            if peer.forwarded_proto == "https":
                return
        elif _is_loopback(peer.address):
            return
        raise PlainCredentialError(
            "A key is taken over TLS, from this machine, or from a proxy in TRIVET_TRUSTED_PROXIES that says that its client "
            "came by https. Whoever can read the network has this key now: disable it."
        )

    def anonymous_from(self, peer: Peer) -> Principal:
        """Who a client without a credential is."""
        if self.anonymous == "none":
            return NOBODY
        # A proxy on this machine speaks for others.
        if not self.anonymous_anywhere and (peer.is_forwarded or not _is_loopback(peer.address)):
            return NOBODY
        return READER if self.anonymous == "read" else WRITER


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


@lru_cache(maxsize=1024)
def _is_within(address: str, networks: Sequence[Network]) -> bool:
    parsed = _address(address)
    return parsed is not None and any(parsed in network for network in networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 clients like this.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
