"""What the processes of a cluster logged while a test ran: shown with a test that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_cluster.cluster import Cluster

SHOWN_CHARACTERS = 2000
"""Of each line: its beginning says what happened, its end where."""


@contextmanager
def troubles_shown(cluster: Cluster) -> Iterator[None]:
    """Print each warning and error that its processes log until the block is left."""
    files = [cluster.layout.log_file(name) for name in cluster.names()]
    sizes = {file: file.stat().st_size for file in files if file.exists()}
    yield
    for file in files:
        for line in _new_lines(file, sizes.get(file, 0)):
            if _is_trouble(line):
                print(f"{file.stem}: {_shortened(line)}")


def _new_lines(file: Path, since_bytes: int) -> list[str]:
    try:
        with file.open("rb") as log:
            log.seek(since_bytes)
            return log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _is_trouble(line: str) -> bool:
    """Whatever is not a line of ours is one: an interpreter that dies, for example."""
    try:
        facts = json.loads(line)
    except ValueError:
        return True
    return "link" not in facts and facts.get("level") != "info"


def _shortened(line: str) -> str:
    half = SHOWN_CHARACTERS // 2
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:half]} … {line[-half:]}"
