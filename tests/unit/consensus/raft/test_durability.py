"""A member whose disk fails ends, and says nothing more: neither a vote nor an acknowledgement that is not durable."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.messages import AppendEntriesResponse, Message, Received, RequestVote
from tests.simulation.disk import SimulatedHardState, SimulatedLogStore
from tests.simulation.virtual_loop import run_simulation
from tests.simulation.world import World, put


class FullDisk(SimulatedHardState):
    """Writes of term and vote fail from the first one on."""

    def update(self, change: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")


async def alone_with_a_full_disk(world: World) -> tuple[World, list[Message]]:
    """Member m1 runs on a full disk; what it sends is collected."""
    said: list[Message] = []
    world.network.on_send = lambda _source, _destination, message: said.append(message)
    world.start()
    return world, said


def test_a_vote_that_cannot_be_written_ends_the_member_and_is_not_told() -> None:
    """The error is handed to whoever ends the process, not lost with the connection that brought the request."""

    async def main() -> None:
        world, said = await alone_with_a_full_disk(World(3, hard_state_class=FullDisk))
        request = RequestVote(term=1, candidate_id="m2", last_log_index=1, last_log_term=1)
        with pytest.raises(OSError, match="No space"):
            world.node("m1").receive(Received("m2", request))
        assert [type(error) for error in world.errors] == [OSError]
        assert said == []
        world.stop()

    run_simulation(0, main())


def test_a_term_that_cannot_be_written_ends_a_candidate_before_it_asks_anybody() -> None:
    """Otherwise it would stay a candidate without a timer, for ever."""

    async def main() -> None:
        world, said = await alone_with_a_full_disk(World(3, hard_state_class=FullDisk))
        role = world.node("m1").raft.state
        assert isinstance(role, FollowerRole)
        with pytest.raises(OSError, match="No space"):
            role.start_election(is_forced=True)
        assert [type(error) for error in world.errors] == [OSError]
        assert said == []
        for member in world.up():
            member.process.die()

    run_simulation(0, main())


def test_an_entry_that_cannot_be_written_ends_the_member_and_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failed fsync is never tried again; the leader and the others go on without it."""

    async def main() -> None:
        world = World(3)
        world.start()
        leader = await world.leader()
        broken = next(member for member in world.up() if member is not leader)
        end = broken.node.log.durable_index
        monkeypatch.setattr(SimulatedLogStore, "write", _failing_for(broken.disk))
        acknowledged: list[int] = []

        def note(source: str, _destination: str, message: Message) -> None:
            if source == broken.id and isinstance(message, AppendEntriesResponse) and message.success:
                acknowledged.append(message.last_log_index)

        world.network.on_send = note
        (written,) = leader.node.propose([put("r1", "x", 1)])
        await written
        await asyncio.sleep(1)
        assert [str(error) for error in world.errors] == ["[Errno 5] Input/output error"]
        assert max(acknowledged, default=0) <= end
        assert broken.node.log.durable_index == end
        world.stop()

    run_simulation(0, main())


def _failing_for(disk: Any) -> Any:
    write = SimulatedLogStore.write

    def failing(self: SimulatedLogStore, *arguments: Any) -> None:
        if self._disk is disk:
            raise OSError(5, "Input/output error")
        write(self, *arguments)

    return failing
