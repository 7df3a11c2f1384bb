"""How long a storage node takes from its start to its first answer when its folder holds many chunks.

The folder is filled by the disk tier itself, in batches, because the way through HTTP would take minutes and prove nothing
about the start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Final

from blake3 import blake3
from prometheus_client import CollectorRegistry

from benchmarks.measuring import describe_machine, median_and_spread, show
from benchmarks.storage_node import CLUSTER_ID, NODE_ID, running_node
from services.storage.disk.changes import SmallChunk
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from shared.disk.data_folder import claim_data_dir
from shared.units import KIB

_BATCH: Final = 1000
_SMALL_BYTES: Final = 4 * KIB
_SMALL_LIMIT_BYTES: Final = 64 * KIB
_FILE_BYTES: Final = _SMALL_LIMIT_BYTES + 1
_FILE_WRITERS: Final = 8


async def fill(root: Path, packed: int, files: int) -> None:
    """Store `packed` chunks of 4 KiB and `files` chunks that are just large enough for a file of their own."""
    root.parent.mkdir(exist_ok=True)
    os.close(claim_data_dir(root, CLUSTER_ID, NODE_ID).lock_fd)
    prepare_folder(root)
    tail = os.urandom(_FILE_BYTES - 8)
    async with DiskTier(
        root,
        space=FreeSpace(root, None, 95),
        metrics=StorageMetrics(CollectorRegistry()),
        small_limit_bytes=_SMALL_LIMIT_BYTES,
    ) as tier:
        for first in range(0, packed, _BATCH):
            bodies = [
                number.to_bytes(8) + tail[: _SMALL_BYTES - 8] for number in range(first, min(packed, first + _BATCH))
            ]
            await tier.put_batch([SmallChunk(blake3(body).hexdigest(), body, 0) for body in bodies])

        async def write_files(writer: int) -> None:
            for number in range(writer, files, _FILE_WRITERS):
                body = number.to_bytes(8) + tail
                await tier.put(Chunk(blake3(body).hexdigest(), len(body), (body,)), 0)

        await asyncio.gather(*map(write_files, range(_FILE_WRITERS)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packed", type=int, default=95_000)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: the temporary one")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=arguments.folder) as name:
        began = time.perf_counter()
        asyncio.run(fill(Path(name) / "full" / "data", arguments.packed, arguments.files))
        print(f"filled in {time.perf_counter() - began:.0f} s")
        rows = []
        for folder in ("empty", "full"):
            ready_after_s, cpu_s = [], []
            for _ in range(arguments.runs):
                with running_node(Path(name) / folder, "tiered") as node:
                    ready_after_s.append(node.ready_after_s)
                    cpu_s.append(node.cpu_s())
            rows.append([folder, median_and_spread(ready_after_s), median_and_spread(cpu_s)])
    show(
        f"Start of a node, tiered, {arguments.packed:,} packed chunks and {arguments.files:,} files",
        ("folder", "seconds to the first answer, median (min-max)", "CPU seconds of the service until then"),
        rows,
    )


if __name__ == "__main__":
    main()
