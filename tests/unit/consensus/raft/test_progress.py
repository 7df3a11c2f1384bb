"""What a leader knows of one follower: probing, pipelining, flow control."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.consensus.raft.progress import MAX_IN_FLIGHT_BATCHES, MAX_IN_FLIGHT_BYTES, FollowerProgress, Mode

BATCH_BYTES = 1000


def replicating(match_index: int = 5) -> FollowerProgress:
    """A follower that has confirmed everything up to `match_index`."""
    progress = FollowerProgress(match_index + 1)
    progress.accepted(match_index)
    return progress


def test_a_new_leader_probes_with_a_single_batch() -> None:
    """It does not know where the follower's log ends, so it does not pour its log out."""
    progress = FollowerProgress(6)
    assert progress.mode is Mode.PROBE
    assert progress.may_send()
    progress.sent(8, BATCH_BYTES)
    assert not progress.may_send()
    assert progress.next_index == 9


def test_an_acceptance_opens_the_pipeline() -> None:
    """From then on batches go out without waiting."""
    progress = FollowerProgress(6)
    progress.sent(8, BATCH_BYTES)
    assert progress.accepted(8)
    assert progress.mode is Mode.REPLICATE
    assert (progress.match_index, progress.next_index) == (8, 9)
    progress.sent(9, BATCH_BYTES)
    assert progress.may_send()


def test_the_window_by_count_is_full_at_its_limit_and_not_before() -> None:
    """One confirmed batch makes room for one."""
    progress = replicating()
    for number in range(MAX_IN_FLIGHT_BATCHES):
        assert progress.may_send(), number
        progress.sent(6 + number, BATCH_BYTES)
    assert not progress.may_send()
    progress.accepted(6)
    assert progress.may_send()


def test_the_window_by_bytes_is_full_at_its_limit_and_not_before() -> None:
    """Few large batches fill it as well."""
    progress = replicating()
    progress.sent(6, MAX_IN_FLIGHT_BYTES - 1)
    assert progress.may_send()
    progress.sent(7, 1)
    assert not progress.may_send()
    progress.accepted(6)
    assert progress.may_send()


def test_one_confirmation_covers_all_batches_before_it() -> None:
    """Answers may be lost or overtake each other."""
    progress = replicating()
    for number in range(MAX_IN_FLIGHT_BATCHES):
        progress.sent(6 + number, BATCH_BYTES)
    assert progress.accepted(5 + MAX_IN_FLIGHT_BATCHES)
    for number in range(MAX_IN_FLIGHT_BATCHES):
        assert progress.may_send(), number
        progress.sent(20 + number, BATCH_BYTES)
    assert not progress.may_send()


def test_an_old_confirmation_is_no_news_and_moves_nothing_back() -> None:
    """raftos assigns the match index, which then goes back."""
    progress = replicating(8)
    assert not progress.accepted(3)
    assert not progress.accepted(8)
    assert (progress.match_index, progress.next_index) == (8, 9)


def test_a_confirmation_does_not_pull_back_what_is_on_its_way() -> None:
    """next_index stays behind the last batch sent."""
    progress = replicating()
    progress.sent(6, BATCH_BYTES)
    progress.sent(7, BATCH_BYTES)
    assert progress.accepted(6)
    assert progress.next_index == 8


def test_a_rejection_goes_back_to_probing_at_the_hint() -> None:
    """And forgets what was in flight: the follower refuses all of that, too."""
    progress = replicating()
    progress.sent(6, BATCH_BYTES)
    progress.sent(7, BATCH_BYTES)
    assert progress.rejected(7, 6)
    assert progress.mode is Mode.PROBE
    assert progress.next_index == 6
    assert progress.may_send()


def test_a_rejection_older_than_what_is_known_is_ignored() -> None:
    """It was sent before the follower confirmed more; at the edge it is still old, one behind it is news."""
    progress = replicating(8)
    assert not progress.rejected(8, 2)
    assert (progress.mode, progress.next_index) == (Mode.REPLICATE, 9)
    assert progress.rejected(9, 2)
    assert progress.next_index == 9, "never below what is known to match"


def test_a_lost_connection_begins_again_behind_what_is_known() -> None:
    """What was in flight may be gone, and nobody will answer for it."""
    progress = replicating()
    for number in range(MAX_IN_FLIGHT_BATCHES):
        progress.sent(6 + number, BATCH_BYTES)
    progress.connection_lost()
    assert (progress.mode, progress.next_index) == (Mode.PROBE, 6)
    assert progress.may_send()


def test_a_connection_lost_before_anything_matched_leaves_the_place() -> None:
    """Otherwise a new leader would send its whole log to whoever reconnects."""
    progress = FollowerProgress(100)
    progress.connection_lost()
    assert progress.next_index == 100


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 3), st.integers(0, 2 * MAX_IN_FLIGHT_BYTES)),
        st.tuples(st.just("accept"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("reject"), st.integers(0, 40), st.integers(1, 40)),
        st.tuples(st.just("lose"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_happens_match_stays_below_next_and_the_window_is_kept(script: list[tuple[str, int, int]]) -> None:
    """The class's invariant, and at most one batch beyond the limit in bytes."""
    progress = FollowerProgress(4)
    known = 0
    for what, first, second in script:
        if what == "send" and progress.may_send():
            progress.sent(progress.next_index + first - 1, second)
        elif what == "accept" and first < progress.next_index:
            progress.accepted(first)
        elif what == "reject":
            progress.rejected(first, second)
        elif what == "lose":
            progress.connection_lost()
        assert known <= progress.match_index < progress.next_index
        assert len(progress._in_flight) <= MAX_IN_FLIGHT_BATCHES
        assert progress._in_flight_bytes == sum(size for _, size in progress._in_flight)
        known = progress.match_index
