"""What the commands of a scenario do: each method `do_<command>` acts on the stage and returns the lines to print.

Printed are facts of the protocol (role, term, indexes, votes, outcomes), never the text of messages.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from pathlib import Path
from typing import Any

from services.consensus.member import Member
from services.consensus.persistence.compaction import LogLimits
from services.consensus.raft.candidate import CandidateRole
from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.messages import decode
from shared.errors import TrivetError
from tests.simulation import script
from tests.simulation.stage import HeldRunner, Stage, configuration_of
from tests.simulation.virtual_loop import run_simulation
from tests.simulation.world import put

SCENARIO_FOLDER = Path(__file__).parent / "scenarios"
STEP_S = 0.01


class Player:
    """Plays one scenario. Clients are named by the script; what became of their requests is asked with `result`."""

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._requests: dict[str, asyncio.Future[Any]] = {}
        self._saved: dict[str, tuple[str, str, bytes]] = {}
        self._is_together = False

    @property
    def stage(self) -> Stage:
        assert self._stage is not None, "the first command is `cluster`"
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.stop()

    async def perform(self, line: str) -> list[str]:
        """One command; arguments of the form name=value become keywords.

        `together a; b; c` performs several in one turn of the loop: nothing else runs between them.
        """
        if line.startswith("together "):
            self._is_together = True
            printed = [await self._perform_one(part) for part in line.removeprefix("together ").split(";")]
            self._is_together = False
            await self._settle()
            return [text for lines in printed for text in lines]
        printed_lines = await self._perform_one(line)
        await self._settle()
        return printed_lines

    async def _perform_one(self, line: str) -> list[str]:
        name, *words = line.split()
        positional = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        printed = getattr(self, f"do_{name.replace('-', '_')}")(*positional, **named)
        if inspect.isawaitable(printed):
            printed = await printed
        return list(printed or [])

    async def _settle(self) -> None:
        if not self._is_together:
            await self.stage.settle()

    # --- the cluster --------------------------------------------------------------------------------------------

    def do_cluster(
        self,
        size: str,
        state: str = "",
        *,
        learners: str = "",
        spares: str = "",
        checkpoint: str = "1000",
        keep: str = "0",
    ) -> None:
        """`cluster 3 [stopped] [learners=m3] [spares=m4]`: everybody starts, unless stopped.

        `checkpoint=3 keep=1`: a checkpoint every three entries applied, after which one entry stays in the log.
        """
        limits = LogLimits(checkpoint_entries=int(checkpoint), keep_entries=int(keep), snapshot_piece_bytes=16)
        self._stage = Stage(int(size), learners=_names(learners), spares=_names(spares), limits=limits)
        if state != "stopped":
            self.do_restart(*self.stage.names)

    def do_give_log(self, member: str, *terms: str) -> None:
        """Entries of these terms on the disk of a stopped member, behind the first configuration; `2!` fills a batch."""
        self.stage.give_log(member, [(int(term.rstrip("!")), term.endswith("!")) for term in terms])

    def do_lose_disk(self, member: str) -> None:
        """A stopped member comes back with nothing, under its old id."""
        self.stage.wipe(member)

    def do_lose_state(self, member: str) -> None:
        """A stopped member's state machine is damaged; its log, term and vote are whole."""
        self.stage.members[member].disk.lose_state()

    def do_cut_power(self, member: str) -> None:
        """The process dies, and of the state machine only the last checkpoint is left."""
        self.do_crash(member)
        self.stage.members[member].disk.applied.clear()

    def do_restart(self, *members: str) -> None:
        for member in members:
            self.stage.members[member].start()

    def do_crash(self, member: str, how: str = "") -> None:
        """The process dies and held writes are lost; `crash m1 written`: the oldest had reached the disk, unheard."""
        if how == "written":
            self.stage.disks[member].finish_unheard()
        self.stage.members[member].crash()
        for link in list(self.stage.network.queues):
            if member in link:
                self.stage.network.forget(*link)

    def do_bootstrap(self, *members: str) -> None:
        """The operator's `init` at the first of these members, who are to be the first voters."""
        self.stage.node(members[0]).bootstrap(configuration_of(members))

    # --- network ------------------------------------------------------------------------------------------------

    async def do_stabilize(self, *members: str) -> None:
        """Deliver everything between these members (all of them by default) until nothing waits."""
        await self.stage.stabilize(members or self.stage.names)

    async def do_deliver(self, link: str, count: str = "1") -> None:
        """`deliver m1->m2 [count|all]`: hand over the oldest messages of a link."""
        source, destination = link.split("->")
        queue = self.stage.network.queues.get((source, destination), ())
        wanted = len(queue) if count == "all" else int(count)
        assert wanted <= len(queue), f"only {len(queue)} messages wait on {link}"
        for _ in range(wanted):
            self.stage.network.deliver_next(source, destination)
            await self._settle()

    def do_save(self, name: str, link: str) -> None:
        """Copy the oldest message of a link, for `replay`."""
        source, destination = link.split("->")
        queue = self.stage.network.queues.get((source, destination))
        assert queue, f"nothing waits on {link}"
        self._saved[name] = (source, destination, queue[0])

    async def do_replay(self, name: str, times: str = "1") -> None:
        """Deliver a copy: the network repeats messages, as late and as often as it likes."""
        for _ in range(int(times)):
            self.stage.network.deliver(*self._saved[name])
            await self._settle()

    def do_drop(self, *links: str) -> None:
        """Lose everything that waits on these links; without arguments, everything everywhere."""
        for link in links or [f"{a}->{b}" for a, b in self.stage.network.queues]:
            self.stage.network.forget(*link.split("->"))

    def do_cut(self, *links: str) -> None:
        """These links carry nothing from now on; what was under way on them is lost."""
        for link in links:
            source, destination = link.split("->")
            self.stage.network.cut.add((source, destination))
            self.stage.network.forget(source, destination)

    def do_isolate(self, *members: str) -> None:
        """Cut each of these members off from everybody, in both directions."""
        pairs = [(m, other) for m in members for other in self.stage.names if other != m]
        self.do_cut(*(f"{a}->{b}" for pair in pairs for a, b in (pair, pair[::-1])))

    def do_heal(self) -> None:
        self.stage.network.heal()

    def do_queue(self) -> list[str]:
        """How many messages of which kind wait on which link."""
        lines = []
        for link in self.stage.network.waiting(self.stage.names):
            kinds = Counter(_kind(raw) for raw in self.stage.network.queues[link])
            lines.append(f"{link[0]}->{link[1]} " + ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds)))
        return lines or ["nothing waits"]

    def do_reconnect(self, member: str, peer: str) -> None:
        """The transport of `member` reports that its connection to `peer` was lost."""
        self.stage.node(member).link_changed(peer)

    # --- disk ---------------------------------------------------------------------------------------------------

    def do_hold_disk(self, *members: str) -> None:
        """Log writes of these members do not end until `flush-disk`."""
        for member in members:
            self.stage.disks[member].is_held = True

    async def do_flush_disk(self, member: str, count: str = "all") -> None:
        """Held writes of a member end; with `all`, the disk is also not held any longer."""
        await self._release(self.stage.disks[member], count)

    def do_hold_apply(self, member: str) -> None:
        """What is committed is not applied until `release-apply`."""
        self.stage.apply_runners[member].is_held = True

    async def do_release_apply(self, member: str) -> None:
        """Applying ends, and is not held any longer."""
        await self._release(self.stage.apply_runners[member], "all")

    def do_hold_checkpoint(self, member: str) -> None:
        """A checkpoint that begins does not end until `release-checkpoint`, nor anything else of that thread."""
        self.stage.compaction_runners[member].is_held = True

    async def do_release_checkpoint(self, member: str) -> None:
        """The checkpoint ends, and none is held any longer."""
        await self._release(self.stage.compaction_runners[member], "all")

    async def _release(self, runner: HeldRunner, count: str) -> None:
        if count == "all":
            runner.is_held = False
        for _ in range(runner.held_count if count == "all" else int(count)):
            runner.finish_next()
            await self.stage.settle()

    # --- time ---------------------------------------------------------------------------------------------------

    async def do_advance(self, duration: str) -> None:
        """Time passes and timers fire; no message is delivered."""
        await asyncio.sleep(_seconds(duration))

    async def do_run(self, duration: str, *members: str) -> None:
        """Time passes while messages between these members (all of them by default) arrive at once."""
        end = self.stage.loop.time() + _seconds(duration)
        while self.stage.loop.time() < end:
            await asyncio.sleep(STEP_S)
            await self.stage.stabilize(members or self.stage.names)

    def do_heartbeat(self, member: str) -> None:
        """The leader's heartbeat timer fires now."""
        self._leader(member).heartbeat()

    # --- elections ----------------------------------------------------------------------------------------------

    def do_campaign(self, member: str, how: str = "") -> None:
        """The election timer fires, and pre-votes are asked for.

        `campaign m1 without-pre-vote` begins the election itself; `campaign m1 now` also marks it as a transfer, so that
        no voter's stickiness holds it up.
        """
        raft = self.stage.node(member).raft
        role = raft.state
        if isinstance(role, CandidateRole):
            raft.to_follower()
            role = raft.state
        assert isinstance(role, FollowerRole), f"{member} leads"
        raft.is_transfer = how == "now"
        role.start_election(is_forced=how in {"now", "without-pre-vote"})

    def do_transfer(self, member: str) -> list[str]:
        return [f"to {self._leader(member).transfer()}"]

    def do_configure(self, member: str, *, voters: str, learners: str = "") -> list[str]:
        """The leader proposes another configuration."""
        configuration = configuration_of([*_names(voters), *_names(learners)], _names(learners))
        try:
            self._leader(member).propose_configuration(configuration)
        except TrivetError as error:
            return [_refusal(error)]
        return []

    # --- clients ------------------------------------------------------------------------------------------------

    def do_propose(self, member: str, request: str, **assignment: str) -> list[str]:
        """`propose m1 r1 x=1`: request r1 sets x. A retry uses the same name with a mark: r1'."""
        ((key, value),) = assignment.items()
        try:
            (self._requests[request],) = self.stage.node(member).propose([put(request.rstrip("'"), key, value)])
        except TrivetError as error:
            return [_refusal(error)]
        return []

    def do_propose_many(self, member: str, request: str, *, count: str, bytes: str) -> list[str]:  # noqa: A002 reads well
        """That many separate proposals of that many bytes each; `result` tells how many were done."""
        node = self.stage.node(member)
        payloads = [put(f"{request}-{n}", "blob", "x" * int(bytes)) for n in range(int(count))]
        try:
            for number, payload in enumerate(payloads):
                (self._requests[f"{request}-{number}"],) = node.propose([payload])
        except TrivetError as error:
            return [_refusal(error)]
        return []

    def do_read(self, member: str, request: str, key: str) -> None:
        """A linearizable read of `key`, asked now; `result` tells what it returned."""
        node = self.stage.node(member)

        async def ask() -> Any:
            await node.read_barrier()
            return self.stage.members[member].machine.values.get(key)

        self._requests[request] = self.stage.loop.create_task(ask())

    def do_result(self, *requests: str) -> list[str]:
        """What the client of each request knows."""
        return [f"{request} {_outcome(self._requests.get(request))}" for request in requests]

    def do_value(self, key: str) -> list[str]:
        """What each running member's state machine holds."""
        return [f"{m.id} {key}={str(m.machine.values.get(key)).rstrip('.')}" for m in self.stage.up()]

    # --- looking ------------------------------------------------------------------------------------------------

    def do_status(self, *members: str) -> list[str]:
        """Role, term, last, commit and durable index of the running members."""
        nodes = [m.node for m in self.stage.up() if not members or m.id in members]
        return [_status(node) for node in nodes]

    def do_votes(self, *members: str) -> list[str]:
        """What each disk says about term and vote."""
        disks = {name: self.stage.members[name].disk for name in members or self.stage.names}
        return [f"{name} term {d.hard_state[0]} vote {d.hard_state[1] or 'none'}" for name, d in disks.items()]

    def do_log(self, *members: str) -> list[str]:
        """The terms of the entries in the log, from its start on."""
        nodes = [m.node for m in self.stage.up() if not members or m.id in members]
        return [f"{node.id} {' '.join(map(str, _terms(node)))}" for node in nodes]

    def do_logs(self, *members: str) -> list[str]:
        """Which entries stand in the log of the running members, and up to where each has applied."""
        nodes = [m.node for m in self.stage.up() if not members or m.id in members]
        return [
            f"{n.id} log {n.log.base.index + 1}..{n.log.last_log_index} applied {n.log.last_applied}"
            + (" and waits for a snapshot" if n.log.is_behind_base else "")
            for n in nodes
        ]

    def do_held(self, member: str) -> list[str]:
        """How many bytes of unfinished snapshots lie on a member's disk."""
        return [f"{member} holds {sum(map(len, self.stage.members[member].disk.parts.values()))} bytes of a snapshot"]

    def do_members(self, *members: str) -> list[str]:
        """The configuration in force at each running member; learners in brackets."""
        lines = []
        for member in self.stage.up():
            if not members or member.id in members:
                found = member.node.configuration.members
                lines.append(f"{member.id} knows " + " ".join(m.id if m.is_voter else f"({m.id})" for m in found))
        return lines

    def do_progress(self, member: str) -> list[str]:
        """What the leader knows about each follower, and how many batches are in flight to it."""
        return [
            f"{peer} {p.mode.value:9} match {p.match_index} next {p.next_index} in flight {len(p._in_flight)}"
            for peer, p in sorted(self._leader(member).progress.items())
        ]

    def _leader(self, member: str) -> LeaderRole:
        role = self.stage.node(member).raft.state
        assert isinstance(role, LeaderRole), f"{member} does not lead"
        return role


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _seconds(duration: str) -> float:
    assert duration.endswith("ms"), f"{duration!r} is not in ms"
    return int(duration.removesuffix("ms")) / 1000


