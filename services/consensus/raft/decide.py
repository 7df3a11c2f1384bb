"""Every safety decision of Raft as a pure function: no clock, disk, socket or role inside.

Sources: the Raft paper, figure 2 and sections 5.2-5.4; pre-vote from Ongaro's thesis, section 9.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """Where a log ends. Positions compare as section 5.4.1 asks: the later term wins, then the longer log."""

    term: int
    index: int


def majority(voter_count: int) -> int:
    """Fewest voters that are more than half: 1, 2, 2, 3, 3 for 1 to 5. Zero voters have no majority at all."""
    return voter_count // 2 + 1


def has_majority(members: Iterable[str], voters: frozenset[str]) -> bool:
    """Whether `members` contain a majority of `voters`; others in `members` do not count."""
    return len(voters.intersection(members)) >= majority(len(voters))


def majority_round_trip_ms(member: str, voters: frozenset[str], round_trips_ms: Mapping[str, int]) -> int | None:
    """How soon a majority of `voters` can have answered `member`; None when it is not known, as for a non-voter."""
    if member not in voters:
        return None
    known = sorted(round_trips_ms[voter] for voter in voters - {member} if voter in round_trips_ms)
    others_needed = majority(len(voters)) - 1
    return [0, *known][others_needed] if len(known) >= others_needed else None


def grant_vote(voted_for: str | None, candidate: str, candidate_end: LogPosition, own_end: LogPosition) -> bool:
    """Section 5.2 and 5.4.1, for a candidate whose term is the voter's current term.

    Invariant: at most one candidate per term is granted, because `voted_for` is durable before the answer.
    """
    return voted_for in {None, candidate} and candidate_end >= own_end


def grant_pre_vote(
    candidate_term: int, current_term: int, candidate_end: LogPosition, own_end: LogPosition, *, hears_leader: bool
) -> bool:
    """Thesis 9.6: would this vote be granted if there were an election? Promises nothing and changes nothing."""
    return candidate_term > current_term and candidate_end >= own_end and not hears_leader


def is_single_change(old: frozenset[str], new: frozenset[str]) -> bool:
    """Thesis 4.1: one voter joins or leaves, or none does; then any two majorities of old and new overlap."""
    return bool(new) and len(old ^ new) <= 1


@dataclass(frozen=True, slots=True)
class AppendDecision:
    """What a follower does with one AppendEntries.

    Attributes:
        is_accepted: the entry before the new ones matches (log matching property, section 5.3).
        hint_index: when refused, the index that the leader should try as the next one; otherwise 0.
        erase_from: first index to erase because its term conflicts, or None.
        skip: how many of the leading entries are in the log already.
        match_index: when accepted, up to where the follower's log is known to equal the leader's.
    """

    is_accepted: bool
    hint_index: int = 0
    erase_from: int | None = None
    skip: int = 0
    match_index: int = 0


def match_append(
    *,
    base_index: int,
    last_index: int,
    commit_index: int,
    term_at: Callable[[int], int],
    previous: LogPosition,
    entry_terms: Sequence[int],
) -> AppendDecision:
    """Section 5.3: compare an AppendEntries with the follower's log.

    `term_at(i)` is asked for base_index <= i <= last_index only. Entries at or below `base_index` are committed and no
    longer in the log, so they match by the leader completeness property.

    Only a real conflict of terms erases anything: an old, duplicate or reordered message never shortens the log.
    """
    if previous.index > last_index:
        return AppendDecision(is_accepted=False, hint_index=max(last_index, commit_index) + 1)
    if previous.index > base_index and term_at(previous.index) != previous.term:
        return AppendDecision(
            is_accepted=False,
            hint_index=_first_of_term(term_at, previous.index, max(base_index, commit_index)),
        )
    skip = 0
    for offset, term in enumerate(entry_terms):
        index = previous.index + 1 + offset
        if index > last_index or (index > base_index and term_at(index) != term):
            break
        skip += 1
    first_new = previous.index + 1 + skip
    conflicts = skip < len(entry_terms) and first_new <= last_index
    assert not (conflicts and first_new <= commit_index), "a leader contradicts a committed entry"
    return AppendDecision(
        is_accepted=True,
        erase_from=first_new if conflicts else None,
        skip=skip,
        match_index=previous.index + len(entry_terms),
    )


def _first_of_term(term_at: Callable[[int], int], index: int, floor: int) -> int:
    """First index above `floor` of the run of equal terms that `index` ends (section 5.3: skip a whole term).

    What is committed matches, so nobody needs to look below it: a term may be millions of entries long.
    """
    term = term_at(index)
    while index - 1 > floor and term_at(index - 1) == term:
        index -= 1
    return index


def next_index_after_rejection(*, match_index: int, rejected_previous: int, hint_index: int) -> int:
    """Where a leader goes on after a rejection: never below what is known to match, never beyond what was refused."""
    return max(match_index + 1, min(hint_index, rejected_previous))


def commit_index(
    *,
    voters: frozenset[str],
    match_index: Mapping[str, int],
    term_at: Callable[[int], int],
    current_term: int,
    committed: int,
) -> int:
    """The leader's new commit index: figure 2, "Rules for Servers", Leaders.

    `match_index` holds for each voter, the leader included, up to where its log is durable and equal to the leader's.
    Only an entry of the leader's own term is committed by counting (section 5.4.2, figure 8). Never goes back.
    """
    if not voters:
        return committed
    ranked = sorted((match_index.get(voter, 0) for voter in voters), reverse=True)
    candidate = ranked[majority(len(voters)) - 1]
    if candidate > committed and term_at(candidate) == current_term:
        return candidate
    return committed
