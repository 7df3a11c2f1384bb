"""The command behind `make bench`."""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cluster.budgets import BUDGETS_FILE, read_budgets
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.floors import serve_floor
from benchmarks.cluster.output import OUT_DIR, RESULT, new_folder, point_latest_to
from benchmarks.cluster.plots import draw_plots
from benchmarks.cluster.report import make_tables, show, to_markdown
from benchmarks.cluster.rounds import IDLE_S, Beside, Measured, Plan, run_rounds
from benchmarks.cluster.rows import ROW_NAMES, choose
from benchmarks.cluster.running_cluster import RunningCluster, running_cluster
from benchmarks.cluster.samples import Result
from benchmarks.cluster.speed_gauge import speed_gauge
from benchmarks.cluster.trees import Tree, base_tree, check_room, this_tree
from benchmarks.measuring import describe_machine
from local_cluster.terminal import complain

_MEMORY_DISK: Final = Path("/dev/shm")  # noqa: S108 - holds bodies, so that the load never waits for the disk
_TINY_IDLE_S: Final = 0.5
_TINY_LISTED_KEYS: Final = 20


def main() -> int:
    """Run the benchmark; the exit status."""
    arguments = _parse(sys.argv[1:])
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    # Whatever ends it stops the clusters; a background job of a shell is started with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        budgets = read_budgets(BUDGETS_FILE.read_text())
        plan = make_plan(arguments.rows.split(), arguments.rounds, is_tiny=arguments.tiny)
        result = measure(plan, arguments.base, console)
    except BenchmarkError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        complain("Interrupted; the clusters are stopped, and nothing is written.")
        return 130
    tables = make_tables(result, budgets)
    folder = new_folder(arguments.out)
    (folder / RESULT).write_text(result.model_dump_json(indent=1))
    (folder / "report.md").write_text(to_markdown(result, tables))
    draw_plots(result, budgets, folder / "plots")
    point_latest_to(folder)
    show(result, tables, console)
    console.print(f"Written to {folder}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.cluster", description="What a whole cluster does and costs.")
    parser.add_argument("--rows", default="", help=f"some of: {' '.join(ROW_NAMES)}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--base", default=None, help="a revision to measure beside this tree")
    parser.add_argument("--out", type=Path, default=OUT_DIR)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def make_plan(names: list[str], rounds: int, *, is_tiny: bool = False) -> Plan:
    """What to measure. Raises BenchmarkError: no such row, or no round."""
    if rounds < 1:
        raise BenchmarkError("ROUNDS must be at least 1.")
    rows, is_idle_wanted = choose(names, is_tiny=is_tiny)
    if is_tiny:
        return Plan(rows, rounds, _TINY_IDLE_S if is_idle_wanted else None, _TINY_LISTED_KEYS, settle_s=0.0)
    return Plan(rows, rounds, IDLE_S if is_idle_wanted else None)


def measure(plan: Plan, base: str | None, console: Console) -> Result:
    """Start the clusters, measure, stop them.

    Raises:
        BenchmarkError: see the modules that do it.
    """
    began_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    trees = [this_tree()]
    if base is not None:
        console.print(f"Preparing {base}")
        trees.append(base_tree(base))
    check_room(plan.needed_bytes(len(trees)))
    with _clusters(trees) as clusters, tempfile.TemporaryDirectory(dir=_scratch_root()) as scratch:
        # The load allocates little that lives; what start-up left behind need not be walked during rows.
        gc.freeze()
        measured = _run(plan, clusters, Path(scratch), console)
    return Result(
        began_at=began_at,
        machine=describe_machine(),
        revisions={tree.name: tree.revision for tree in trees},
        rounds=plan.rounds,
        rows=measured.rows,
        floors=measured.floors,
        idle=measured.idle,
        memory=measured.memory,
    )


def _run(plan: Plan, clusters: list[RunningCluster], scratch: Path, console: Console) -> Measured:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn between rows only: a thread that draws would take CPU from what is measured.
    with (
        serve_floor(scratch) as server,
        speed_gauge(scratch) as gauge,
        Progress(*columns, console=console, auto_refresh=False) as progress,
    ):
        task = progress.add_task("", total=plan.steps(len(clusters)))

        def on_step(what: str) -> None:
            progress.update(task, advance=1, description=f"{what:<28}", refresh=console.is_terminal)

        return uvloop.run(run_rounds(plan, clusters, Beside(server, gauge), scratch, on_step))


@contextlib.contextmanager
def _clusters(trees: list[Tree]) -> Iterator[list[RunningCluster]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(running_cluster(tree)) for tree in trees]


def _scratch_root() -> Path | None:
    return _MEMORY_DISK if _MEMORY_DISK.is_dir() else None


if __name__ == "__main__":
    sys.exit(main())
