"""Random schedules of garbage and reconcile: what is referred to is never lost, the rest goes. A failure names its seed."""

from __future__ import annotations

import pytest

from tests.simulation.garbage.many_schedules import live_some
from tests.simulation.garbage.planted_bugs import BUGS, SEEDS, PlantedBug, first_seed, planted
from tests.simulation.garbage.scenarios import violation_of
from tests.simulation.garbage.world import live
from tests.simulation.many_seeds import Report, on_all_processors

FREQUENT = (
    *("publish_file", "delete_file", "chunk_condemned", "node_draining", "wipes", "crashes", "drains", "begin_backup"),
    *("begin_upload", "put_part", "copy_part", "complete_upload", "copy_file", "delete_files", "set_tags"),
    "slow readers",
)
RARER = (
    *(
        "read by pages",
        "read from the record",
        "lists read while they were removed",
        "pieces read while they were removed",
    ),
    *("abort_upload", "renew_backup", "end_backup", "put_bucket_settings", "enabled", "suspended", "moves", "restores"),
    *("replaced parts", "expired uploads", "expired versions", "promotions", "completed again", "markers"),
    *("upload_not_found", "promotion_deferred", "version_not_found", "backup_pins_versions", "version_gone"),
    *("delete_bucket", "bucket_recreated", "node_replaced", "node_removed", "roll-backs", "removed by force", "rests"),
)


@pytest.mark.timeout(900)
def test_random_schedules_lose_nothing_and_come_to_rest() -> None:
    """Uploads of chunks that are being deleted, drains, lost disks and late messages: every promise holds at every step."""
    total = Report()
    for report in on_all_processors(live_some, SEEDS):
        total.add(report)
    assert not total.failures, "lives again with `make simulate-garbage SEED=...`: " + "\n".join(
        list(total.failures.values())[:5]
    )
    assert total.seeds == len(SEEDS)
    counts = {what: total.counts[what] for what in FREQUENT}
    assert min(counts.values()) > len(SEEDS) // 4, f"too little happened to prove anything: {counts}"
    rarer = {what: total.counts[what] for what in RARER}
    assert min(rarer.values()) > 0, f"something never happened: {rarer}"


@pytest.mark.parametrize("seed", [403_952, 405_676])
def test_what_a_fault_destroyed_unseen_is_no_loss_of_ours(seed: int) -> None:
    """A replica went bad after it had been verified, before anything was promised, and then confirmed that surplus may go."""
    assert live(seed)


def test_the_same_seed_gives_the_same_schedule() -> None:
    """A failure can be replayed."""
    assert live(3) == live(3)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.scenario], ids=lambda bug: bug.name)
def test_a_written_schedule_catches_a_planted_bug(bug: PlantedBug) -> None:
    """With the bug a promise is broken, and only with it."""
    assert bug.scenario is not None
    with planted(bug):
        assert violation_of(bug.scenario) is not None, f"{bug.name} went unnoticed"
    assert violation_of(bug.scenario) is None


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.profile or not bug.scenario], ids=lambda bug: bug.name)
def test_random_schedules_catch_a_planted_bug(bug: PlantedBug) -> None:
    """One of the schedules that every test run lives, or of those of one profile, finds it without knowing of it."""
    with planted(bug):
        assert first_seed(SEEDS, bug.profile) is not None, f"{bug.name} went unnoticed by {len(SEEDS)} schedules"


def test_there_are_at_least_29_bugs() -> None:
    """Each with a name of its own."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 29
