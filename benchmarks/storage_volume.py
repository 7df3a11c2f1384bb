"""More data through one tiered node than its Redis could ever hold: memory stays bounded, and every chunk comes back.

Half of the bytes are chunks that take the way through Redis, half go to disk at once. Every byte that comes back is hashed
by the client, too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import uvloop
from blake3 import blake3

from benchmarks.chunk_wire import ChunkConnection, make_signer
from benchmarks.measuring import describe_machine, show
from benchmarks.storage_node import RunningNode, running_node
from shared.units import KIB, MIB

CLIENTS: Final = 8
SMALL_BYTES: Final = 64 * KIB
_MAX_ATTEMPTS: Final = 200


class Volume:
    """Chunks that can be made again from their number, and the digests of those that were stored."""

    def __init__(self, size_bytes: int, seed: int) -> None:
        self._tail = random.Random(seed).randbytes(MIB - 16)
        larges = size_bytes // 2 // MIB
        self.sizes = [MIB] * larges + [SMALL_BYTES] * (larges * MIB // SMALL_BYTES)
        random.Random(seed).shuffle(self.sizes)
        self.digests: list[str] = [""] * len(self.sizes)

    def body(self, number: int) -> bytes:
        """The chunk of that number."""
        return number.to_bytes(16) + self._tail[: self.sizes[number] - 16]


async def put_all(node: RunningNode, volume: Volume) -> int:
    """Store everything; how many puts had to be repeated because the node was busy."""
    numbers = iter(range(len(volume.sizes)))
    counts = await asyncio.gather(*(_put_some(node, volume, numbers) for _ in range(CLIENTS)))
    return sum(counts)


async def _put_some(node: RunningNode, volume: Volume, numbers: Iterator[int]) -> int:
    connection = await ChunkConnection.open(node.peer, make_signer(node.secret))
    repeated = 0
    for number in numbers:
        body = volume.body(number)
        volume.digests[number] = digest = blake3(body).hexdigest()
        for attempt in itertools.count():
            answer = await connection.call("PUT", digest, [body], is_kept=True)
            if answer.status in {200, 201}:
                break
            if answer.status != 503 or attempt == _MAX_ATTEMPTS:
                raise RuntimeError(f"a put was answered {answer.status}: {answer.body!r}")
            repeated += 1
    connection.close()
    return repeated


async def get_all(node: RunningNode, volume: Volume, seed: int) -> int:
    """Read everything back in another order; how many chunks were whole."""
    order = list(range(len(volume.sizes)))
    random.Random(seed + 1).shuffle(order)
    numbers = iter(order)
    counts = await asyncio.gather(*(_get_some(node, volume, numbers) for _ in range(CLIENTS)))
    return sum(counts)


async def _get_some(node: RunningNode, volume: Volume, numbers: Iterator[int]) -> int:
    connection = await ChunkConnection.open(node.peer, make_signer(node.secret))
    whole = 0
    for number in numbers:
        answer = await connection.call("GET", volume.digests[number], is_kept=True)
        whole += answer.status == 200 and blake3(answer.body).hexdigest() == volume.digests[number]
    connection.close()
    return whole


def _redis_peak_bytes(node: RunningNode) -> int:
    """VmHWM of the node's Redis, the other process that `running_node` started."""
    (redis,) = (process for process in psutil.Process().children() if process.pid != node.pid)
    lines = Path(f"/proc/{redis.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * KIB


async def measure(folder: Path, size_bytes: int, seed: int) -> None:
    """One run, with its table."""
    volume = Volume(size_bytes, seed)
    with running_node(folder, "tiered") as node:
        began = time.perf_counter()
        repeated = await put_all(node, volume)
        written_s = time.perf_counter() - began
        began = time.perf_counter()
        whole = await get_all(node, volume, seed)
        read_s = time.perf_counter() - began
        peaks = node.peak_rss_bytes(), _redis_peak_bytes(node)
    total_mib = sum(volume.sizes) / MIB
    small_mib = volume.sizes.count(SMALL_BYTES) * SMALL_BYTES / MIB
    rows = [
        ["chunks stored (of 64 KiB / of 1 MiB)", f"{volume.sizes.count(SMALL_BYTES):,} / {volume.sizes.count(MIB):,}"],
        ["MiB stored; of these through Redis", f"{total_mib:,.0f}; {small_mib:,.0f}"],
        ["puts repeated because the node was busy", f"{repeated:,}"],
        ["MiB per second in / out", f"{total_mib / written_s:,.0f} / {total_mib / read_s:,.0f}"],
        ["chunks that came back whole", f"{whole:,} of {len(volume.sizes):,}"],
        ["peak RSS of the service, MiB", f"{peaks[0] / MIB:.0f}"],
        ["peak RSS of its Redis (maxmemory 512 MiB), MiB", f"{peaks[1] / MIB:.0f}"],
    ]
    show("Volume through one tiered node", ("what", "figure"), rows)
    if whole != len(volume.sizes):
        raise SystemExit("chunks are missing or wrong")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to fill; default: the temporary one")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=arguments.folder) as folder:
        uvloop.run(measure(Path(folder), int(arguments.gigabytes * 10**9), arguments.seed))


if __name__ == "__main__":
    main()
