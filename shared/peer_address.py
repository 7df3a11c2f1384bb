"""How one process names another one that it calls."""

from __future__ import annotations

from typing import NamedTuple

from shared.roles import Role


class PeerAddress(NamedTuple):
    """Another process of the cluster: the id and role that requests are signed for, and its base URL without a final slash."""

    id: str
    url: str
    role: Role
