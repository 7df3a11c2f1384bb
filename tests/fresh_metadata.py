"""New state machines by the copy: an empty file takes forty statements and their syncs, so it is made once and copied."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from services.consensus.metadata.store import MetadataStore


@cache
def _empty_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.sqlite"
        MetadataStore.open(path).close()
        return path.read_bytes()


def open_store(path: Path) -> MetadataStore:
    """As `MetadataStore.open`, in a fifth of the time where there is no file yet."""
    if not path.exists():
        path.write_bytes(_empty_file())
    return MetadataStore.open(path)
