"""How many files and connections a process may have open at once (S-83)."""

from __future__ import annotations

import resource
from typing import Final

_ENOUGH: Final = 65_536
_MAX_CONNECTIONS: Final = 8_192


def raise_descriptor_limit() -> None:
    """As far as this process may and as much as it can use.

    The usual soft limit of 1,024 is for programs that still call select(); it is left by a few hundred connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_connections() -> int:
    """How many clients may be connected: half of the descriptors, so that files and calls of our own find some."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_MAX_CONNECTIONS, soft // 2)
