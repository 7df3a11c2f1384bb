"""`make demo`: a cluster of its own is filled, loses a storage node for good and heals, with a word about each step.

It takes a minute, uses free ports and a temporary folder, and leaves nothing: no process, no file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from local_cluster.cluster import Cluster
from local_cluster.demo_traffic import StoredFile, Tally, Traffic
from local_cluster.errors import LocalClusterError
from local_cluster.free_ports import free_port_offset
from local_cluster.plan import Shape
from local_cluster.terminal import console, progress
from shared.units import KIB, MIB

SHAPE: Final = Shape(storage_nodes=4)
OVERRIDES: Final = {
    # A minute of patience is right for a cluster and long for a demo.
    "*": {"TRIVET_HEARTBEAT_INTERVAL_S": "1", "TRIVET_HEARTBEAT_GRACE_S": "4"},
}
VICTIM: Final = "storage-2"
FILE_COUNT: Final = 48
SIZES_BYTES: Final = (4 * KIB, 60 * KIB, 300 * KIB, MIB)
HEAL_TIMEOUT_S: Final = 40.0
CALM_S: Final = 3.0
"""Of traffic before the death of the node."""

WIDTH: Final = 100
POLL_INTERVAL_S: Final = 0.25
COMMAND_TIMEOUT_S: Final = 60.0
_BARS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = {"active": "green", "suspect": "yellow", "inactive": "red"}


async def run_demo() -> int:
    """All of it; the exit status. Raises LocalClusterError: something did not go as it should."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trivet-demo-") as folder:
        cluster = Cluster(Path(folder) / "local", free_port_offset(shape=SHAPE), OVERRIDES, SHAPE)
        try:
            await _play(cluster, Path(folder))
        finally:
            cluster.kill_all()
    console.print(f"\n[dim]That took {time.monotonic() - began:.0f} s. Nothing of it is left: no process, no file.[/]")
    console.print("[dim]A cluster to keep: [/]make run")
    return 0


async def _play(cluster: Cluster, folder: Path) -> None:
    _heading("A cluster")
    with progress("starting its processes") as on_progress:
        await cluster.start(on_progress=on_progress)
    _say(
        "Four storage nodes, each with a Redis; three consensus members, which keep one log of all that exists; a gateway; "
        "a clock. Real processes, on this machine. A file is cut into chunks, and each goes to three of the four nodes."
    )
    _heading("Files")
    files = _make_files(folder / "files")
    await _command(cluster, folder, "sync", "files", "trivet://default/demo")
    _say(f"{len(files)} files: each was on two disks at least, fsynced, before its receipt was sent.")
    await _command(cluster, folder, "cluster", "status")

    _heading(f"The death of {VICTIM}")
    _say(
        f"{len(files)} files are read again and again, every byte is checked, and new ones are written. Then the node is killed."
    )
    traffic = Traffic(cluster.gateway_url, cluster.bearer, files)
    with traffic.running():
        await _watch_it_heal(cluster, traffic)
    console.print()
    _show_result(traffic)

    _heading("Afterwards")
    _say(f"{VICTIM} will not come back. The others have its share already, so it can be taken off the list:")
    await _command(cluster, folder, "cluster", "remove", VICTIM, "--yes")
    _say("Is that so? Every replica on every node is read, and compared with the log:")
    await _command(cluster, folder, "cluster", "verify", "--wait")
    _say("And all files come back as they went in:")
    await _command(cluster, folder, "sync", "--quiet", "trivet://default/demo", "back")
    wrong = [file.key for file in files if _digest(folder / "back" / Path(file.key).name) != file.sha256]
    if wrong:
        raise LocalClusterError(f"{len(wrong)} files came back with other bytes, {wrong[0]} first; please report this.")
    _say(f"[green]{len(files)} of {len(files)} files, every byte the same.[/]")


