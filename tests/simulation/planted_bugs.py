"""Bugs that other Raft implementations had, planted here to test the tests: `python -m tests.simulation.planted_bugs`.

Each is patched in from outside, for the length of one test; shipped code has no switch that weakens it. A bug must be
caught by the directed scenario that names its situation; the table also says which random seed finds it, if one of those
that every test run plays does.

Some are planted into `RegisterMachine`, which stands for the metadata store here, and ask whether the engine's checks would show
what such a store does to a cluster. The same promises of the store itself are held by mutants of shipped code
(`tests/mutation`): "a repeated request is applied again", "a checkpoint syncs nothing", "a checkpoint reads its index at its
end", "a copy is of no single index".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from services.consensus import member as node
from services.consensus.raft import decide
from services.consensus.raft.candidate import CandidateRole
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.follower import FollowerRole
from services.consensus.raft.leader import LeaderRole
from services.consensus.raft.log import RaftLog
from services.consensus.raft.messages import Received, RequestVote, TimeoutNow
from services.consensus.raft.ports import LogDamagedError
from services.consensus.raft.progress import FollowerProgress
from services.consensus.raft.reads import ReadRounds
from services.consensus.raft.seam import BaseCandidate
from services.consensus.raft.state import RaftState
from tests.simulation import script
from tests.simulation.chaos import Chaos
from tests.simulation.disk import Registers
from tests.simulation.player import play_scenario, scenario_paths
from tests.simulation.registers import RegisterMachine, RegisterSnapshot
from tests.simulation.virtual_loop import run_simulation

Plant = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(40)

# What a check raises. Anything else (TypeError, AttributeError, ...) means that the planted code itself is broken, and
# must not pass for a bug that was caught.
_VERDICTS = (AssertionError, LogDamagedError)


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """One bug.

    Attributes:
        name: what is wrong, in words.
        plant: patches it in.
        scenario: the directed scenario that must catch it.
        is_found_by_seeds: whether random schedules of the normal test run must catch it, too.
    """

    name: str
    plant: Plant
    scenario: str
    is_found_by_seeds: bool = False


def _vote_not_durable(patch: pytest.MonkeyPatch) -> None:
    own_class_of = node.own_class_of

    class ForgetfulVotes:
        """Remembers the vote in memory, and writes the term only."""

        def __init__(self, store: Any) -> None:
            self._store = store
            self.voted_for = store.voted_for

        @property
        def term(self) -> int:
            return self._store.term

        def update(self, change: dict[str, Any]) -> None:
            self.voted_for = change.get("voted_for", self.voted_for)
            self._store.update({"term": change.get("term", self.term), "voted_for": None})

    patch.setattr(
        node,
        "own_class_of",
        lambda member: (
            lambda member_id, *, hard_state, **parts: own_class_of(member)(
                member_id, hard_state=ForgetfulVotes(hard_state), **parts
            )
        ),
    )


def _acknowledged_before_fsync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        FollowerRole,
        "_answer_when_durable",
        lambda self, index, answer, received: self.state.post(answer, received.sender),
    )


def _patch_match(
    patch: pytest.MonkeyPatch, change: Callable[[decide.AppendDecision, int], decide.AppendDecision]
) -> None:
    right = decide.match_append

    def match_append(*, last_index: int, **message: Any) -> decide.AppendDecision:
        decision = right(last_index=last_index, **message)
        return change(decision, last_index) if decision.is_accepted else decision

    patch.setattr(decide, "match_append", match_append)


def _stale_append_erases(patch: pytest.MonkeyPatch) -> None:
    def change(decision: decide.AppendDecision, last_index: int) -> decide.AppendDecision:
        if decision.erase_from is None and decision.match_index < last_index:
            return replace(decision, erase_from=decision.match_index + 1)
        return decision

    _patch_match(patch, change)


def _unverified_tail_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def change(decision: decide.AppendDecision, last_index: int) -> decide.AppendDecision:
        if decision.erase_from is None:
            return replace(decision, match_index=max(decision.match_index, last_index))
        return decision

    _patch_match(patch, change)


def _read_without_barrier(patch: pytest.MonkeyPatch) -> None:
    async def read_index(self: LeaderRole) -> int:
        return int(self.log.commit_index)

    patch.setattr(LeaderRole, "read_index", read_index)


def _even_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "majority", lambda voter_count: (voter_count - 1) // 2 + 1)


def _vote_reset_on_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FollowerRole, "init_storage", lambda self: self.storage.update({"voted_for": None}))


def _old_term_committed_by_counting(patch: pytest.MonkeyPatch) -> None:
    right = decide.commit_index

    def commit_index(*, current_term: int, **facts: Any) -> int:
        return right(**(facts | {"term_at": lambda _: current_term}), current_term=current_term)

    patch.setattr(decide, "commit_index", commit_index)


def _read_served_after_step_down(patch: pytest.MonkeyPatch) -> None:
    right = ReadRounds.fail

    def fail(self: ReadRounds) -> list[Any]:
        for read in right(self):
            read.set_result(None)
        return []

    patch.setattr(ReadRounds, "fail", fail)


def _patch_handler(patch: pytest.MonkeyPatch, role: Any, handler: Any) -> None:
    # The engine enters handlers of its own modules only, so the planted one says that it is one of them.
    handler.__module__ = role.__module__
    patch.setattr(role, handler.__name__, handler)


def _duplicate_votes_counted(patch: pytest.MonkeyPatch) -> None:
    def on_receive_request_vote_response(self: CandidateRole, received: Any) -> None:
        BaseCandidate.on_receive_request_vote_response(self, received)

    _patch_handler(patch, CandidateRole, on_receive_request_vote_response)


def _transfer_ignores_the_log(patch: pytest.MonkeyPatch) -> None:
    right = FollowerRole.on_receive_request_vote

    def on_receive_request_vote(self: FollowerRole, received: Received[RequestVote]) -> None:
        if received.message.transfer:
            received = Received(received.sender, replace_fields(received.message, last_log_term=1 << 40))
        right(self, received)

    _patch_handler(patch, FollowerRole, on_receive_request_vote)


def _transfer_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    def hand_over(self: LeaderRole, peer: str, progress: FollowerProgress) -> None:
        if peer == self.transfer_target:
            self.state.post(TimeoutNow(self.term), peer)

    patch.setattr(LeaderRole, "_hand_over_if_ready", hand_over)


def _flow_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    def sent(self: FollowerProgress, last_index: int, size_bytes: int) -> None:
        self.next_index = last_index + 1

    patch.setattr(FollowerProgress, "sent", sent)


def _repeated_proposal_applied_twice(patch: pytest.MonkeyPatch) -> None:
    right = RegisterMachine._apply

    def apply(self: RegisterMachine, entry: Any) -> Any:
        self.state.results.clear()
        return right(self, entry)

    patch.setattr(RegisterMachine, "_apply", apply)


def _end_of_an_overtaken_fsync_counts(patch: pytest.MonkeyPatch) -> None:
    right = RaftLog._flushed

    def flushed(self: RaftLog, generation: int, last_index: int, error: BaseException | None) -> None:
        right(self, self._generation, min(last_index, self._last_index), error)

    patch.setattr(RaftLog, "_flushed", flushed)


def _applied_before_durable_here(patch: pytest.MonkeyPatch) -> None:
    right = node.Member._apply_next

    def apply_next(self: node.Member) -> None:
        durable, self.log.durable_index = self.log.durable_index, self.log.last_log_index
        right(self)
        self.log.durable_index = durable

    patch.setattr(node.Member, "_apply_next", apply_next)


def _snapshot_index_off_by_one(patch: pytest.MonkeyPatch) -> None:
    right = RegisterMachine.take_snapshot

    def take_snapshot(self: RegisterMachine) -> RegisterSnapshot:
        snapshot = right(self)
        state = Registers.unpack(snapshot.read(0, snapshot.size_bytes))
        state.last_applied += 1
        return RegisterSnapshot(state)

    patch.setattr(RegisterMachine, "take_snapshot", take_snapshot)


def _requests_lost_in_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    def take_snapshot(self: RegisterMachine) -> RegisterSnapshot:
        state = self.state.copy()
        state.results.clear()
        return RegisterSnapshot(state)

    patch.setattr(RegisterMachine, "take_snapshot", take_snapshot)


def _learner_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Configuration, "voters", property(lambda self: frozenset(member.id for member in self.members)))


def _two_changes_at_once(patch: pytest.MonkeyPatch) -> None:
    right = LeaderRole.propose_configuration

    def propose_configuration(self: LeaderRole, configuration: Configuration) -> Any:
        committed = self.log.commit_index
        if committed >= self.first_index:
            self.log.commit_index = self.log.last_log_index
        try:
            return right(self, configuration)
        finally:
            self.log.commit_index = committed

    patch.setattr(LeaderRole, "propose_configuration", propose_configuration)


def _change_before_an_own_entry_is_committed(patch: pytest.MonkeyPatch) -> None:
    right = LeaderRole.propose_configuration

    def propose_configuration(self: LeaderRole, configuration: Configuration) -> Any:
        first, self.first_index = self.first_index, 0
        try:
            return right(self, configuration)
        finally:
            self.first_index = first

    patch.setattr(LeaderRole, "propose_configuration", propose_configuration)


def _read_not_applied(patch: pytest.MonkeyPatch) -> None:
    async def wait_applied(self: node.Member, index: int) -> None:
        pass

    patch.setattr(node.Member, "wait_applied", wait_applied)


def _read_proven_by_an_earlier_round(patch: pytest.MonkeyPatch) -> None:
    right = ReadRounds.begin
    patch.setattr(ReadRounds, "begin", lambda self, request_id: right(self, request_id - 1))


def _log_cut_beyond_the_checkpoint(patch: pytest.MonkeyPatch) -> None:
    right = RaftLog.cut_point
    patch.setattr(RaftLog, "cut_point", lambda self, limit_index, **limits: right(self, limit_index + 1, **limits))


def _checkpoint_claimed_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RegisterMachine, "checkpoint", lambda self: self.last_applied)


def _snapshot_replaces_a_log_that_goes_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RaftLog, "has", lambda self, position: position.index <= self.base.index)


def _member_without_state_campaigns(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RaftState, "may_campaign", lambda self: self.id in self.voters)


BUGS = (
    PlantedBug("vote not durable", _vote_not_durable, "durable_vote_before_answer", is_found_by_seeds=True),
    PlantedBug(
        "acknowledgement before fsync", _acknowledged_before_fsync, "async_storage_writes", is_found_by_seeds=True
    ),
    PlantedBug("erase on a stale append", _stale_append_erases, "stale_append_does_not_erase", is_found_by_seeds=True),
    PlantedBug("read without barrier", _read_without_barrier, "read_needs_a_quorum", is_found_by_seeds=True),
    PlantedBug("raftos' quorum of even sizes", _even_quorum, "even_quorum", is_found_by_seeds=True),
    PlantedBug("vote reset on restart", _vote_reset_on_restart, "durable_vote_before_answer", is_found_by_seeds=True),
    PlantedBug("old term committed by counting", _old_term_committed_by_counting, "figure_8", is_found_by_seeds=True),
    PlantedBug("unverified tail acknowledged", _unverified_tail_acknowledged, "unverified_tail_is_not_acknowledged"),
    PlantedBug("read served after step-down", _read_served_after_step_down, "read_after_step_down"),
    PlantedBug("duplicate votes counted", _duplicate_votes_counted, "duplicate_votes"),
    PlantedBug(
        "transfer's vote request ignores the log",
        _transfer_ignores_the_log,
        "transfer_request_checks_the_log",
        is_found_by_seeds=True,
    ),
    PlantedBug("transfer does not wait for the target", _transfer_does_not_wait, "transfer_to_lagging_follower"),
    PlantedBug("what is in flight is not counted", _flow_is_not_counted, "replicate_pause"),
    PlantedBug("repeated proposal applied twice", _repeated_proposal_applied_twice, "repeated_proposal"),
    PlantedBug(
        "end of an overtaken fsync counts", _end_of_an_overtaken_fsync_counts, "async_storage_writes_append_aba_race"
    ),
    PlantedBug(
        "applied before durable here", _applied_before_durable_here, "async_storage_writes", is_found_by_seeds=True
    ),
    PlantedBug(
        "snapshot index off by one",
        _snapshot_index_off_by_one,
        "slow_follower_after_compaction",
        is_found_by_seeds=True,
    ),
    PlantedBug(
        "idempotency table lost in a snapshot",
        _requests_lost_in_a_snapshot,
        "slow_follower_after_compaction",
        is_found_by_seeds=True,
    ),
    PlantedBug("learner counted in a quorum", _learner_counted, "learner_is_no_quorum", is_found_by_seeds=True),
    PlantedBug("two membership changes at once", _two_changes_at_once, "two_changes_at_once"),
    PlantedBug(
        "membership change before an own entry is committed",
        _change_before_an_own_entry_is_committed,
        "change_waits_for_own_term",
    ),
    PlantedBug("read before it is applied", _read_not_applied, "read_waits_until_applied", is_found_by_seeds=True),
    PlantedBug(
        "read proven by answers to an earlier heartbeat", _read_proven_by_an_earlier_round, "read_needs_a_new_round"
    ),
    PlantedBug("log cut beyond the checkpoint", _log_cut_beyond_the_checkpoint, "checkpoint_ends_late"),
    PlantedBug(
        "checkpoint claimed before it is durable",
        _checkpoint_claimed_before_it_is_durable,
        "checkpoint_before_cut",
        is_found_by_seeds=True,
    ),
    PlantedBug(
        "snapshot replaces a log that goes on beyond it",
        _snapshot_replaces_a_log_that_goes_on,
        "lost_state_keeps_the_log",
    ),
    PlantedBug("member without state campaigns", _member_without_state_campaigns, "lost_state_is_rebuilt"),
)


@contextmanager
def planted(bug: PlantedBug) -> Any:
    """The bug is in the engine inside the block, and gone after it."""
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        yield


def verdict_of_scenario(path: Path) -> str | None:
    """What a scenario complains about, or None when it goes as written."""
    try:
        expected, actual = play_scenario(path)
    except _VERDICTS as error:
        return f"{type(error).__name__}: {error}"
    return script.side_by_side(expected, actual) or None


def verdict_of_seed(seed: int) -> str | None:
    """What a random life complains about, or None when it goes well."""
    try:
        run_simulation(seed, Chaos(seed).run())
    except Exception as error:
        causes = _leaves(error)
        if not all(isinstance(cause, _VERDICTS) for cause in causes):
            raise
        return f"{type(causes[0]).__name__}: {causes[0]}"
    return None


def first_seed(seeds: Iterable[int]) -> tuple[int, str] | None:
    """The first seed that complains, with its complaint."""
    for seed in seeds:
        verdict = verdict_of_seed(seed)
        if verdict is not None:
            return seed, verdict
    return None


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def main() -> None:
    """Print the table: every bug, every scenario that catches it, the first seed that does."""
    caught_count = 0
    for bug in BUGS:
        with planted(bug):
            begun = time.monotonic()
            scenarios = [path.stem for path in scenario_paths() if verdict_of_scenario(path)]
            scenarios_s = time.monotonic() - begun
            begun = time.monotonic()
            seed = first_seed(SEEDS)
            seeds_s = time.monotonic() - begun
        caught_count += bug.scenario in scenarios
        found = f"seed {seed[0]}" if seed else f"none of seeds 0..{SEEDS.stop - 1}"
        sys.stdout.write(
            f"{bug.name:40} {bug.scenario:38} all scenarios {scenarios_s:4.1f} s   {found} ({seeds_s:.1f} s)\n"
        )
        others = [name for name in scenarios if name != bug.scenario]
        sys.stdout.write(f"    also: {', '.join(others) or '-'}\n" + (f"    seed: {seed[1][:150]}\n" if seed else ""))
    sys.stdout.write(f"{caught_count} of {len(BUGS)} caught by the scenario that names the situation\n")


if __name__ == "__main__":
    main()
