"""The log of a process at work: its last line may be half written, and what is told of it may be written a moment later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def whole_lines(log: Path, *, from_byte: int = 0) -> list[str]:
    """The lines that have their end."""
    return log.read_bytes()[from_byte:].rpartition(b"\n")[0].decode().splitlines()


def records(log: Path, *, from_byte: int = 0) -> list[dict[str, Any]]:
    """The lines that are documents."""
    return [json.loads(line) for line in whole_lines(log, from_byte=from_byte) if line.startswith("{")]
