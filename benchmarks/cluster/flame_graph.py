"""Draws stacks as a flame graph: an SVG without scripts, that a browser shows and whose boxes name themselves under the pointer.

After Brendan Gregg, "The Flame Graph" (CACM 59-6, 2016): a box per function, as wide as its share of the samples,
upon its caller.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.cluster.stack_samples import OUR_PACKAGES, STANDARD_LIBRARY, Frame, Stack

_WIDTH_PX: Final = 1600
_ROW_PX: Final = 16
_LETTER_PX: Final = 6.4
_NARROWEST_PX: Final = 0.6
"""Narrower boxes, and what stands on them, are left out."""


@dataclass(slots=True)
class _Box:
    samples: int = 0
    children: dict[Frame, _Box] = field(default_factory=dict)


def draw_flame_graph(stacks: Counter[Stack], title: str) -> str:
    """The SVG document."""
    root = _Box()
    for stack, count in stacks.items():
        box = root
        box.samples += count
        for frame in stack:
            box = box.children.setdefault(frame, _Box())
            box.samples += count
    lines: list[str] = []
    depth = _draw(root, 0.0, 1, root.samples, lines)
    height = (depth + 2) * _ROW_PX
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{height}" '
        f'font-family="monospace" font-size="11"><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="4" y="12" font-weight="bold">{escape(title)}: {root.samples} samples</text>'
    )
    # Drawn from the top downwards: the innermost calls hang lowest, and no height has to be known beforehand.
    return "\n".join([head, *lines, "</svg>"]) + "\n"


def _draw(box: _Box, left_px: float, depth: int, all_samples: int, lines: list[str]) -> int:
    """Draw the children of a box; the depth of the deepest of them."""
    deepest = depth
    for frame, child in sorted(box.children.items(), key=lambda item: -item[1].samples):
        width_px = child.samples / all_samples * _WIDTH_PX
        if width_px < _NARROWEST_PX:
            break
        name = f"{frame.function} ({frame.owner})"
        shown = name[: int(width_px / _LETTER_PX)] if width_px > 3 * _LETTER_PX else ""
        lines.append(
            f"<g><title>{escape(name)}: {child.samples / all_samples:.1%}</title>"
            f'<rect x="{left_px:.1f}" y="{depth * _ROW_PX}" width="{max(width_px - 0.4, 0.3):.1f}" height="{_ROW_PX - 1}" '
            f'fill="{_colour(frame)}"/><text x="{left_px + 2:.1f}" y="{depth * _ROW_PX + 11}">{escape(shown)}</text></g>'
        )
        deepest = max(deepest, _draw(child, left_px, depth + 1, all_samples, lines))
        left_px += width_px
    return deepest


def _colour(frame: Frame) -> str:
    """Ours blue, the standard library grey, libraries in warm colours by their name."""
    owner = frame.owner
    if owner.partition(".")[0] in OUR_PACKAGES:
        return "#9ec5ef"
    if owner == STANDARD_LIBRARY:
        return "#d8d8d8"
    return f"hsl({zlib.crc32(owner.encode()) % 90}, 75%, 74%)"
