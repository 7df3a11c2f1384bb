"""When a node may delete a chunk, and what it must record on one that it pulls. Pure.

They stand alone so that the loop, the answer to a confirmation request and the simulation decide by the same lines. The
schedules that each of them rules out are in docs/promises.md, "The life of a chunk" and "Epochs, drains and removals".
A *start index* is the largest log index that an upload, or a pull, recorded on a replica.
"""

from __future__ import annotations

from collections.abc import Collection


def may_delete_condemned(recorded_start_index: int, condemned_index: int) -> bool:
    """Whether a replica may be deleted because the log condemned its chunk. To be decided in the step that deletes.

    At an equal index it stays, and the publish of an upload that began there is refused: both sides are on the safe one.
    """
    return recorded_start_index < condemned_index


def pulled_start_index(source_start_index: int, reference_index: int) -> int:
    """What a pulled replica records: `reference_index` is the log index at which a file was seen to refer to the chunk.

    A condemnation below it was of an earlier time, when no file referred to the chunk, and must not delete the replica.
    """
    return max(source_start_index, reference_index)


def possible_start_index(given_start_index: int, reached_index: int) -> int:
    """What is recorded of a start index that another node gave, when the log had reached `reached_index` by its answer.

    Every upload records an index that it has read in the log, so a higher one is of none: the node is wrong, or its log was
    another. Cut, not refused, because the bytes are right, and they may be the last.
    """
    return min(given_start_index, reached_index)


def counts_as_confirmation(
    *, asker_epoch: int, answerer_epoch: int, is_expected_holder: bool, is_verified: bool
) -> bool:
    """Whether a node may confirm to another that it holds a chunk for good.

    Args:
        asker_epoch, answerer_epoch: of the node maps by which each of them decides.
        is_expected_holder: the answerer is one by its own node map.
        is_verified: its replica was written, or read past the page cache, not long ago.
    """
    return asker_epoch == answerer_epoch and is_expected_holder and is_verified


def may_drop_surplus(
    *,
    recorded_start_index: int,
    sent_start_index: int,
    decision_epoch: int,
    current_epoch: int,
    confirmed_by: Collection[str],
    expected: Collection[str],
    replica_count: int,
) -> bool:
    """Whether a replica that is not expected here may be deleted. To be decided in the step that deletes.

    Args:
        recorded_start_index: on the replica, in that step.
        sent_start_index: what the expected holders recorded before they confirmed. An upload that came since relies on
            this replica, too.
        decision_epoch, current_epoch: of the node map when the holders were asked, and in that step.
        confirmed_by: ids of the nodes whose confirmation counts.
        expected: ids of the expected holders in the decision's epoch.
        replica_count: with fewer expected holders than that, no replica is surplus.
    """
    return (
        recorded_start_index <= sent_start_index
        and decision_epoch == current_epoch
        and len(expected) >= replica_count
        and set(expected) <= set(confirmed_by)
    )


def is_orphan_candidate(recorded_start_index: int, aged_index: int, reference_check_index: int) -> bool:
    """Whether a replica to which no file referred at `reference_check_index` may be proposed for condemnation.

    Args:
        recorded_start_index: on the replica, read before the references were.
        aged_index: the newest log index that is older than the grace period, by the log's own age.
    """
    return recorded_start_index <= aged_index and reference_check_index >= recorded_start_index
