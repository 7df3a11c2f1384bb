"""One picture per row: throughput, latency, CPU per operation by process group; a dot for every round shows the spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.cluster.budgets import Budget, Budgets
from benchmarks.cluster.report import groups_of, measured_rows
from benchmarks.cluster.rows import Row
from benchmarks.cluster.samples import Result, RowSample
from benchmarks.cluster.summary import Spread, median_cpu_ms, samples_of

_TREE_COLOURS: Final = ("#1f5fa8", "#c9782b")
_GROUP_COLOURS: Final = ("#4477aa", "#66ccee", "#aa3377", "#ee99aa", "#ccbb44", "#228833", "#888888", "#bbbbbb")
_DPI: Final = 110
_FAR: Final = 3
"""A floor that is so many times as high is written and not drawn, or nothing else could be seen."""


def draw_plots(result: Result, budgets: Budgets, folder: Path) -> list[Path]:
    """Write one PNG per row into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw(result, row, budgets.get(row.name), folder / f"{row.name}.png") for row in measured_rows(result)]


def _draw(result: Result, row: Row, budget: Budget | None, path: Path) -> Path:
    figure = Figure(figsize=(12.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{row.name}: {_describe(row)}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    speed, latency, cost = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.7))
    by_tree = {tree: samples_of(result.rows, tree, row.name) for tree in result.revisions}
    _draw_speed(speed, result, row, by_tree)
    _draw_latency(latency, by_tree, is_single=row.is_curl)
    _draw_cost(cost, result, row, budget, by_tree)
    figure.savefig(path, dpi=_DPI)
    return path


def _describe(row: Row) -> str:
    size = f"{row.size_bytes // 1024} KiB" if row.size_bytes < 1 << 20 else f"{row.size_bytes >> 20} MiB"
    clients = "one client" if row.clients == 1 else f"{row.clients} clients"
    what = "pages of 1,000 keys" if row.operation.value == "LIST" else f"{row.operation.value} of {size}"
    return f"{what}, {'curl' if row.is_curl else clients}"


def _draw_speed(axes: Axes, result: Result, row: Row, by_tree: dict[str, list[RowSample]]) -> None:
    for at, samples in enumerate(by_tree.values()):
        _bar_with_dots(axes, at, [sample.per_second for sample in samples], _TREE_COLOURS[at])
    labels = list(by_tree)
    floors = [floor.per_second for floor in result.floors if floor.floor == row.floor]
    highest = max(sample.per_second for samples in by_tree.values() for sample in samples)
    if floors and Spread.of(floors).median > _FAR * highest:
        axes.text(0.98, 0.98, f"floor {Spread.of(floors).median:,.0f}", transform=axes.transAxes, ha="right", va="top")
    elif floors:
        _bar_with_dots(axes, len(labels), floors, "#999999")
        labels.append("floor")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_title(f"throughput, {row.unit}/s (more is better)", fontsize=9)
    _tidy(axes)


def _draw_latency(axes: Axes, by_tree: dict[str, list[RowSample]], *, is_single: bool) -> None:
    percentiles = ("p50_ms",) if is_single else ("p50_ms", "p99_ms")
    labels: list[str] = []
    for at, (tree, samples) in enumerate(by_tree.items()):
        for percentile in percentiles:
            _bar_with_dots(axes, len(labels), [getattr(sample, percentile) for sample in samples], _TREE_COLOURS[at])
            labels.append(f"{tree}\n{'one file' if is_single else percentile.removesuffix('_ms')}")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_title("latency, ms", fontsize=9)
    _tidy(axes)


def _draw_cost(
    axes: Axes, result: Result, row: Row, budget: Budget | None, by_tree: dict[str, list[RowSample]]
) -> None:
    groups = groups_of(result)
    highest = max(sample.total_cpu_ms for samples in by_tree.values() for sample in samples)
    for at, samples in enumerate(by_tree.values()):
        bottom, by_group = 0.0, median_cpu_ms(samples)
        for number, group in enumerate(groups):
            height = by_group.get(group, 0.0)
            colour = _GROUP_COLOURS[number % len(_GROUP_COLOURS)]
            axes.bar(at, height, 0.55, bottom=bottom, color=colour, label=group if at == 0 else None)
            if height > highest * 0.05:
                axes.text(at, bottom + height / 2, f"{height:.2f}", ha="center", va="center", fontsize=8, color="black")
            bottom += height
        totals = [sample.total_cpu_ms for sample in samples]
        _dots(axes, at, totals)
        median = Spread.of(totals).median
        axes.text(at + 0.31, median, f"{median:.2f}", va="center", fontsize=9, fontweight="bold")
    if budget is not None:
        label = f"at most {budget.at_most_ms:g} ({budget.state})"
        axes.axhline(budget.at_most_ms, color="#cc2222", linewidth=1.4, linestyle="--", label=label)
        axes.axhline(budget.aim_ms, color="#cc2222", linewidth=0.8, linestyle=":", label=f"aim {budget.aim_ms:g}")
    axes.set_xticks(range(len(by_tree)), [result.revisions[tree] for tree in by_tree])
    axes.set_xlim(-0.6, len(by_tree) - 0.3)
    axes.set_title(f"CPU at normal speed, ms per {row.unit} (less is better)", fontsize=9)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, reverse=True)
    _tidy(axes)


def _bar_with_dots(axes: Axes, at: float, values: Sequence[float], colour: str) -> None:
    median = Spread.of(values).median
    axes.bar(at, median, 0.6, color=colour, alpha=0.75)
    _dots(axes, at, values)
    label = f"{median:,.0f}" if median >= 100 else f"{median:.3g}"
    # At the foot of the bar: above it the label would seem to belong to the highest dot.
    axes.annotate(label, (at, 0), (0, 3), textcoords="offset points", ha="center", fontsize=9, fontweight="bold")


def _dots(axes: Axes, at: float, values: Sequence[float]) -> None:
    """One dot per round, side by side in the order of the rounds."""
    step = 0.36 / max(1, len(values) - 1)
    xs = [at - 0.18 + number * step for number in range(len(values))]
    axes.plot(xs, values, "o", color="black", markersize=3, alpha=0.7)


def _tidy(axes: Axes) -> None:
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
