"""The commands behind `make run`, `make demo`, `make up`, `make restart`, `make down`, `make node-...` and others."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any, Final, cast

from pydantic import ValidationError

from local_cluster.administration import Administration
from local_cluster.cluster import Cluster
from local_cluster.demo import run_demo
from local_cluster.errors import LocalClusterError
from local_cluster.first_file import round_trip_first_file
from local_cluster.plan import Kind, process_names
from local_cluster.settings import LocalSettings
from local_cluster.terminal import (
    VerifyProgress,
    complain,
    progress,
    say,
    show_cluster,
    show_ready,
    show_removal,
    show_status,
    show_verification,
)
from shared.private_process import make_process_private

WATCH_INTERVAL_S: Final = 1.0
BLOCKED_BY_BROWSERS: Final = frozenset({10080})
"""The bad ports of the Fetch standard that an offset can lead to."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run one command; the exit status of the process."""
    make_process_private()
    parser = argparse.ArgumentParser(prog="local_cluster", description="A whole Trivet cluster on this machine.")
    parser.add_argument("command", choices=[*_COMMANDS, *_COMMANDS_FOR_SOME, *_COMMANDS_FOR_ONE, "demo"])
    parser.add_argument(
        "names",
        nargs="*",
        help=f"processes, for {', '.join(_COMMANDS_FOR_SOME)}; else all, or all services. One storage node for "
        f"{', '.join(_COMMANDS_FOR_ONE)}",
    )
    parser.add_argument("--cancel", action="store_true", help="with node-drain: use the node again")
    parser.add_argument("--lost", action="store_true", help="with node-remove: it will never come back")
    # Intermixed: options may stand before the names.
    arguments = parser.parse_intermixed_args()
    command, names = arguments.command, arguments.names
    if command in _COMMANDS_FOR_ONE and len(names) != 1:
        parser.error(f"{command} takes one storage node: ID=storage-4, say")
    if (arguments.cancel and command != "node-drain") or (arguments.lost and command != "node-remove"):
        parser.error("--cancel goes with node-drain, --lost with node-remove")
    if names and command not in {*_COMMANDS_FOR_SOME, *_COMMANDS_FOR_ONE}:
        parser.error(f"{command} takes no names of processes")
    try:
        if command == "demo":
            return asyncio.run(_until_told(_demo()))
        settings = LocalSettings()
        cluster = Cluster(settings.local_dir, settings.port_offset)
        if command in _COMMANDS_FOR_SOME:
            _check_names(cluster, names)
        if command in {*_COMMANDS_FOR_ONE, "node-add", "verify"}:
            _check_running(cluster)
        if command in _COMMANDS:
            return asyncio.run(_until_told(_COMMANDS[command](cluster)))
        if command in _COMMANDS_FOR_ONE:
            return asyncio.run(_until_told(_COMMANDS_FOR_ONE[command](cluster, names[0], arguments)))
        return asyncio.run(_until_told(_COMMANDS_FOR_SOME[command](cluster, names)))
    except ValidationError as error:
        complain("; ".join(f"TRIVET_{str(part['loc'][0]).upper()}: {part['msg']}" for part in error.errors()))
    except LocalClusterError as error:
        complain(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        complain("Interrupted. What was started keeps running: `make status` shows it, `make down` stops it.")
    return 1


def _check_names(cluster: Cluster, names: Iterable[str]) -> None:
    known = cluster.names()
    for name in names:
        if name not in known:
            raise LocalClusterError(f"There is no process {name}; there are {', '.join(known)}.")


def _check_running(cluster: Cluster) -> None:
    if not cluster.running():
        raise LocalClusterError("Nothing is running: `make up` starts a cluster.")


async def _until_told(work: Coroutine[Any, Any, int]) -> int:
    """Raises CancelledError at a signal to end, and never between the start of a process and the note of who it is."""
    _on_signals(_task().cancel)
    return await work


def _task() -> asyncio.Task[object]:
    return cast("asyncio.Task[object]", asyncio.current_task())  # a coroutine always runs in one


async def _run(cluster: Cluster) -> int:
    """Start, show, watch until a signal, stop what was started here."""
    try:
        await _bring_up(cluster)
        if cluster.started:
            say("Ctrl-C stops everything that was started here.")
        else:
            say("All of it was running already, and Ctrl-C leaves it so: `make down` stops it.")
        await _watch(cluster)
    except asyncio.CancelledError:
        # This task is the root and the cancellation is ours, from the signal handler: it ends here.
        _task().uncancel()
    finally:
        await _stop_what_was_started(cluster)
    return 0


async def _stop_what_was_started(cluster: Cluster) -> None:
    if not cluster.started:
        return
    _on_signals(lambda: cluster.kill_all(list(cluster.started)))
    say(f"Stopping {len(cluster.started)} processes (Ctrl-C again: at once).")
    await cluster.stop(cluster.started)
    say("Stopped. The files are kept; `make run` brings them back.")


async def _up(cluster: Cluster, names: list[str]) -> int:
    if names:
        with progress(f"starting {', '.join(names)}") as on_progress:
            await cluster.start(names, on_progress=on_progress)
        say(f"{', '.join(names)}: ready.")
        return 0
    await _bring_up(cluster)
    say("It runs in the background: `make status` shows it, `make down` stops it.")
    return 0


async def _restart(cluster: Cluster, names: list[str]) -> int:
    """One of a kind after the other, each ready before the next; what the cluster promises holds meanwhile."""
    await _restart_in_turn(cluster, [[name] for name in names] or _rounds(cluster))
    return 0


async def _restart_in_turn(cluster: Cluster, groups: Iterable[list[str]]) -> None:
    for group in groups:
        await asyncio.gather(*map(cluster.restart, group))
        say(f"{', '.join(group)}: ready.")


def _rounds(cluster: Cluster) -> list[list[str]]:
    """A clock, a member and a storage node may be down at once; then the gateways. Redis reads no settings of the services."""
    kinds = (process_names(kind, cluster.shape) for kind in (Kind.CLOCK, Kind.CONSENSUS, Kind.STORAGE))
    rounds = [[name for name in names if name is not None] for names in zip_longest(*kinds)]
    return rounds + [[name] for name in process_names(Kind.GATEWAY, cluster.shape)]


async def _settings(cluster: Cluster, names: list[str]) -> int:
    """For a shell that is to run a tool as one process would run: `eval "$(python -m local_cluster settings storage-1)"`."""
    for name in names:
        for key, value in cluster.plan.get(name).environment.items():
            print(f"export {key}={shlex.quote(value)}")
    return 0


async def _down(cluster: Cluster, names: list[str]) -> int:
    if not set(cluster.running()) & set(names or cluster.names()):
        say("Nothing was running.")
        return 0
    await cluster.stop(names or None)
    say("Stopped. The files are kept; `make up` brings them back.")
    return 0


async def _status(cluster: Cluster) -> int:
    if not cluster.running():
        say("Nothing is running: `make run` or `make up` starts a cluster.")
        return 0
    statuses = await cluster.status()
    show_status(statuses)
    if any(status.name == "gateway-1" and status.problem is None for status in statuses):
        try:
            with cluster.administration() as administration:
                show_cluster(await asyncio.to_thread(administration.cluster))
        except LocalClusterError as error:
            say(str(error))
    return int(any(status.problem is not None for status in statuses))


async def _node_add(cluster: Cluster) -> int:
    with progress("adding a storage node"):
        name = await cluster.add_node()
    say(f"{name} is in the cluster, and fetches its share of the chunks: `make status` shows how far it is.")
    return 0


async def _node_drain(cluster: Cluster, name: str, arguments: argparse.Namespace) -> int:
    """Begins and returns: a drain may take hours, and can be cancelled until it is over."""
    with cluster.administration() as administration:
        if arguments.cancel:
            await asyncio.to_thread(administration.cancel_drain, name)
            say(f"{name} is used again.")
            return 0
        await asyncio.to_thread(partial(administration.remove, name, is_lost=False))
    say(
        f"{name} drains: the others take over its chunks, then it leaves the cluster. `make status` shows how far it is, "
        f"`make node-drain ID={name} CANCEL=1` cancels it, `make node-remove ID={name}` waits for the end and stops it."
    )
    return 0


async def _node_remove(cluster: Cluster, name: str, arguments: argparse.Namespace) -> int:
    """Until it is out of the cluster; then its processes are stopped."""
    with cluster.administration() as administration:
        if await asyncio.to_thread(administration.node, name) is not None:
            if arguments.lost:
                removed = await asyncio.to_thread(partial(administration.remove, name, is_lost=True))
                show_removal(name, removed)
            else:
                await asyncio.to_thread(partial(administration.remove, name, is_lost=False))
                await _follow_drain(administration, name)
    await cluster.forget_node(name)
    say(f"{name} has left the cluster and is stopped. Its files are kept in {cluster.layout.data_dir(name)}.")
    return 0


async def _follow_drain(administration: Administration, name: str) -> None:
    """Until the leader has removed the node. Raises LocalClusterError when somebody cancelled the drain."""
    with progress(f"draining {name} (Ctrl-C leaves it draining)") as on_progress:
        while (node := await asyncio.to_thread(administration.node, name)) is not None:
            if node["state"] != "draining":
                raise LocalClusterError(f"The drain of {name} was cancelled; it is {node['state']}.")
            left = (node["reconcile"] or {}).get("surplus_chunks")
            on_progress({name: "chunks left: " + ("not reported yet" if left is None else f"{left:,}")})
            await asyncio.sleep(WATCH_INTERVAL_S)


async def _demo() -> int:
    """Nothing of it is left, whatever ends it."""
    try:
        return await run_demo()
    except asyncio.CancelledError:
        _task().uncancel()
        say("Stopped, and cleared away.")
        return 1


async def _verify(cluster: Cluster) -> int:
    """Follows the pass until it ends; Ctrl-C leaves it running."""
    with cluster.administration() as administration, VerifyProgress() as shown:
        found = await asyncio.to_thread(administration.start_verify)
        while found["state"] == "running":
            shown.update(found)
            await asyncio.sleep(WATCH_INTERVAL_S)
            found = await asyncio.to_thread(administration.verify)
        shown.update(found)
    show_verification(found)
    return 0 if found["is_clean"] else 1


async def _bring_up(cluster: Cluster) -> None:
    began = time.monotonic()
    count = len(cluster.names())
    with progress(f"starting {count - len(cluster.running())} of {count} processes on 127.0.0.1") as on_progress:
        await cluster.start(on_progress=on_progress)
        round_trip = await asyncio.to_thread(round_trip_first_file, cluster.gateway_url, cluster.bearer)
    show_ready(cluster, round_trip, time.monotonic() - began)
    if (warning := port_warning(cluster.plan.get("gateway-1").ports)) is not None:
        say(warning)


def port_warning(ports: Iterable[int]) -> str | None:
    """What to say of ports that programs can use and browsers cannot."""
    blocked = sorted(BLOCKED_BY_BROWSERS & set(ports))
    return f"Browsers refuse port {blocked[0]}; for Swagger UI choose another TRIVET_PORT_OFFSET." if blocked else None


async def _watch(cluster: Cluster) -> None:
    """Tell when a process ends. It is not started again by itself: a person who kills one wants to see what happens."""
    running = set(cluster.started)
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        now = {name for name in cluster.started if cluster.pid(name) is not None}
        for name in sorted(running - now):
            say(f"{name} has ended; `make up` in another terminal starts it again.")
        running = now


def _on_signals(act: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, act)


_COMMANDS: Final[Mapping[str, Callable[[Cluster], Coroutine[Any, Any, int]]]] = {
    "run": _run,
    "status": _status,
    "node-add": _node_add,
    "verify": _verify,
}
_COMMANDS_FOR_SOME: Final[Mapping[str, Callable[[Cluster, list[str]], Coroutine[Any, Any, int]]]] = {
    "up": _up,
    "restart": _restart,
    "down": _down,
    "settings": _settings,
}
_COMMANDS_FOR_ONE: Final[Mapping[str, Callable[[Cluster, str, argparse.Namespace], Coroutine[Any, Any, int]]]] = {
    "node-drain": _node_drain,
    "node-remove": _node_remove,
}

if __name__ == "__main__":
    sys.exit(main())
