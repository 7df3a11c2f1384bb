"""What a person sees: progress, the first receipt, a status table, one sentence per mistake."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.status import Status
from rich.table import Table

from local_cluster.cluster import Cluster, Pending, ProcessStatus
from local_cluster.first_file import FIRST_KEY, RoundTrip, describe
from local_cluster.s3_clients import from_here, write_s3_configs
from shared.units import MIB

_PYTHON: Final = f'import trivet; print(trivet.Client().get("default", "{FIRST_KEY}").decode())'

console = Console(highlight=False, soft_wrap=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)


def complain(message: str) -> None:
    """One clear sentence on standard error."""
    errors.print(f"[bold red]trivet:[/] {escape(message)}")


def say(message: str) -> None:
    """One line; a terminal that has gone away is no reason to leave processes behind."""
    with contextlib.suppress(OSError):
        console.print(message)


class ProgressLine:
    """Says what is being waited for: one changing line on a terminal, changes only in a log."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._last: set[str] | None = None

    def __call__(self, pending: Pending) -> None:
        """Show which processes are not ready yet."""
        if not pending:
            return
        name, reason = next(iter(pending.items()))
        more = f" and {len(pending) - 1} more" if len(pending) > 1 else ""
        self._status.update(f"waiting for {name}{more} [dim]({escape(reason)})[/]")
        if not console.is_terminal and set(pending) != self._last:
            console.print(f"  waiting for {', '.join(pending)}")
        self._last = set(pending)


@contextlib.contextmanager
def progress(first: str) -> Iterator[ProgressLine]:
    """Show progress while the block runs."""
    if not console.is_terminal:
        console.print(first)
    with console.status(first) as status:
        yield ProgressLine(status)


def show_ready(cluster: Cluster, round_trip: RoundTrip, seconds: float) -> None:
    """The cluster is ready: what was proved, where it answers, what to try."""
    console.print(f"[bold green]Ready[/] after {seconds:.1f} s.\n")
    for sentence in describe(round_trip):
        console.print(escape(sentence))
    console.print()
    for title, line in _lines_to_copy(cluster):
        # A line each, however long: one that we had broken would be two when it is copied.
        console.print(f"{title:<13} {escape(line)}")
    console.print()


def _lines_to_copy(cluster: Cluster) -> Iterator[tuple[str, str]]:
    gateway = cluster.gateway_url
    yield "API", f"{gateway}/v1/files/default/..."
    yield "Swagger UI", f"{gateway}/docs"
    yield "Your key", str(from_here(cluster.layout.root_key))
    yield "Cluster", f"{gateway}/v1/cluster"
    yield "Operations", f"{cluster.operations_url('gateway-1')}/docs (health, metrics, cluster changes)"
    yield "S3", cluster.s3_url
    configs = write_s3_configs(cluster.layout, cluster.s3_url, cluster.s3_region, cluster.root_key)
    yield from ((f"  {client}", command) for client, command in configs.items())
    yield from _lines_to_try(cluster)
    yield "Logs, data", str(cluster.layout.root)


