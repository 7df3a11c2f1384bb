"""Who votes: the membership that a configuration entry carries, in force from the moment it is appended (section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from shared.contracts.cluster import ConsensusMember

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Configuration:
    """The members of the cluster at one point of the log, in the order of their ids.

    An empty configuration belongs to a member that was never initialised: it votes, but it never campaigns.
    """

    cluster_id: str = ""
    members: tuple[ConsensusMember, ...] = ()

    @property
    def voters(self) -> frozenset[str]:
        """Ids of those that count for a majority."""
        return frozenset(member.id for member in self.members if member.is_voter)

    def peers_of(self, member_id: str) -> list[str]:
        """Ids of all others, voters and learners, in order."""
        return [member.id for member in self.members if member.id != member_id]

    def find(self, member_id: str | None) -> ConsensusMember | None:
        """The member of that id."""
        return next((member for member in self.members if member.id == member_id), None)

    def encode(self) -> bytes:
        """The payload of a configuration entry; equal configurations encode to equal bytes."""
        rows = [[m.id, m.url, m.peer_address, m.is_voter] for m in sorted(self.members, key=lambda m: m.id)]
        return bytes(msgpack.packb([FORMAT_VERSION, self.cluster_id, rows]))

    @classmethod
    def decode(cls, payload: bytes) -> Configuration:
        """The inverse of `encode`. Raises ValueError for a version that is not known here."""
        found, cluster_id, rows = msgpack.unpackb(payload)
        if found != FORMAT_VERSION:
            raise ValueError(f"configuration entry of version {found}; this member knows {FORMAT_VERSION}")
        members = (ConsensusMember(id=i, url=url, peer_address=peer, is_voter=v) for i, url, peer, v in rows)
        return cls(cluster_id, tuple(members))
