"""The decisions of Raft, paragraph by paragraph of the paper, on both sides of every edge."""

from __future__ import annotations

import itertools
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.raft import decide
from services.consensus.raft.decide import AppendDecision, LogPosition

MEMBERS = ["m1", "m2", "m3", "m4", "m5", "m6", "m7"]
terms = st.integers(1, 5)
# A log of the paper: terms of its entries, never falling (section 5.3).
logs = st.lists(terms, max_size=8).map(sorted)
positions = st.builds(LogPosition, term=st.integers(0, 4), index=st.integers(0, 4))


def match(
    follower: list[int], previous: int, entries: list[int], *, previous_term: int, commit: int = 0, base: int = 0
):
    """`match_append` on a follower whose entry i has term follower[i - 1]; what lies at or below `base` was cut away."""

    def term_at(index: int) -> int:
        assert base <= index <= len(follower), f"asked for {index}"
        return follower[index - 1] if index else 0

    return decide.match_append(
        base_index=base,
        last_index=len(follower),
        commit_index=commit,
        term_at=term_at,
        previous=LogPosition(previous_term, previous),
        entry_terms=entries,
    )


# --- majorities (sections 5.1, 5.2) --------------------------------------------------------------------------------


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_section_5_2_a_majority_is_more_than_half(voters: int, needed: int) -> None:
    """Also for even sizes, where raftos' own rule accepts one too few."""
    assert decide.majority(voters) == needed


@given(st.integers(1, 1000))
def test_section_5_4_3_any_two_majorities_share_a_member(voters: int) -> None:
    """And a majority is never more than everybody."""
    assert 2 * decide.majority(voters) > voters >= decide.majority(voters)


def test_section_5_2_nobody_has_a_majority_of_no_voters() -> None:
    """A member that was never initialised elects nobody, not even by asking nobody."""
    assert not decide.has_majority([], frozenset())
    assert not decide.has_majority(["m1"], frozenset())


def test_section_6_members_that_do_not_vote_do_not_count() -> None:
    """Learners and strangers add nothing to a majority, and neither does saying it twice."""
    voters = frozenset({"m1", "m2", "m3"})
    assert decide.has_majority(["m1", "m2"], voters)
    assert not decide.has_majority(["m1", "m4", "m5"], voters)
    assert not decide.has_majority(["m1", "m1", "m1"], voters)


# --- votes (sections 5.2, 5.4.1) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LogPosition(3, 1), LogPosition(2, 9)),  # the later term wins, however short the log
        (LogPosition(2, 4), LogPosition(2, 3)),  # in one term, the longer log wins
        (LogPosition(1, 1), LogPosition(0, 0)),  # anything is more than nothing
    ],
)
def test_section_5_4_1_more_up_to_date_is_later_term_then_longer_log(one: LogPosition, other: LogPosition) -> None:
    """The election restriction compares the last entries."""
    assert one > other
    assert decide.grant_vote(None, "m1", one, other)
    assert not decide.grant_vote(None, "m1", other, one)


def test_section_5_4_1_at_least_as_up_to_date_is_enough() -> None:
    """Equal logs: the vote is granted."""
    assert decide.grant_vote(None, "m1", LogPosition(2, 3), LogPosition(2, 3))


@pytest.mark.parametrize(("voted_for", "is_granted"), [(None, True), ("m1", True), ("m2", False)])
def test_section_5_2_one_vote_per_term_first_come_first_served(voted_for: str | None, is_granted: bool) -> None:
    """Figure 2: if votedFor is null or the candidate itself; a repeated request gets the same answer."""
    end = LogPosition(1, 1)
    assert decide.grant_vote(voted_for, "m1", end, end) is is_granted


def test_section_5_2_a_better_log_does_not_buy_a_second_vote() -> None:
    """Who was voted for stays voted for."""
    assert not decide.grant_vote("m2", "m1", LogPosition(9, 9), LogPosition(1, 1))


@given(positions, positions, st.sampled_from([None, "m1", "m2"]))
def test_figure_2_request_vote(candidate: LogPosition, own: LogPosition, voted_for: str | None) -> None:
    """The rule of the figure, written out."""
    is_free = voted_for is None or voted_for == "m1"
    is_up_to_date = candidate.term > own.term or (candidate.term == own.term and candidate.index >= own.index)
    assert decide.grant_vote(voted_for, "m1", candidate, own) == (is_free and is_up_to_date)