def _lines_to_try(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Command lines that can be copied, and used in this order."""
    settings = {"TRIVET_KEY": str(from_here(cluster.layout.root_key))}
    if cluster.port_offset:  # a client finds the usual ports by itself
        settings |= {"TRIVET_URL": cluster.gateway_url, "TRIVET_OPERATIONS_URL": cluster.operations_url("gateway-1")}
    program = shlex.quote(str(from_here(Path(sys.executable).with_name("trivet"))))
    yield "Try", "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    yield "  a file in", f"{program} cp README.md default/"
    yield "  and out", f"{program} cat default/{FIRST_KEY}"
    yield "  the cluster", f"{program} cluster status"
    yield "  Python", f"{shlex.quote(str(from_here(Path(sys.executable))))} -c {shlex.quote(_PYTHON)}"
    yield (
        "  curl",
        f"curl -K {shlex.quote(str(from_here(cluster.layout.curl_config)))} {cluster.gateway_url}/v1/files/default",
    )


def show_status(statuses: list[ProcessStatus]) -> None:
    """One row per process."""
    table = Table(box=None, pad_edge=False)
    for heading in ("process", "state", "pid", "memory", "url"):
        table.add_column(heading, justify="right" if heading in {"pid", "memory"} else "left")
    for status in statuses:
        state = "[green]ready[/]" if status.problem is None else f"[red]{escape(status.problem)}[/]"
        memory = "" if status.rss_bytes is None else f"{status.rss_bytes // MIB} MiB"
        table.add_row(status.name, state, str(status.pid or ""), memory, status.url)
    console.print(table)


def show_cluster(cluster: Mapping[str, Any]) -> None:
    """`GET /v1/cluster`: one row per storage node, how much is missing, and what the cluster has to do without."""
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "state", "holds", "missing", "surplus", "left", "used"):
        table.add_column(heading, justify="left" if heading in {"node", "state"} else "right")
    for node in cluster["nodes"]:
        report = node["reconcile"] or {}
        is_well = node["state"] == "active" and not node["reason"]
        state = node["state"] + (f" ({node['reason']})" if node["reason"] else "")
        table.add_row(
            node["id"],
            f"[{'green' if is_well else 'yellow'}]{escape(state)}[/]",
            *(_number(report.get(name)) for name in ("expected_chunks", "missing_chunks", "surplus_chunks")),
            _duration(report.get("eta_s")),
            "?" if node["used_bytes"] is None else f"{node['used_bytes'] // MIB:,} MiB",
        )
    console.print()
    console.print(table)
    console.print()
    missing, remaining = cluster["under_replicated_chunks"], cluster["remaining_bytes"]
    if missing is None:
        console.print("Replicas missing: not known until every live node has reported.")
    elif missing:
        size = "" if remaining is None else f", {remaining // MIB:,} MiB to fetch"
        console.print(f"Replicas missing: {missing:,}{size}, {_duration(cluster['eta_s'])} left.")
    else:
        console.print("Every chunk has all its replicas.")
    for sentence in cluster["degraded"]:
        console.print(f"[yellow]degraded:[/] {escape(sentence)}")


def show_removal(name: str, removed: Mapping[str, Any]) -> None:
    """What may be gone with a lost node."""
    at_risk = removed["chunks_at_risk"]
    if at_risk is None:
        say(f"{name} was removed. Whether it was the only holder of any chunk is not known: `make verify` will tell.")
    elif at_risk:
        say(
            f"{name} was removed. Up to {at_risk:,} chunks may have had no other verified holder: `make verify` will tell."
        )
    else:
        say(f"{name} was removed. The others hold every chunk.")


class VerifyProgress:
    """How far verify is: a bar on a terminal, a line for every tenth in a log. Open it with `with`."""

    def __init__(self) -> None:
        columns = (TextColumn("verifying"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[found]}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("verify", total=1.0, found="")
        self._tenth = -1

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, found: Mapping[str, Any]) -> None:
        """Show one answer of `GET /v1/cluster/verify`."""
        text = f"{found['checked_chunks']:,} chunks, {_duration(found['eta_s'])} left, {_counts(found)}"
        self._bar.update(self._task, completed=found["progress"], found=text)
        tenth = int(found["progress"] * 10)
        if not console.is_terminal and tenth > self._tenth:
            console.print(f"  {found['progress']:.0%}: {text}")
            self._tenth = tenth


def show_verification(found: Mapping[str, Any]) -> None:
    """What verify found, and which nodes it could not ask."""
    console.print(f"Verify {found['state']}: {found['checked_chunks']:,} replicas read; {_counts(found)}.")
    if (objects := found["objects"]) is not None:
        numbers = ", ".join(f"{number:,} {what}" for what, number in objects.items())
        console.print(f"By the log there are now: {numbers}.")
    for node in found["nodes"]:
        if node["problem"] is not None:
            console.print(f"[yellow]not verified:[/] {node['id']}: {escape(node['problem'])}")
    if found["is_clean"]:
        console.print("[green]Clean:[/] every replica that should be there is there, and whole.")
    elif found["is_clean"] is False:
        console.print("[yellow]What is missing or bad is being restored; verify again afterwards.[/]")


def _counts(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{found[f'{what}_chunks']:,} {what}" for what in ("missing", "bad", "surplus", "orphaned"))


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"
