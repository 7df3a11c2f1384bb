"""What a run found out, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from shared.contracts.base import WireModel
from shared.units import KIB


class Repair(WireModel):
    """One node was killed and wiped. Seconds from being marked inactive, and from being active again. None: too few requests."""

    name: str
    chunks: int
    chunk_bytes: int
    foreground_per_s: float
    restored_after_inactive_s: float
    restored_after_return_s: float
    base_p99_ms: float | None
    away_p99_ms: float | None
    return_p99_ms: float | None
    failed: int


class Rest(WireModel):
    """Nodes in sync, of which nobody asks anything; the node that used most CPU, and the mean of the bytes."""

    chunks: int
    seconds: float
    cpu_s_per_node: float
    wire_bytes_per_node: int | None


class Placement(WireModel):
    """Is one node expected to hold each of so many chunks?"""

    chunks: int
    cpu_s: float


class Freed(WireModel):
    """Seconds from the last deletion until the nodes count none of it, and until their disks have it back."""

    small_files: int
    large_bytes: int
    retention_s: int
    deleting_s: float
    freed_after_s: float
    disk_after_s: float
    base_p99_ms: float | None
    """Over a while before and a while after: a machine that is shared is not equally fast for so long."""
    before_p99_ms: float | None
    after_p99_ms: float | None
    freeing_p99_ms: float | None
    failed: int


class Result(WireModel):
    """One run. What was not asked for is empty."""

    began_at: str
    machine: str
    size: float
    repairs: list[Repair]
    rests: list[Rest]
    placement: Placement | None
    freed: Freed | None


def to_markdown(result: Result) -> str:
    """The page."""
    parts = [
        f"# Repair\n\n{result.began_at}, {result.machine}; SIZE={result.size:g}, four storage nodes, one gateway.\n"
    ]
    if result.repairs:
        parts.append(
            _table(
                "One node killed and wiped",
                (
                    "chunks",
                    "N replicas after inactive",
                    "after its return",
                    "foreground",
                    "p99 before",
                    "without the node",
                    "after its return",
                    "failed requests",
                ),
                [_repair_row(one) for one in result.repairs],
            )
        )
    if result.rests:
        rows = [
            [
                f"{one.chunks:,}",
                f"{one.seconds:.0f} s",
                f"{one.cpu_s_per_node:.2f} s",
                "?" if one.wire_bytes_per_node is None else f"{one.wire_bytes_per_node / 1000:,.0f} KB",
            ]
            for one in result.rests
        ]
        parts.append(_table("In sync, nobody asks", ("chunks", "over", "CPU per node", "TCP bytes per node"), rows))
    if result.placement is not None:
        row = [f"{result.placement.chunks:,}", f"{result.placement.cpu_s:.1f} s"]
        parts.append(_table("Is this node expected to hold it?", ("chunks", "CPU"), [row]))
    if result.freed is not None:
        parts.append(
            _table(
                f"Deleted; grace and longest download {result.freed.retention_s} s",
                (
                    "files of 4 KiB",
                    "large files",
                    "deleted in",
                    "freed after",
                    "disk back after",
                    "p99 before",
                    "and after",
                    "together",
                    "while freeing",
                    "failed requests",
                ),
                [_freed_row(result.freed)],
            )
        )
    return "\n".join(parts)


def _repair_row(one: Repair) -> list[str]:
    return [
        f"{one.chunks:,} of {one.chunk_bytes // KIB:,} KiB",
        f"{one.restored_after_inactive_s:.1f} s",
        f"{one.restored_after_return_s:.1f} s",
        f"{one.foreground_per_s:,.0f}/s",
        _ms(one.base_p99_ms),
        _ratio(one.away_p99_ms, one.base_p99_ms),
        _ratio(one.return_p99_ms, one.base_p99_ms),
        str(one.failed),
    ]


def _freed_row(one: Freed) -> list[str]:
    return [
        f"{one.small_files:,}",
        f"{one.large_bytes / 1e9:.1f} GB",
        f"{one.deleting_s:.1f} s",
        f"{one.freed_after_s:.1f} s",
        f"{one.disk_after_s:.1f} s",
        _ms(one.before_p99_ms),
        _ms(one.after_p99_ms),
        _ms(one.base_p99_ms),
        _ratio(one.freeing_p99_ms, one.base_p99_ms),
        str(one.failed),
    ]


def _ms(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1f} ms"


def _ratio(value: float | None, base: float | None) -> str:
    return _ms(value) if value is None or base is None else f"{value:.1f} ms ({value / base:.2f}x)"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
