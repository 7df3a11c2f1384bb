"""How the CPU of each row goes with that of the gauge's work, fitted over results that were measured before.

    python -m benchmarks.cluster.sensitivity benchmarks/out/2*/result.json

What slows a shared machine (caches that others fill, wake-ups that wait for a core) hits a dozen processes that wait for each
other harder than it hits one that works alone. In what was measured the logarithms of both lie on a line: its slope is the row's
`sensitivity`. Of each revision only the differences between its rounds count, so a faster tree is not taken for a faster machine.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.cluster.rows import ROWS
from benchmarks.cluster.samples import FORMAT_VERSION, Result

_LEAST: Final = 3
"""Rounds of one revision that say something about a slope."""

Point = tuple[float, float]


def slope(groups: Iterable[Sequence[Point]]) -> float | None:
    """Of the line through points (x, y), each group around its own middle; None where nothing varies."""
    sum_xx = sum_xy = 0.0
    for points in groups:
        if len(points) >= _LEAST:
            middle_x, middle_y = mean(x for x, _ in points), mean(y for _, y in points)
            sum_xx += sum((x - middle_x) ** 2 for x, _ in points)
            sum_xy += sum((x - middle_x) * (y - middle_y) for x, y in points)
    return sum_xy / sum_xx if sum_xx else None


def read_points(paths: Sequence[Path]) -> dict[str, dict[str, list[Point]]]:
    """Logarithms of the gauge's work and of one operation's CPU, by row and revision. Results of other formats are left out."""
    points: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        content = json.loads(path.read_text())
        if content.get("version") != FORMAT_VERSION:
            continue
        result = Result.model_validate(content)
        for sample in result.rows:
            if sample.gauge_us and sample.measured_cpu_ms:
                revision = result.revisions[sample.tree]
                point = math.log(sample.gauge_us), math.log(sample.measured_cpu_ms)
                points[sample.row][revision].append(point)
    return points


def main() -> None:
    """Print the slopes beside what is used."""
    parser = argparse.ArgumentParser(prog="benchmarks.cluster.sensitivity", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    points = read_points(parser.parse_args().results)
    table = Table("row", "rounds", "revisions", "fitted", "used")
    for row in ROWS:
        groups = points[row.name].values()
        fitted = slope(groups)
        shown = "unknown" if fitted is None else f"{fitted:.2f}"
        table.add_row(row.name, str(sum(map(len, groups))), str(len(groups)), shown, f"{row.sensitivity:g}")
    Console().print(table)


if __name__ == "__main__":
    main()
