"""The command behind `make profile ROW=...`: py-spy on the gateway, a storage node and the consensus leader while a row runs.

py-spy reads the memory of a process from outside, so that nothing in the services changes for it. It counts busy
samples only; calls into C belong to the Python function that made them. Written per process:
`<process>.speedscope.json` (https://www.speedscope.app), `<process>.svg`, and `profile.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.flame_graph import draw_flame_graph
from benchmarks.cluster.output import OUT_DIR, new_folder
from benchmarks.cluster.rounds import warm_up
from benchmarks.cluster.rows import ALL_ROWS, Row, choose
from benchmarks.cluster.running_cluster import RunningCluster, running_cluster
from benchmarks.cluster.stack_samples import Share, read, shares_by_frame, shares_by_owner
from benchmarks.cluster.trees import base_tree, this_tree
from benchmarks.cluster.workload import Stock, Workload
from local_cluster.terminal import complain, say

SAMPLES_PER_S: Final = 200
_DURATION_S: Final = 10.0
_TINY_DURATION_S: Final = 4.0
_OWNERS_SHOWN: Final = 25
_FRAMES_SHOWN: Final = 40
_STOP_TIMEOUT_S: Final = 60.0


def main() -> int:
    """Profile one row; the exit status."""
    arguments = _parse(sys.argv[1:])
    try:
        row = _choose_one(arguments.row, is_tiny=arguments.tiny)
        duration_s = _TINY_DURATION_S if arguments.tiny else arguments.seconds
        folder = new_folder(arguments.out / "profiles")
        tree = this_tree() if arguments.base is None else base_tree(arguments.base)
        with running_cluster(tree) as cluster:
            uvloop.run(_profile(row, duration_s, cluster, folder))
        text = "\n".join(report(name, row, folder) for name in sorted(_recorded(folder)))
    except BenchmarkError as error:
        complain(str(error))
        return 1
    (folder / "profile.txt").write_text(text)
    print(text)
    say(f"Written to {folder}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.cluster.profiler", description="Where a row's CPU goes.")
    parser.add_argument("row", help=f"one of: {' '.join(row.name for row in ALL_ROWS)}")
    parser.add_argument("--seconds", type=float, default=_DURATION_S)
    parser.add_argument("--base", default=None, help="profile that revision instead of this tree")
    parser.add_argument("--out", type=Path, default=OUT_DIR)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _choose_one(name: str, *, is_tiny: bool) -> Row:
    if name not in {row.name for row in ALL_ROWS}:
        raise BenchmarkError(f"Choose one row with ROW=, of {' '.join(row.name for row in ALL_ROWS)}.")
    rows, _ = choose([name], is_tiny=is_tiny)
    return rows[0]


async def _profile(row: Row, duration_s: float, cluster: RunningCluster, folder: Path) -> None:
    longer = lengthened(row, duration_s)
    with tempfile.TemporaryDirectory() as scratch:
        workload = Workload(cluster.door(is_s3=row.is_s3), Path(scratch) / "large.bin")
        await workload.fill_listed("listed")
        await warm_up([row], workload)
        stock = Stock("profiled")
        await workload.prepare(longer, stock)
        leader = cluster.leader()
        if leader is None:
            raise BenchmarkError("The cluster has no leader.")
        with _recording({name: cluster.pids[name] for name in ("gateway-1", "storage-1", leader)}, folder):
            await _run_for(longer, duration_s, stock, workload)


def lengthened(row: Row, duration_s: float) -> Row:
    """The row for another time, with as many more requests at most."""
    if row.is_curl:
        return row
    return replace(row, duration_s=duration_s, at_most=math.ceil(row.at_most * max(1.0, duration_s / row.duration_s)))


async def _run_for(row: Row, duration_s: float, stock: Stock, workload: Workload) -> None:
    """One loop, or as many single files as fit."""
    began = time.perf_counter()
    await workload.run(row, stock)
    while row.is_curl and time.perf_counter() - began < duration_s:
        await workload.prepare(row, stock)
        await workload.run(row, stock)


@contextlib.contextmanager
def _recording(pids: dict[str, int], folder: Path) -> Iterator[None]:
    """py-spy on each process until the context ends.

    Raises:
        BenchmarkError: it could not look into one.
    """
    recorders = {name: _start_recorder(pid, folder / f"{name}.speedscope.json") for name, pid in pids.items()}
    try:
        yield
    finally:
        for recorder in recorders.values():
            recorder.send_signal(2)  # SIGINT: py-spy writes what it has
        said = {name: recorder.communicate(timeout=_STOP_TIMEOUT_S)[0] for name, recorder in recorders.items()}
    for name in recorders:
        if not (folder / f"{name}.speedscope.json").exists():
            raise BenchmarkError(f"py-spy recorded nothing of {name} (it needs root, or ptrace allowed): {said[name]}")


def _start_recorder(pid: int, file: Path) -> subprocess.Popen[str]:
    py_spy = Path(sys.executable).parent / "py-spy"
    command = [str(py_spy), "record", "--pid", str(pid), "--rate", str(SAMPLES_PER_S), "--format", "speedscope"]
    command += ["--output", str(file), "--duration", "unlimited", "--nonblocking"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _recorded(folder: Path) -> list[str]:
    return [file.name.removesuffix(".speedscope.json") for file in folder.glob("*.speedscope.json")]


def report(name: str, row: Row, folder: Path) -> str:
    """The tables of one process; writes its flame graph, too."""
    stacks = read(folder / f"{name}.speedscope.json")
    (folder / f"{name}.svg").write_text(draw_flame_graph(stacks, f"{name} during {row.name}"))
    lines = [f"{name} during {row.name}: {stacks.total()} busy samples at {SAMPLES_PER_S}/s", ""]
    lines += _table("library or module", shares_by_owner(stacks)[:_OWNERS_SHOWN])
    lines += _table("function", shares_by_frame(stacks)[:_FRAMES_SHOWN])
    return "\n".join(lines)


def _table(what: str, shares: Sequence[Share]) -> list[str]:
    head = f"{'own':>7}  {'total':>7}  {what}"
    return [head, *(f"{share.own:7.1%}  {share.total:7.1%}  {share.name}" for share in shares), ""]


if __name__ == "__main__":
    sys.exit(main())
