"""Removes old snapshots, and the chunks that no other one needs."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.consensus.backup.snapshots import CHUNKS, GROUP_DIGITS, SNAPSHOTS, snapshots
from services.consensus.backup.targets import Target
from services.consensus.rescue.backup_files import CHUNKS_NAME, MANIFEST_NAME

_GROUPS: Final = tuple(f"{number:0{GROUP_DIGITS}x}" for number in range(16**GROUP_DIGITS))


@dataclass(slots=True)
class Removed:
    """What was removed."""

    snapshots: int = 0
    chunks: int = 0
    size_bytes: int = 0


async def prune(target: Target, *, keep: int, check: Callable[[], None] = lambda: None) -> Removed:
    """Keep the newest `keep` snapshots and what they need.

    Not beside a backup to the same target: chunks that it has copied for a snapshot of its own, which is not there yet, would
    go. `runs` sees to it, and `check` raises when it no longer does. Manifests go first, so that an interrupted run leaves no
    snapshot without its chunks; what killed runs left half written goes, too.
    """
    removed = Removed()
    known = await snapshots(target)
    kept = known[-keep:]
    for name in known[:-keep]:
        files = await target.names(f"{SNAPSHOTS}{name}/")
        await target.delete([file for file in files if file.endswith(f"/{MANIFEST_NAME}")])
        await target.delete([file for file in files if not file.endswith(f"/{MANIFEST_NAME}")])
        removed.snapshots += 1
    with tempfile.TemporaryDirectory(prefix="trivet-prune-") as work, ExitStack() as stack:
        lists: list[Iterator[str]] = []
        for name in kept:
            path = Path(work) / name
            await target.get_file(f"{SNAPSHOTS}{name}/{CHUNKS_NAME}", path)
            lists.append(_digests(stack.enter_context(path.open(encoding="ascii"))))
        needed = heapq.merge(*lists)
        ahead = next(needed, None)
        for group in _GROUPS:
            wanted: set[str] = set()
            while ahead is not None and ahead.startswith(group):
                wanted.add(ahead)
                ahead = next(needed, None)
            there = await target.names(f"{CHUNKS}{group}/")
            unneeded = {name: size for name, size in there.items() if name.rsplit("/", 1)[1] not in wanted}
            check()
            await target.delete(list(unneeded))
            removed.chunks += len(unneeded)
            removed.size_bytes += sum(unneeded.values())
    check()
    await target.delete_unfinished()
    return removed


def _digests(lines: Iterator[str]) -> Iterator[str]:
    return (line.split(maxsplit=1)[0] for line in lines)