def _status(node: Member) -> str:
    role = type(node.raft.state).__name__.removesuffix("Role").lower()
    log = node.log
    return (
        f"{node.id} {role:9} term {node.raft.storage.term} last {log.last_log_index} "
        f"commit {log.commit_index} durable {log.durable_index}"
    )


def _terms(node: Member) -> list[int]:
    return [node.log.term_at(index) for index in range(node.log.base.index + 1, node.log.last_log_index + 1)]


def _outcome(request: asyncio.Future[Any] | None) -> str:
    if request is None:
        return "was not taken"
    if not request.done():
        return "waits"
    error = request.exception()
    if error is None:
        return f"done, returned {request.result()}"
    return _refusal(error) if isinstance(error, TrivetError) else f"failed: {error!r}"


def _refusal(error: TrivetError) -> str:
    return f"refused: {type(error).__name__}" + ("" if error.definite else ", may have happened")


def scenario_paths() -> list[Path]:
    """All scenarios, by name."""
    return sorted(SCENARIO_FOLDER.glob("*.txt"))


def play_scenario(path: Path) -> tuple[list[script.Block], list[script.Block]]:
    """(what the file expects, what happened). Raises what the engine raised."""
    expected = script.read(path)
    player = Player()

    async def main() -> list[script.Block]:
        try:
            return await script.play(expected, player.perform)
        finally:
            player.close()

    return expected, run_simulation(1, main())


def _kind(raw: bytes) -> str:
    received = decode(raw, "")
    assert received is not None
    return received.message.kind
