"""Would the suites notice? Plants each bug into real processes, runs the test that should fail, and prints a table (D-74).

    python -m tests.faults.planted_bugs [name ...]

A bug is caught only if its test failed for the reason that stands in the table, and passes without it: a bug that no longer fits
the code keeps a cluster from becoming ready, and that fails every test. A test may need luck to meet a bug, so each is tried a
few times. Exit status 1 unless all are caught.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.planted.bugs import BUGS
from tests.faults.planted.plugin import VARIABLE
from tests.mutation.trials import CAUGHT, SURVIVED, Tree, Verdict, judge, judge_control

TRIES = 3
TIMEOUT_S = 300
_PLUGIN = "tests.faults.planted.plugin"
_CLUSTER = "tests/faults/cluster"
_DISK = "tests/faults/disk"


@dataclass(frozen=True, slots=True)
class Hunt:
    """The node id of the test that must fail, and a part of what it says then."""

    test: str
    because: str


HUNTS = {
    "no_directory_fsync": Hunt(
        f"{_DISK}/test_sync_order.py::test_names_and_votes_are_synced_before_anybody_hears_of_them",
        "its folder was not synced after",
    ),
    "acknowledge_at_one": Hunt(
        f"{_CLUSTER}/test_process.py::test_p7_with_one_replica_left_reads_go_on_and_writes_are_refused",
        "assert 201 == 503",
    ),
    "read_without_asking": Hunt(
        f"{_CLUSTER}/test_network.py::test_n1_a_gateway_that_only_reads_sees_what_another_one_wrote", "stale: "
    ),
    "believe_bytes": Hunt(
        f"{_CLUSTER}/test_network.py::test_wrong_bits_on_the_way_are_found_before_anybody_is_served", "ViolationError: "
    ),
    "forget_votes": Hunt(
        f"{_DISK}/test_sync_order.py::test_names_and_votes_are_synced_before_anybody_hears_of_them",
        "renamed before its bytes were synced",
    ),
    "ignore_idempotency_keys": Hunt(
        f"{_CLUSTER}/test_process.py::test_p1_a_killed_leader_is_replaced_and_nothing_is_lost",
        "one Idempotency-Key, two receipts",
    ),
    "last_clock_wins": Hunt(
        f"{_CLUSTER}/test_clock.py::test_c2_a_gateway_whose_clock_is_behind_loses_no_write", "was current all the time"
    ),
    "cache_without_asking": Hunt(
        f"{_CLUSTER}/test_process.py::test_p1_a_killed_leader_is_replaced_and_nothing_is_lost", "ViolationError: "
    ),
    "shorten_the_log": Hunt(
        f"{_CLUSTER}/test_log_damage.py::test_d11_two_damaged_logs_are_no_majority_that_forgot",
        "entries are gone",
    ),
    "sync_again_after_a_failure": Hunt(
        f"{_DISK}/test_failing_disk.py::test_one_failed_sync_ends_all_success[fdatasync-disk]",
        "a sync failed, and the node goes on acknowledging",
    ),
    "gc_grace_zero": Hunt(
        f"{_CLUSTER}/test_garbage.py::test_v5_the_chunks_of_a_deleted_file_stay_for_a_while_and_then_go_everywhere",
        "a reader in mid-stream would have lost it",
    ),
    "delete_not_handed_off": Hunt(
        f"{_CLUSTER}/test_garbage.py::test_v5_a_deletion_reaches_a_node_that_was_away", "chunks after 60 s"
    ),
}
"""Which test is asked about which bug."""


def hunt(name: str, tree: Tree) -> tuple[Verdict, int]:
    """Run the test of one bug until it meets it, at most `TRIES` times; the verdict, and how many tries it took."""
    wanted = HUNTS[name]
    tries = 0
    while True:
        tries += 1
        run = tree.run([wanted.test], timeout_s=TIMEOUT_S, plugins=[_PLUGIN], environment={VARIABLE: name})
        verdict = judge(wanted.test, wanted.because, run)
        if verdict.state != SURVIVED or tries == TRIES:
            return verdict, tries


def main() -> int:
    """Entry point; 1 when a bug was not caught."""
    chosen = sys.argv[1:] or list(BUGS)
    caught_count = 0
    controls: dict[str, Verdict | None] = {}
    with tempfile.TemporaryDirectory(prefix="trivet-planted-") as folder:
        tree = Tree(Path(folder))
        for name in chosen:
            began = time.monotonic()
            test = HUNTS[name].test
            if test not in controls:
                controls[test] = judge_control(test, tree.run([test], is_control=True, timeout_s=TIMEOUT_S))
            broken = controls[test]
            verdict, tries = hunt(name, tree) if broken is None else (broken, 0)
            caught_count += verdict.state == CAUGHT
            evidence = " ".join(verdict.evidence.split())[:200]
            took_s = time.monotonic() - began
            print(f"{name:28} {verdict.state} at try {tries} {took_s:5.0f} s  {test}\n    {evidence}", flush=True)
    print(f"{caught_count} of {len(chosen)} planted bugs caught")
    return 0 if caught_count == len(chosen) else 1


if __name__ == "__main__":
    raise SystemExit(main())