# --- pre-votes (thesis, section 9.6) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "end", "hears_leader", "is_granted"),
    [
        (6, LogPosition(3, 3), False, True),
        (5, LogPosition(3, 3), False, False),  # its term would not be a new one
        (6, LogPosition(3, 2), False, False),  # its log is behind
        (6, LogPosition(4, 1), False, True),
        (6, LogPosition(3, 3), True, False),  # nobody needs an election
    ],
)
def test_thesis_9_6_a_pre_vote_is_what_a_vote_would_be(
    term: int, end: LogPosition, hears_leader: bool, is_granted: bool
) -> None:
    """And is refused while a leader is heard (thesis, section 4.2.3)."""
    assert decide.grant_pre_vote(term, 5, end, LogPosition(3, 3), hears_leader=hears_leader) is is_granted


@given(st.integers(0, 9), st.integers(0, 9), positions, positions)
def test_thesis_9_6_a_promised_vote_would_be_granted(
    candidate_term: int, term: int, candidate: LogPosition, own: LogPosition
) -> None:
    """Nothing is promised that a voter, free in the new term, would then refuse."""
    if decide.grant_pre_vote(candidate_term, term, candidate, own, hears_leader=False):
        assert decide.grant_vote(None, "m1", candidate, own)


# --- AppendEntries (section 5.3) -----------------------------------------------------------------------------------


def test_figure_2_append_1_2_reply_false_if_the_log_has_no_entry_at_previous() -> None:
    """The answer names the end of the log, so that the leader does not go back one by one."""
    assert match([1, 1], 3, [2], previous_term=1) == AppendDecision(is_accepted=False, hint_index=3)
    assert match([1, 1], 2, [2], previous_term=1).is_accepted


def test_figure_2_append_2_reply_false_if_the_terms_at_previous_differ() -> None:
    """Section 5.3, last paragraph: one rejection per conflicting term, not per entry."""
    assert match([1, 2, 2, 2], 4, [3], previous_term=3) == AppendDecision(is_accepted=False, hint_index=2)


def test_section_5_3_a_hint_never_points_at_what_is_committed() -> None:
    """What is committed equals the leader's log, so there is nothing to compare."""
    assert match([1, 2, 2, 2], 4, [3], previous_term=3, commit=2).hint_index == 3
    assert match([], 4, [3], previous_term=3).hint_index == 1


def test_figure_2_append_3_a_conflicting_entry_is_erased_with_all_that_follow() -> None:
    """From the first conflict on; what was equal before it stays."""
    decision = match([1, 1, 2, 2], 1, [1, 3, 3], previous_term=1)
    assert decision == AppendDecision(is_accepted=True, erase_from=3, skip=1, match_index=4)


def test_figure_2_append_4_only_entries_not_yet_in_the_log_are_appended() -> None:
    """What is there already is skipped."""
    assert match([1, 1], 0, [1, 1, 2], previous_term=0) == AppendDecision(is_accepted=True, skip=2, match_index=3)


@pytest.mark.parametrize(("previous", "entries"), [(0, [1]), (1, []), (1, [1]), (0, []), (2, [2])])
def test_section_5_3_a_stale_append_erases_nothing(previous: int, entries: list[int]) -> None:
    """A message that says less than the log holds does not shorten it, and confirms only what it compared."""
    follower = [1, 1, 2, 2]
    decision = match(follower, previous, entries, previous_term=0 if previous == 0 else follower[previous - 1])
    assert decision.is_accepted
    assert decision.erase_from is None
    assert decision.match_index == previous + len(entries) < len(follower)


def test_section_5_3_a_heartbeat_confirms_only_up_to_previous() -> None:
    """The tail behind it may be of a leader that is gone."""
    assert match([1, 2, 2], 1, [], previous_term=1).match_index == 1


