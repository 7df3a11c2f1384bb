"""`prune` and backups to the same target keep out of each other's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.consensus.backup.runs import CREATE, PRUNE, RUNS, VALID_S, OtherRunError, running
from services.consensus.backup.targets import FolderTarget


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def target(tmp_path: Path) -> FolderTarget:
    return FolderTarget(tmp_path / "target")


@pytest.mark.parametrize(("first", "second"), [(CREATE, PRUNE), (PRUNE, CREATE), (PRUNE, PRUNE)])
async def test_one_is_refused_while_the_other_runs(target: FolderTarget, first: str, second: str) -> None:
    """And may run afterwards; who is refused leaves no mark."""
    async with running(target, first):
        with pytest.raises(OtherRunError, match=rf"`{first}` to the same target runs on .* as process \d+"):
            async with running(target, second):
                pytest.fail("both run")
        assert len(await target.names(RUNS)) == 1
    async with running(target, second):
        pass
    assert await target.names(RUNS) == {}


async def test_backups_run_beside_each_other(target: FolderTarget) -> None:
    """What has the name of its content may be written by two."""
    async with running(target, CREATE), running(target, CREATE):
        assert len(await target.names(RUNS)) == 2


async def test_of_two_that_begin_at_once_one_sees_the_other(tmp_path: Path) -> None:
    """The mark is there before the look: a run that found nothing is seen by whoever comes after its look."""
    seen: list[str] = []

    class Watched(FolderTarget):
        async def names(self, prefix: str) -> dict[str, int]:
            seen.extend(await super().names(prefix))
            return await super().names(prefix)

    async with running(Watched(tmp_path / "target"), CREATE) as run:
        assert seen == [run.name]


async def test_the_mark_of_a_killed_run_counts_for_a_while(target: FolderTarget) -> None:
    """Then it is removed by whom it was in the way of."""
    clock = Clock()
    await target.put(f"{RUNS}{CREATE}-1", f"{clock.now_s + VALID_S:.0f} host 7\n".encode())
    clock.now_s += VALID_S - 1
    with pytest.raises(OtherRunError, match="counts for up to 30 minutes"):
        async with running(target, PRUNE, now_s=clock):
            pytest.fail("it counts")
    clock.now_s += 2
    async with running(target, PRUNE, now_s=clock) as run:
        assert await target.names(RUNS) == {run.name: len(await target.get(run.name))}


async def test_a_run_that_stood_still_is_told_so(target: FolderTarget) -> None:
    """Another one may have begun meanwhile, so nothing more is published or deleted."""
    clock = Clock()
    async with running(target, CREATE, now_s=clock) as run:
        clock.now_s += VALID_S
        run.check()
        await run.mark()
        clock.now_s += VALID_S + 1
        with pytest.raises(OtherRunError, match="stood still"):
            run.check()
        with pytest.raises(OtherRunError, match="stood still"):
            await run.mark()
