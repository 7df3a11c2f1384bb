#!/usr/bin/env python3
"""Draw docs/images/cluster-status.svg: what `trivet cluster status` prints on a terminal about a cluster that has lost a node.

The program prints it, from an answer of a real cluster; tests/tidy holds the file against it.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import msgspec
from rich.console import Console
from rich.text import Text

from trivet import models
from trivet.cli.commands.cluster import show_status
from trivet.cli.output import Output

ROOT: Final = Path(__file__).parents[1]
PICTURE: Final = ROOT / "docs" / "images" / "cluster-status.svg"
COMMAND: Final = "trivet cluster status"
COLUMNS: Final = 92

FONTS: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Of another site, which a picture in a repository may not load."""


def _node(number: int, used_bytes: int, **changes: Any) -> dict[str, Any]:
    report = {
        "epoch": 7,
        "log_index": 18_204,
        "expected_chunks": 5120,
        "expected_bytes": used_bytes,
        "missing_chunks": 0,
        "missing_bytes": 0,
        "surplus_chunks": 0,
        "orphan_chunks": 0,
        "bytes_per_s": 0,
        "is_listing": False,
    }
    return {
        "id": f"storage-{number}",
        "url": f"http://127.0.0.1:810{number}",
        "zone": f"zone-{number}",
        "state": "active",
        "capacity_bytes": 512 << 30,
        "used_bytes": used_bytes,
        "is_full": False,
        "reason": None,
        "reconcile": report,
        "incarnation": number,
        "draining_since": None,
    } | changes


CLUSTER: Final[dict[str, Any]] = {
    "cluster_id": "local-c3fe2622408d2e7f",
    "leader": "consensus-1",
    "term": 2,
    "members": [
        {
            "id": f"consensus-{number}",
            "url": f"http://127.0.0.1:820{number}",
            "peer_address": f"127.0.0.1:825{number}",
            "is_voter": True,
        }
        for number in (1, 2, 3)
    ],
    "nodes": [
        _node(1, 21_474_836_480),
        _node(2, 20_186_345_472, state="suspect", reason="silent for 51 s"),
        _node(3, 21_045_339_750),
    ],
    "under_replicated_chunks": 0,
    "remaining_bytes": 0,
    "eta_s": None,
    "degraded": ["storage-2 is suspect: silent for 51 s"],
    "epoch": 7,
    "log_index": 18_204,
}


class Terminal(io.StringIO):
    """As wide as the picture, with colours."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def cluster_status() -> str:
    """The picture."""
    terminal = Terminal()
    with patch.dict(os.environ, {"COLUMNS": str(COLUMNS), "TERM": "xterm", "NO_COLOR": ""}):  # noqa: TID251 as of a terminal
        show_status(Output(stdout=terminal), msgspec.convert(CLUSTER, models.Cluster))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold"), COMMAND))
    console.print(Text.from_ansi(terminal.getvalue()))
    return FONTS.sub("", console.export_svg(title="", unique_id="trivet"))


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(cluster_status(), encoding="utf-8")