def test_a_leader_that_contradicts_a_committed_entry_is_our_own_mistake() -> None:
    """Leader completeness rules it out, so it must not be obeyed in silence."""
    with pytest.raises(AssertionError):
        match([1, 1, 1], 1, [2], previous_term=1, commit=2)
    assert match([1, 1, 1], 1, [2], previous_term=1, commit=1).erase_from == 2


def test_section_7_what_was_cut_away_matches() -> None:
    """Entries below a checkpoint are committed, so they equal every leader's; their terms are never asked for."""
    assert match([1, 1, 1, 2], 1, [1, 1, 2, 3], previous_term=1, base=3, commit=3) == AppendDecision(
        is_accepted=True, skip=3, match_index=5
    )
    assert match([1, 1, 1, 2], 3, [], previous_term=1, base=3, commit=3).match_index == 3
    # The entry right behind the cut does not match: the hint stays behind the cut.
    assert match([1, 1, 1, 2], 4, [], previous_term=3, base=3, commit=3).hint_index == 4


@given(logs, logs, st.data())
def test_section_5_3_match_append_agrees_with_two_logs_laid_side_by_side(
    follower: list[int], leader: list[int], data: st.DataObject
) -> None:
    """Log matching: after any accepted append both logs agree up to where the follower says they do."""
    # Two logs that Raft can produce agree up to some index, and have no equal (index, term) behind it.
    shared = next((i for i, (a, b) in enumerate(zip(follower, leader, strict=False)) if a != b), None)
    if shared is not None:
        pairs = zip(follower[shared:], leader[shared:], strict=False)
        follower = follower[: shared + next((i for i, (a, b) in enumerate(pairs) if i and a == b), len(follower))]
    previous = data.draw(st.integers(0, len(leader)), label="previous")
    count = data.draw(st.integers(0, len(leader) - previous), label="count")
    entries = leader[previous : previous + count]
    decision = match(follower, previous, entries, previous_term=leader[previous - 1] if previous else 0)

    has_previous = previous <= len(follower) and follower[:previous] == leader[:previous]
    assert decision.is_accepted == has_previous
    if not decision.is_accepted:
        # The leader goes back at least by one, and never behind an entry on which both logs differ for the first time.
        assert 1 <= decision.hint_index <= previous
        return
    kept = follower if decision.erase_from is None else follower[: decision.erase_from - 1]
    result = kept + entries[decision.skip :] if decision.skip < len(entries) else kept
    assert decision.match_index == previous + count
    assert result[: decision.match_index] == leader[: decision.match_index]
    # Nothing is lost without a conflict: either the whole log is still there, or an entry of it really differed.
    if result[: len(follower)] != follower:
        differs = next(i for i in range(len(follower)) if i >= decision.match_index or follower[i] != leader[i])
        assert differs < decision.match_index
        assert result == leader[: decision.match_index]


# --- the leader's next index (section 5.3) -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match_index", "rejected", "hint", "expected"),
    [
        (0, 9, 4, 4),  # the follower's hint is taken
        (0, 4, 9, 4),  # but never beyond what it refused
        (6, 9, 2, 7),  # and never below what is known to match
        (0, 1, 1, 1),  # index 1 is the beginning
    ],
)
def test_section_5_3_after_a_rejection_the_leader_goes_back(
    match_index: int, rejected: int, hint: int, expected: int
) -> None:
    """Each rejection brings it nearer, so the two logs meet."""
    assert (
        decide.next_index_after_rejection(match_index=match_index, rejected_previous=rejected, hint_index=hint)
        == expected
    )


@given(logs, logs)
def test_section_5_3_leader_and_follower_always_meet(follower: list[int], leader: list[int]) -> None:
    """Rejections end after at most one per term of the follower, plus one for its length."""
    next_index = len(leader) + 1
    for _ in range(len(set(follower)) + 2):
        previous = next_index - 1
        decision = match(follower, previous, [], previous_term=leader[previous - 1] if previous else 0)
        if decision.is_accepted:
            return
        next_index = decide.next_index_after_rejection(
            match_index=0, rejected_previous=previous, hint_index=decision.hint_index
        )
        assert next_index <= previous, "no progress"
    raise AssertionError(f"still refused at {next_index}")


# --- commit (sections 5.3, 5.4.2) ----------------------------------------------------------------------------------


