"""Whether the survivors of a lost majority hold everything that was committed. Pure.

A committed entry stands on a majority of the voters of the configuration that its leader had in force. So the survivors hold
it for certain only if every majority of every configuration that may have been in force includes one of them:

- the last configuration that is known to be committed, and those behind it in any survivor's log, committed or not: the entry
  that changes the voters counts from the moment that a leader appends it (Raft paper, section 6);
- each of these with one voter removed. Its leader may have committed entries by the new majority while the change itself stands
  on lost disks only. One voter more needs no look: where the survivors are enough after every removal, they are after an
  addition.

No third step needs to be considered: a leader changes the voters again only after the change before is committed, and if every
majority includes a survivor, a committed change stands on a survivor's disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import majority

Placed = tuple[int, Configuration]
"""A configuration and the log index of its entry."""


def possible_configurations(logs: Sequence[tuple[Sequence[Placed], int]]) -> list[Placed]:
    """Those that may have been in force at the end, ascending.

    Args:
        logs: of each survivor, the configurations in its log and the last index that is committed for certain.
    """
    committed = [index for found, applied in logs for index, _ in found if index <= applied]
    last_committed = max(committed, default=0)
    found = {(index, configuration) for placed, _ in logs for index, configuration in placed if index >= last_committed}
    return sorted(found, key=lambda placed: (placed[0], placed[1].encode()))


def voters_without_survivor(possible: Sequence[Placed], present: frozenset[str]) -> frozenset[str] | None:
    """Voters that may have been in force and have a majority without any of `present`; None when there are none such."""
    for _, configuration in possible:
        for voters in (configuration.voters, *_with_one_removed(configuration.voters)):
            if not has_every_commit(voters, present):
                return voters
    return None


def has_every_commit(voters: frozenset[str], present: frozenset[str]) -> bool:
    """Whether every majority of `voters` includes one of `present`."""
    return bool(voters) and len(voters - present) < majority(len(voters))


def _with_one_removed(voters: frozenset[str]) -> Iterator[frozenset[str]]:
    """There is always at least one voter."""
    if len(voters) > 1:
        yield from (voters - {voter} for voter in sorted(voters))
