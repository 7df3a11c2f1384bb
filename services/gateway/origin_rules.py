"""Which requests may be the work of a foreign page in somebody's browser (RFC 6454, Fetch Metadata), decided on headers alone.

A browser reaches what its user reaches, loopback and private networks included, and lets every page send forms to it. A page
cannot forge `Host`, `Origin` and `Sec-Fetch-Site`; clients that are no browsers send the latter two never, and are not
concerned (G-92).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shared.errors import ForeignOriginError, MisdirectedRequestError

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::(?P<port>[0-9]{1,5}))?")
_NAME: Final = re.compile(r"[a-z_-][^.]*$")
"""A host whose last label has no letter is an address, if anything (WHATWG URL, "ends in a number")."""

_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@\s]+)")
_MAX_TEXT: Final = 300
"""A host name has 253 characters at most; what is longer is not kept in a cache."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})
"""`same-site` is another port or a sibling of this host. `none` is the user, by the address bar or a bookmark."""


@dataclass(frozen=True, slots=True)
class OriginRules:
    """What the settings allow: `hosts` as `normal_host` writes them, `cors_origins` as `normal_origin` does."""

    hosts: frozenset[str]
    cors_origins: frozenset[str]

    def check_host(self, host: str | None, local_address: str | None) -> None:
        """Let a request pass that was meant for this gateway, whatever the port.

        A page whose own name was made to resolve to us would be of one origin with us (DNS rebinding), but the browser
        still says that name. The address to which the connection came is always taken: no name reads as an address.
        Without a Host (HTTP/1.0) there is no browser.

        Raises:
            MisdirectedRequestError: it names somebody else; definite.
        """
        if host is None:
            return
        name = normal_host(host)
        if name is None or (name not in self.hosts and name != normal_host(local_address or "")):
            raise MisdirectedRequestError(
                "This gateway has no such name as the Host header says; its names are set by TRIVET_PUBLIC_HOSTS."
            )

    def check_change(self, origin: str | None, fetch_site: str | None, host: str | None) -> None:
        """Let a change pass unless a page of another origin sent it.

        Raises:
            ForeignOriginError: definite.
        """
        if origin is not None and self.is_cors_origin(origin):
            return
        if fetch_site in _FOREIGN_SITES or (origin is not None and not _is_same_origin(origin, host or "")):
            raise ForeignOriginError(
                "A page of another origin may not change anything; those that may are set by TRIVET_CORS_ORIGINS."
            )

    def is_cors_origin(self, origin: str) -> bool:
        """Whether the operator lets pages of `origin` read and change what is here."""
        return bool(self.cors_origins) and normal_origin(origin) in self.cors_origins


def normal_host(authority: str) -> str | None:
    """The name or address in `host[:port]`, in one way of writing; None where it is neither. A bare IPv6 address is taken."""
    return _normal_host(authority) if len(authority) <= _MAX_TEXT else None


def bare_host(text: str) -> str | None:
    """As `normal_host`, and None where there is a port."""
    match = _AUTHORITY.fullmatch(text.lower())
    return None if match is not None and match["port"] is not None else normal_host(text)


def normal_origin(origin: str) -> str | None:
    """`scheme://host:port` in one way of writing; None for anything else, such as `null`."""
    return _normal_origin(origin) if len(origin) <= _MAX_TEXT else None


@lru_cache(maxsize=256)
def _normal_host(authority: str) -> str | None:
    try:
        return _normal_address(authority)
    except ValueError:
        match = _AUTHORITY.fullmatch(authority.lower())
    if match is None:
        return None
    host = match["host"]
    try:
        return _normal_address(host.strip("[]"))
    except ValueError:
        return host if _NAME.search(host) else None


@lru_cache(maxsize=256)
def _normal_origin(origin: str) -> str | None:
    match = _ORIGIN.fullmatch(origin.lower())
    if match is None:
        return None
    host, port = normal_host(match["authority"]), _port(match["authority"], match["scheme"])
    return None if host is None or port is None else f"{match['scheme']}://{host}:{port}"


def _is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of `origin` was served under `host`.

    The scheme is left out: behind a proxy that ends TLS, the browser says https and the proxy asks by http.
    """
    scheme = origin.partition("://")[0]
    return scheme in _DEFAULT_PORTS and normal_origin(origin) == normal_origin(f"{scheme}://{host}") is not None


def _port(authority: str, scheme: str) -> int | None:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    return _DEFAULT_PORTS[scheme] if match["port"] is None else int(match["port"])


def _normal_address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_unspecified:
        raise ValueError("that is no address of anybody")
    # A dual-stack socket shows IPv4 clients like this.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