def committed(match_index: dict[str, int], log: list[int], *, term: int, before: int = 0, voters: int = 3) -> int:
    """`commit_index` for the first `voters` members and a leader's log of these terms."""
    return decide.commit_index(
        voters=frozenset(MEMBERS[:voters]),
        match_index=match_index,
        term_at=lambda index: log[index - 1],
        current_term=term,
        committed=before,
    )


def test_section_5_3_an_entry_on_a_majority_is_committed() -> None:
    """With all that come before it; one copy short of a majority it is not."""
    assert committed({"m1": 3, "m2": 3}, [1, 1, 1], term=1) == 3
    assert committed({"m1": 3, "m2": 2}, [1, 1, 1], term=1) == 2
    assert committed({"m1": 3}, [1, 1, 1], term=1) == 0


def test_section_5_4_2_figure_8_an_entry_of_an_old_term_is_not_committed_by_counting() -> None:
    """Only together with an entry of the leader's own term."""
    assert committed({"m1": 3, "m2": 2, "m3": 2}, [1, 2, 4], term=4) == 0
    assert committed({"m1": 3, "m2": 3, "m3": 2}, [1, 2, 4], term=4) == 3


def test_figure_2_the_commit_index_never_goes_back() -> None:
    """Nobody's lower match index takes anything away."""
    assert committed({"m1": 1, "m2": 1, "m3": 1}, [1, 1, 1], term=1, before=2) == 2


def test_section_6_only_voters_count_and_a_leader_outside_of_them_does_not() -> None:
    """A leader that is being removed commits without counting itself."""
    assert committed({"m1": 2, "m4": 2, "m5": 2}, [1, 1], term=1) == 0
    assert committed({"m9": 2, "m1": 2, "m2": 1}, [1, 1], term=1) == 1


def test_without_voters_nothing_is_committed() -> None:
    """An empty configuration has no majority."""
    assert committed({"m1": 5}, [1] * 5, term=1, before=1, voters=0) == 1


@given(st.data(), st.integers(1, 7))
def test_figure_2_commit_index_agrees_with_trying_every_index(data: st.DataObject, voters: int) -> None:
    """There is an N > commitIndex, a majority of matchIndex >= N, log[N].term == currentTerm: take the largest."""
    log = data.draw(logs)
    term = data.draw(st.integers(log[-1] if log else 1, 6), label="term")
    before = data.draw(st.integers(0, len(log)), label="committed")
    indexes = st.integers(0, len(log))
    match_index = {name: data.draw(indexes, label=name) for name in MEMBERS[:voters]}
    wanted = before
    for index in range(before + 1, len(log) + 1):
        copies = sum(1 for name in MEMBERS[:voters] if match_index[name] >= index)
        if copies * 2 > voters and log[index - 1] == term:
            wanted = index
    assert committed(match_index, log, term=term, before=before, voters=voters) == wanted


def test_section_5_4_3_a_committed_entry_is_on_somebody_of_every_majority() -> None:
    """Exhaustively for five voters and two entries: whoever is elected next can be asked by one that has it."""
    for ends in product(range(3), repeat=5):
        index = committed(dict(zip(MEMBERS, ends, strict=False)), [1, 1], term=1, voters=5)
        holders = sum(end >= index for end in ends)
        assert holders + decide.majority(5) > 5


def majorities(voters: frozenset[str]) -> list[frozenset[str]]:
    """Every smallest majority."""
    return [frozenset(chosen) for chosen in itertools.combinations(sorted(voters), decide.majority(len(voters)))]


def test_a_permitted_change_of_voters_leaves_no_two_majorities_apart() -> None:
    """Thesis 4.1, over all pairs of sets of five members: one joins or leaves, or none does; two at once never."""
    sets = [frozenset(some) for count in range(6) for some in itertools.combinations(MEMBERS[:5], count)]
    permitted = [(old, new) for old in sets for new in sets if decide.is_single_change(old, new)]
    for old, new in permitted:
        assert all(one & other for one in majorities(old) for other in majorities(new)) or not old
    assert {(old, new) for old, new in permitted if old} == {
        (old, new) for old in sets for new in sets if old and new and len(old ^ new) <= 1
    }
    assert not any(not new for _, new in permitted), "a cluster without voters"
