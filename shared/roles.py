"""What the processes of a cluster are to each other: every call between them is made by one role to another."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a process is. `OPERATOR`: the commands by which people make, change, back up and rescue a cluster."""

    GATEWAY = "gateway"
    STORAGE = "storage"
    CONSENSUS = "consensus"
    CLOCK = "clock"
    OPERATOR = "operator"
