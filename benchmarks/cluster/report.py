"""Tables of a result, once as data: the same for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.cluster.budgets import Budgets
from benchmarks.cluster.machine_load import OTHER_LOAD_WARNING_CORES
from benchmarks.cluster.process_groups import GROUPS
from benchmarks.cluster.rows import ALL_ROWS, Row, counterpart_of
from benchmarks.cluster.samples import Result, RowSample
from benchmarks.cluster.summary import Figure, Ratio, Spread, median_cpu_ms, paired_ratio, samples_of
from benchmarks.cluster.trees import BASE, THIS


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first column is aligned to the left. `notes` stand below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()


def make_tables(result: Result, budgets: Budgets) -> list[Table]:
    """All tables of a result, without those that would be empty."""
    tables = []
    for tree in result.revisions:
        tables += [_speed(result, tree), _cost(result, tree, budgets)]
    if BASE in result.revisions:
        tables.append(_ratios(result))
    tables += [_s3_ratios(result, tree) for tree in result.revisions]
    tables += [_floors(result), _idle(result), _memory(result)]
    return [table for table in tables if table.rows]


def measured_rows(result: Result) -> list[Row]:
    """The rows that the result has, in the order of running."""
    names = {sample.row for sample in result.rows}
    return [row for row in ALL_ROWS if row.name in names]


def warnings_of(result: Result) -> list[str]:
    """What a reader must know before the figures are believed."""
    warnings: list[str] = []
    for tree in result.revisions:
        for row in measured_rows(result):
            warnings += _warnings_of_row(samples_of(result.rows, tree, row.name), f"{row.name} ({tree})")
    warnings += [
        f"idle ({sample.tree}): other load was {sample.other_cores:.2f} cores."
        for sample in result.idle
        if sample.other_cores > OTHER_LOAD_WARNING_CORES
    ]
    return warnings


def _warnings_of_row(samples: Sequence[RowSample], name: str) -> Iterable[str]:
    loud = [sample for sample in samples if sample.other_cores > OTHER_LOAD_WARNING_CORES]
    if loud:
        worst = max(sample.other_cores for sample in loud)
        often = f"in {len(loud)} of {len(samples)} rounds, {worst:.2f} at most"
        yield f"{name}: other load was above {OTHER_LOAD_WARNING_CORES} core {often}."
    if failed := sum(sample.failed for sample in samples):
        reason = next(sample.first_failure for sample in samples if sample.failed)
        yield f"{name}: {failed} requests failed: {reason}"
    if unstable := sum(not sample.is_leader_stable for sample in samples):
        yield f"{name}: the leader changed during {unstable} of {len(samples)} rounds."


def _speed(result: Result, tree: str) -> Table:
    table_rows = []
    for row in measured_rows(result):
        samples = samples_of(result.rows, tree, row.name)
        speed = Spread.of([sample.per_second for sample in samples])
        floor = _median_floor(result, row)
        table_rows.append(
            [
                row.name,
                f"{with_spread(speed)} {row.unit}/s",
                with_spread(Spread.of([sample.p50_ms for sample in samples])),
                with_spread(Spread.of([sample.p99_ms for sample in samples])),
                "" if floor is None else digits(floor),
                "" if floor is None else f"{speed.median / floor:.0%}",
                digits(Spread.of([sample.client_cpu_ms for sample in samples]).median),
                _other_load(samples),
            ]
        )
    columns = ["row", "throughput", "p50 ms", "p99 ms", "floor /s", "of floor", "client CPU ms", "other load, cores"]
    return Table(
        f"Speed of {result.revisions[tree]}, median (lowest-highest) of {result.rounds} rounds", columns, table_rows
    )


def _cost(result: Result, tree: str, budgets: Budgets) -> Table:
    groups = groups_of(result)
    table_rows = []
    for row in measured_rows(result):
        samples = samples_of(result.rows, tree, row.name)
        by_group = median_cpu_ms(samples)
        total = Spread.of([sample.total_cpu_ms for sample in samples])
        budget = budgets.get(row.name)
        table_rows.append(
            [
                f"{row.name}, per {row.unit}",
                *(digits(by_group.get(group, 0.0)) for group in groups),
                with_spread(total),
                "" if budget is None else digits(budget.at_most_ms),
                "" if budget is None else budget.mark(total.median),
                _speed_of_machine(samples),
                digits(Spread.of([sample.measured_cpu_ms for sample in samples]).median),
            ]
        )
    columns = ["row", *groups, "sum", "at most", "budget", "speed", "as measured"]
    return Table(f"CPU of {result.revisions[tree]}, ms per operation at normal speed", columns, table_rows)


_RATIO_FIGURES: dict[str, Figure] = {
    "CPU per operation": lambda sample: sample.total_cpu_ms,
    "as measured": lambda sample: sample.measured_cpu_ms,
    "throughput": lambda sample: sample.per_second,
    "p50": lambda sample: sample.p50_ms,
    "p99": lambda sample: sample.p99_ms,
}


def _ratios(result: Result) -> Table:
    table_rows = []
    for row in measured_rows(result):
        this, base = (samples_of(result.rows, tree, row.name) for tree in (THIS, BASE))
        ratios = {name: paired_ratio(this, base, figure) for name, figure in _RATIO_FIGURES.items()}
        cpu = ratios["CPU per operation"]
        groups = [_group_ratio(this, base, group) for group in groups_of(result)]
        cells = [_ratio_cell(ratio) for ratio in ratios.values()]
        table_rows.append([row.name, cells[0], f"{cpu.difference:+.3f}", cpu.verdict, *cells[1:], *groups])
    columns = ["row", "CPU per operation", "ms", "verdict", "as measured", "throughput", "p50", "p99"]
    columns += [f"{group} CPU" for group in groups_of(result)]
    title = f"Ratios of {result.revisions[THIS]} to {result.revisions[BASE]}, paired by round, median (lowest-highest)"
    note = "Above 1 this tree has more of it: worse for CPU and latency, better for throughput."
    return Table(title, columns, table_rows, (note,))


def _s3_ratios(result: Result, tree: str) -> Table:
    """Of rows of S3 to the same rows of `/v1` in the same round."""
    table_rows = []
    for row in measured_rows(result):
        ours, theirs = samples_of(result.rows, tree, row.name), samples_of(result.rows, tree, counterpart_of(row) or "")
        if row.is_s3 and theirs:
            ratios = [paired_ratio(ours, theirs, figure) for figure in _RATIO_FIGURES.values()]
            table_rows.append([row.name, *map(_ratio_cell, ratios)])
    title = f"Ratios of S3 to /v1 of {result.revisions[tree]}, paired by round, median (lowest-highest)"
    return Table(title, ["row", *_RATIO_FIGURES], table_rows)


def _group_ratio(this: Sequence[RowSample], base: Sequence[RowSample], group: str) -> str:
    try:
        ratio = paired_ratio(this, base, lambda sample: sample.normalized_cpu_ms.get(group, 0.0))
    except ValueError:
        return ""
    return f"{ratio.spread.median:.2f}"


def _ratio_cell(ratio: Ratio) -> str:
    return f"{ratio.spread.median:.3f} ({ratio.spread.low:.2f}-{ratio.spread.high:.2f})"


def _floors(result: Result) -> Table:
    names = list(dict.fromkeys(floor.floor for floor in result.floors))
    table_rows = []
    for name in names:
        samples = [floor for floor in result.floors if floor.floor == name]
        speed = Spread.of([floor.per_second for floor in samples])
        table_rows.append([name, with_spread(speed), with_spread(Spread.of([floor.cpu_ms for floor in samples]))])
    return Table("Floors in the same run", ["floor", "per second", "CPU ms per operation"], table_rows)


def _idle(result: Result) -> Table:
    groups = groups_of(result)
    table_rows = [
        [
            result.revisions[sample.tree],
            *(f"{sample.cores.get(group, 0.0):.4f}" for group in groups),
            f"{sample.total_cores:.4f}",
            f"{sample.other_cores:.2f}",
        ]
        for sample in result.idle
    ]
    duration_s = max((sample.duration_s for sample in result.idle), default=0.0)
    return Table(f"Idle CPU over {duration_s:.0f} s, cores", ["tree", *groups, "sum", "other load"], table_rows)


def _memory(result: Result) -> Table:
    table_rows = []
    for tree, revision in result.revisions.items():
        held = [memory for memory in result.memory if memory.tree == tree]
        table_rows += [
            [revision, memory.group, str(memory.processes), f"{memory.rss_mib:.0f}", f"{memory.largest_peak_mib:.0f}"]
            for memory in held
        ]
        table_rows.append(
            [revision, "sum", str(sum(m.processes for m in held)), f"{sum(m.rss_mib for m in held):.0f}", ""]
        )
    return Table(
        "Memory at the end, MiB", ["tree", "group", "processes", "resident", "peak of the largest"], table_rows
    )


def groups_of(result: Result) -> list[str]:
    """Process groups that the result has, in the order of tables."""
    found = {group: None for sample in result.rows for group in sample.cpu_ms} | {
        group: None for sample in result.idle for group in sample.cores
    }
    return [group for group in GROUPS if group in found] + [group for group in found if group not in GROUPS]


def _median_floor(result: Result, row: Row) -> float | None:
    speeds = [floor.per_second for floor in result.floors if floor.floor == row.floor]
    return Spread.of(speeds).median if speeds else None


def _speed_of_machine(samples: Sequence[RowSample]) -> str:
    speeds = [sample.speed for sample in samples if sample.speed is not None]
    return f"{Spread.of(speeds).median:.0%}" if speeds else ""


def _other_load(samples: Sequence[RowSample]) -> str:
    load = Spread.of([sample.other_cores for sample in samples])
    mark = " !" if load.high > OTHER_LOAD_WARNING_CORES else ""
    return f"{load.median:.2f} ({load.low:.2f}-{load.high:.2f}){mark}"


def digits(value: float) -> str:
    """Three digits that matter."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_spread(spread: Spread) -> str:
    """`median (lowest-highest)`."""
    return f"{digits(spread.median)} ({digits(spread.low)}-{digits(spread.high)})"


def to_markdown(result: Result, tables: Sequence[Table]) -> str:
    """The whole report."""
    compared = " against ".join(result.revisions.values())
    lines = [f"{compared}, {result.began_at}, {result.machine}, {result.rounds} rounds.", ""]
    lines += [f"- Warning: {warning}" for warning in warnings_of(result)]
    for table in tables:
        lines += ["", f"**{table.title}**", "", _markdown_row(table.columns)]
        lines.append("|" + "|".join(["---", *["---:"] * (len(table.columns) - 1)]) + "|")
        lines += [_markdown_row(row) for row in table.rows]
        lines += ["", *table.notes] if table.notes else []
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def show(result: Result, tables: Sequence[Table], console: Console) -> None:
    """Print the whole report; what needs a look is red."""
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if number == 0 else "right")
        for row in table.rows:
            drawn.add_row(*(f"[bold red]{cell}[/]" if cell in {"OVER", "more"} else escape(cell) for cell in row))
        console.print(drawn)
        for note in table.notes:
            console.print(escape(note))
        console.print()
    for warning in warnings_of(result):
        console.print(f"[bold yellow]Warning:[/] {escape(warning)}")
