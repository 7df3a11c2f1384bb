"""The membership that a configuration entry carries."""

from __future__ import annotations

import msgpack
import pytest

from services.consensus.raft.configuration import FORMAT_VERSION, Configuration
from shared.contracts.cluster import ConsensusMember


def member(name: str, *, is_voter: bool = True) -> ConsensusMember:
    return ConsensusMember(id=name, url=f"http://{name}:8201", peer_address=f"{name}:8251", is_voter=is_voter)


def test_section_6_learners_do_not_vote() -> None:
    """They are peers like all others."""
    configuration = Configuration("c", (member("m1"), member("m2", is_voter=False), member("m3")))
    assert configuration.voters == {"m1", "m3"}
    assert configuration.peers_of("m1") == ["m2", "m3"]


def test_a_stranger_has_everybody_as_peers_and_is_found_nowhere() -> None:
    """A member that was removed, or was never in it."""
    configuration = Configuration("c", (member("m1"), member("m2")))
    assert configuration.peers_of("m9") == ["m1", "m2"]
    assert configuration.find("m9") is None
    assert configuration.find(None) is None
    assert configuration.find("m2") == member("m2")


def test_it_survives_the_log() -> None:
    """Encoded and decoded it is the same."""
    configuration = Configuration("c", (member("m1"), member("m2", is_voter=False)))
    assert Configuration.decode(configuration.encode()) == configuration


def test_equal_memberships_are_equal_bytes_in_any_order() -> None:
    """Entries are compared by their bytes."""
    one = Configuration("c", (member("m1"), member("m2")))
    other = Configuration("c", (member("m2"), member("m1")))
    assert one.encode() == other.encode()


def test_an_empty_configuration_has_no_voters() -> None:
    """Nobody was told who the members are."""
    assert Configuration().voters == frozenset()
    assert Configuration.decode(Configuration().encode()) == Configuration()


def test_a_version_from_the_future_is_refused() -> None:
    """A member must not guess who votes."""
    with pytest.raises(ValueError, match="version"):
        Configuration.decode(msgpack.packb([FORMAT_VERSION + 1, "c", []]))
