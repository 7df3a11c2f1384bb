"""Draws the panels of the dashboard from what Prometheus answered, so that somebody can look at them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.integration.observability.prometheus import Answer

COLUMNS = 4
LEGEND_MAX = 5


def draw(panels: Mapping[str, Sequence[Answer]], to: Path) -> None:
    """One picture of all panels, each with its title and its last ones of many names."""
    row_count = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(5.2 * COLUMNS, 2.9 * row_count), dpi=80)
    figure.subplots_adjust(left=0.03, right=0.99, bottom=0.02, top=0.98, hspace=0.3)
    all_axes = figure.subplots(row_count, COLUMNS, squeeze=False).flat
    for (title, answers), axes in zip(panels.items(), all_axes, strict=False):
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        for answer in answers:
            for name, pairs in answer.series.items():
                axes.plot([at for at, _ in pairs], [value for _, value in pairs], linewidth=1, label=name or "value")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[:LEGEND_MAX], [label[-48:] for label in labels[:LEGEND_MAX]], fontsize=6, loc="upper left")
    for axes in all_axes:
        axes.set_visible(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts
        FigureCanvasAgg(figure).print_png(str(to))
