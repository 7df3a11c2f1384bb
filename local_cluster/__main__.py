"""The commands behind `make run`, `make up`, `make restart`, `make down` and `make status`."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import zip_longest
from typing import Any, Final, cast

from pydantic import ValidationError

from local_cluster.cluster import Cluster
from local_cluster.container_secrets import FOLDER, make_container_secrets
from local_cluster.errors import LocalClusterError
from local_cluster.first_file import round_trip_first_file
from local_cluster.plan import Kind, process_names
from local_cluster.settings import LocalSettings
from local_cluster.terminal import complain, progress, say, show_ready, show_status
from shared.private_process import make_process_private

WATCH_INTERVAL_S: Final = 1.0
BLOCKED_BY_BROWSERS: Final = frozenset({10080})
"""The bad ports of the Fetch standard that an offset can lead to."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run one command; the exit status of the process."""
    make_process_private()
    parser = argparse.ArgumentParser(prog="local_cluster", description="A whole Trivet cluster on this machine.")
    parser.add_argument("command", choices=[*_COMMANDS, *_COMMANDS_FOR_SOME, "secrets"])
    parser.add_argument(
        "names", nargs="*", help=f"processes, for {', '.join(_COMMANDS_FOR_SOME)}; else all, or all services"
    )
    arguments = parser.parse_args()
    command, names = arguments.command, arguments.names
    if names and command not in _COMMANDS_FOR_SOME:
        parser.error(f"{command} takes no names of processes")
    if command == "secrets":
        say(f"Made in {FOLDER}: {', '.join(make_container_secrets()) or 'nothing, all are there'}")
        return 0
    try:
        settings = LocalSettings()
        cluster = Cluster(settings.local_dir, settings.port_offset)
        _check_names(cluster, names)
        if command in _COMMANDS:
            return asyncio.run(_COMMANDS[command](cluster))
        return asyncio.run(_COMMANDS_FOR_SOME[command](cluster, names))
    except ValidationError as error:
        complain("; ".join(f"TRIVET_{str(part['loc'][0]).upper()}: {part['msg']}" for part in error.errors()))
    except LocalClusterError as error:
        complain(str(error))
    except KeyboardInterrupt:
        complain("Interrupted. What was started keeps running: `make status` shows it, `make down` stops it.")
    return 1


def _check_names(cluster: Cluster, names: Iterable[str]) -> None:
    known = cluster.names()
    for name in names:
        if name not in known:
            raise LocalClusterError(f"There is no process {name}; there are {', '.join(known)}.")


async def _run(cluster: Cluster) -> int:
    """Start, show, watch until a signal, stop what was started here."""
    task = cast("asyncio.Task[object]", asyncio.current_task())  # a coroutine always runs in one
    _on_signals(task.cancel)
    try:
        await _bring_up(cluster)
        if cluster.started:
            say("Ctrl-C stops everything that was started here.")
        else:
            say("All of it was running already, and Ctrl-C leaves it so: `make down` stops it.")
        await _watch(cluster)
    except asyncio.CancelledError:
        # This task is the root and the cancellation is ours, from the signal handler: it ends here.
        task.uncancel()
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
    for group in [[name] for name in names] or _rounds(cluster):
        await asyncio.gather(*map(cluster.restart, group))
        say(f"{', '.join(group)}: ready.")
    return 0


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
    return int(any(status.problem is not None for status in statuses))


async def _bring_up(cluster: Cluster) -> None:
    began = time.monotonic()
    with progress(f"starting {len(cluster.plan.processes)} processes on 127.0.0.1") as on_progress:
        await cluster.start(on_progress=on_progress)
        round_trip = await asyncio.to_thread(round_trip_first_file, cluster.gateway_url)
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


_COMMANDS: Final[Mapping[str, Callable[[Cluster], Coroutine[Any, Any, int]]]] = {"run": _run, "status": _status}
_COMMANDS_FOR_SOME: Final[Mapping[str, Callable[[Cluster, list[str]], Coroutine[Any, Any, int]]]] = {
    "up": _up,
    "restart": _restart,
    "down": _down,
    "settings": _settings,
}

if __name__ == "__main__":
    sys.exit(main())