async def _watch_it_heal(cluster: Cluster, traffic: Traffic) -> None:
    """Kill the node in the midst of traffic, and tell what happens until every chunk has all of its replicas again."""
    states: dict[str, str] = {}
    killed: float | None = None
    began = time.monotonic()
    with cluster.administration() as administration, Live(console=console, refresh_per_second=8) as live:

        def tell(what: str) -> None:
            since_s = 0.0 if killed is None else time.monotonic() - killed
            live.console.print(f"[dim]{since_s:5.1f} s[/]  {what}")

        while True:
            found = await asyncio.to_thread(administration.cluster)
            now = {node["id"]: node["state"] for node in found["nodes"]}
            live.update(_picture(traffic, now, found["under_replicated_chunks"]))
            if killed is None and time.monotonic() - began > CALM_S:
                cluster.kill_all([VICTIM, VICTIM.replace("storage", "redis")])
                killed = time.monotonic()
                tell(
                    f"[bold red]kill -9 {VICTIM}[/], its Redis, too. Reads go to other replicas, writes to other nodes."
                )
            if now != states and states and now[VICTIM] == "suspect":
                tell("The leader of the log has heard nothing of it for a while: [yellow]suspect[/], and asked last.")
            if now != states and now[VICTIM] == "inactive":
                tell("It counts as [red]gone[/]. The others make the replicas that it had anew.")
            states = now
            if killed is not None and now[VICTIM] == "inactive" and found["under_replicated_chunks"] == 0:
                tell("[green]Every chunk has three replicas again[/], on the three nodes that are left.")
                return
            if time.monotonic() - began > HEAL_TIMEOUT_S:
                raise LocalClusterError(f"The cluster did not heal within {HEAL_TIMEOUT_S:.0f} s: {found['degraded']}")
            await asyncio.sleep(POLL_INTERVAL_S)


def _picture(traffic: Traffic, states: Mapping[str, str], missing: int | None) -> Group:
    grid = Table.grid(padding=(0, 2))
    for name, tally in (("reads", traffic.reads), ("writes", traffic.writes)):
        grid.add_row(name, Text(_sparkline(tally), style="cyan"), f"{tally.done:,}", f"slowest {tally.slowest_s:.2f} s")
    errors = len(traffic.failures)
    grid.add_row("errors", Text(str(errors), style="bold red" if errors else "bold green"))
    grid.add_row("replicas missing", "?" if missing is None else f"{missing:,}")
    nodes = Text("  ").join(Text(f"● {name} {state}", style=_COLOURS.get(state, "")) for name, state in states.items())
    return Group("", grid, nodes)


def _sparkline(tally: Tally) -> str:
    seconds = list(tally.per_second)[:-1]
    top = max(seconds, default=0) or 1
    return "".join(_BARS[count * (len(_BARS) - 1) // top] for count in seconds)


def _show_result(traffic: Traffic) -> None:
    if traffic.failures:
        raise LocalClusterError(f"{len(traffic.failures)} requests failed, the first: {traffic.failures[0]}")
    _say(
        f"{traffic.reads.done:,} reads and {traffic.writes.done:,} writes, [green]no error and no wrong byte[/]. "
        f"The slowest read took {traffic.reads.slowest_s:.2f} s, the slowest write {traffic.writes.slowest_s:.2f} s."
    )


def _make_files(folder: Path) -> list[StoredFile]:
    folder.mkdir()
    files = []
    for number in range(FILE_COUNT):
        path = folder / f"{number:02}.bin"
        path.write_bytes(os.urandom(SIZES_BYTES[number % len(SIZES_BYTES)]))
        files.append(StoredFile(f"demo/{path.name}", _digest(path)))
    return files


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _command(cluster: Cluster, folder: Path, *arguments: str) -> None:
    """Show a command line, and what it prints. `cluster status` ends with 1 when something is missing: no failure here."""
    console.print(f"\n[bold]$ trivet {escape(' '.join(arguments))}[/]")
    sys.stdout.flush()
    program = Path(sys.executable).with_name("trivet")
    process = await asyncio.create_subprocess_exec(program, *arguments, cwd=folder, env=_environment(cluster))
    try:
        status = await asyncio.wait_for(process.wait(), COMMAND_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    if status and arguments != ("cluster", "status"):
        raise LocalClusterError(f"`trivet {' '.join(arguments)}` ended with {status}.")
    console.print()


def _environment(cluster: Cluster) -> Mapping[str, str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("TRIVET_")}  # noqa: TID251 a terminal's
    return outer | {
        "TRIVET_URL": cluster.gateway_url,
        "TRIVET_OPERATIONS_URL": cluster.operations_url("gateway-1"),
        "TRIVET_KEY": str(cluster.layout.root_key),
    }


def _say(text: str) -> None:
    """Commentary, broken at words; what is to be copied is printed as it is."""
    console.print(text, soft_wrap=False, width=min(console.width, WIDTH))


def _heading(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}", align="left")
