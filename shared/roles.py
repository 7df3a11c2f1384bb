"""What the processes of a cluster are to each other: every call between them is made by one role to another."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Role(StrEnum):
    """What a process is. `OPERATOR`: the commands by which people make, change, back up and rescue a cluster."""

    GATEWAY = "gateway"
    STORAGE = "storage"
    CONSENSUS = "consensus"
    CLOCK = "clock"
    OPERATOR = "operator"
    ANY = "any"
    """A caller that signs with the cluster secret itself, as version 0.2.0 does: it may be each of the others."""


def is_among(role: Role, allowed: Collection[Role]) -> bool:
    """Whether `role` may do what `allowed` may."""
    return role is Role.ANY or role in allowed
