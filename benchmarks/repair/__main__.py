"""The command behind `make bench-repair`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.measuring import describe_machine
from benchmarks.repair.foreground import SMALL_BYTES
from benchmarks.repair.repair_cluster import RepairCluster
from benchmarks.repair.report import Freed, Placement, Repair, Rest, Result, to_markdown
from benchmarks.repair.scenarios import Load, Say, freed, placement, repair, rest
from local_cluster.errors import LocalClusterError
from local_cluster.terminal import complain
from shared.units import MIB

OUT_DIR: Final = Path(__file__).parent.parent / "out" / "repair"
PARTS: Final = ("placement", "large", "small", "in-sync", "space")
_LARGE_CHUNKS: Final = 1000
_SMALL_CHUNKS: Final = 100_000
_PLACED_CHUNKS: Final = 1_000_000
_STEPS: Final = {"placement": 1, "large": 5, "small": 5, "in-sync": 1, "space": 5}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how much of it. `large_bytes`: of large files that are deleted."""

    parts: Sequence[str]
    size: float
    large_bytes: int
    seed: int

    def count(self, whole: int, *, at_least: int) -> int:
        """A count of the whole benchmark, scaled."""
        return max(at_least, int(whole * self.size))


async def measure(plan: Plan, folder: Path, say: Say) -> Result:
    """Run the parts.

    Raises:
        BenchmarkError, LocalClusterError: the cluster does not start, or does not come to rest in time.
    """
    began_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    placed: Placement | None = None
    repairs: list[Repair] = []
    rests: list[Rest] = []
    space: Freed | None = None
    if "placement" in plan.parts:
        say("placement")
        placed = placement(plan.count(_PLACED_CHUNKS, at_least=1000), plan.seed)
    small = Load("small", plan.count(_SMALL_CHUNKS, at_least=100), SMALL_BYTES)
    loads = (Load("large", plan.count(_LARGE_CHUNKS, at_least=8), MIB), small)
    cluster: RepairCluster | None = None
    try:
        for load in loads:
            if load.name in plan.parts:
                # Each on nodes that hold nothing else: what is wiped is all that comes back.
                cluster = await _another_cluster(cluster, folder / load.name)
                repairs.append(await repair(cluster, load, plan.seed, say))
        if "space" in plan.parts:
            cluster = cluster or await _another_cluster(None, folder / "space")
            space = await freed(cluster, small.count, plan.large_bytes, plan.seed, say)
        if "in-sync" in plan.parts:
            cluster = cluster or await _another_cluster(None, folder / "in-sync")
            rests.append(await rest(cluster, say, chunks=repairs[-1].chunks if repairs else 0))
    finally:
        if cluster is not None:
            await cluster.stop()
    return Result(
        began_at=began_at,
        machine=describe_machine(),
        size=plan.size,
        repairs=repairs,
        rests=rests,
        placement=placed,
        freed=space,
    )


async def _another_cluster(before: RepairCluster | None, folder: Path) -> RepairCluster:
    """A new one in `folder`, in place of the one before, whose disks are given back."""
    if before is not None:
        await before.remove()
    await asyncio.to_thread(folder.mkdir)
    cluster = RepairCluster(folder)
    try:
        await cluster.start()
    except BaseException:
        await cluster.stop()
        raise
    return cluster


def main() -> int:
    """Run the benchmark; the exit status."""
    arguments = _parse()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    parts = arguments.parts.split() or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        complain(f"There is no part {', '.join(unknown)}. Parts: {' '.join(PARTS)}")
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="trivet-repair-", dir=arguments.folder) as folder,
        Progress(*columns, console=console, auto_refresh=False) as progress,
    ):
        task = progress.add_task("", total=sum(_STEPS[part] for part in parts))

        def say(what: str) -> None:
            progress.update(task, advance=1, description=f"{what:<24}", refresh=True)
            if not console.is_terminal:
                console.print(what)

        try:
            plan = Plan(parts, arguments.size, int(arguments.gigabytes * 1e9), arguments.seed)
            result = uvloop.run(measure(plan, Path(folder), say))
        except (BenchmarkError, LocalClusterError) as error:
            complain(str(error))
            return 1
        except KeyboardInterrupt:
            complain("Interrupted; the cluster is stopped, and nothing is written.")
            return 130
    out = arguments.out / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    out.mkdir(parents=True)
    (out / "result.json").write_text(result.model_dump_json(indent=1))
    (out / "report.md").write_text(to_markdown(result))
    console.print(to_markdown(result), soft_wrap=True)
    console.print(f"Written to {out}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.repair", description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="of everything: 0.01 shows that it works")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of large files that are deleted")
    parser.add_argument("--parts", default="", help=f"some of: {' '.join(PARTS)}")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to use; default: the temporary one")
    parser.add_argument("--out", type=Path, default=OUT_DIR)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
