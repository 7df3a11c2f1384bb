"""What a person sees: progress, the first receipt, a status table, one sentence per mistake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from local_cluster.cluster import Cluster, Pending, ProcessStatus
from local_cluster.first_file import FIRST_KEY, RoundTrip, describe
from shared.units import MIB

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
    gateway = cluster.gateway_url
    console.print(f"[bold green]Ready[/] after {seconds:.1f} s.\n")
    for sentence in describe(round_trip):
        console.print(escape(sentence))
    console.print()
    grid = Table.grid(padding=(0, 2))
    grid.add_row("API", f"{gateway}/v1/files/default/...")
    grid.add_row("Swagger UI", f"{gateway}/docs")
    grid.add_row("Cluster", f"{gateway}/v1/cluster")
    grid.add_row("Operations", f"{cluster.operations_url('gateway-1')}/docs (health, metrics, cluster changes)")
    grid.add_row("A file in", f"curl -T README.md {gateway}/v1/files/default/README.md")
    grid.add_row("and out", f"curl {gateway}/v1/files/default/{FIRST_KEY}")
    grid.add_row("Logs, data", escape(str(cluster.layout.root)))
    console.print(grid)
    console.print()


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
