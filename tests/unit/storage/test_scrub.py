"""The scrub on a real disk tier: what a medium changed is found without anybody reading it."""

from __future__ import annotations

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.scrub import Scrubber, ScrubPace
from shared.units import KIB, MIB
from tests.chance import random_bytes

PACE = ScrubPace(period_s=1000, max_bytes_per_s=MIB)


class Bench:
    def __init__(self, root) -> None:
        self.root = root
        self.registry = CollectorRegistry()
        self.metrics = StorageMetrics(self.registry)
        prepare_folder(root)
        self.disk = self.make_disk()

    def make_disk(self) -> DiskTier:
        space = FreeSpace(self.root, None, 99)
        return DiskTier(self.root, space=space, metrics=self.metrics, small_limit_bytes=KIB)

    async def fill(self, count: int) -> list[str]:
        digests = []
        for number in range(count):
            body = random_bytes(100 if number % 2 else 3000)
            digests.append(blake3(body).hexdigest())
            await self.disk.put(Chunk(digests[-1], len(body), (body,)), 0)
        return digests

    def path_of(self, digest: str):
        return self.root / "chunks" / digest[:2] / digest

    def counted(self, name: str) -> float:
        return self.registry.get_sample_value(name) or 0


@pytest.fixture
async def bench(tmp_path):
    found = Bench(tmp_path)
    async with found.disk:
        yield found


async def one_pass(bench: Bench, disk: DiskTier) -> int:
    """Pages until the pass ends."""
    pages = 0
    before = bench.counted("trivet_storage_scrub_passes_total")
    while bench.counted("trivet_storage_scrub_passes_total") == before:
        await Scrubber(disk, PACE, bench.metrics).scrub_page()
        pages += 1
    return pages


async def test_one_pass_finds_every_changed_and_every_misdirected_chunk(bench):
    """Flipped bits, packed or in files, and right bytes under a wrong name are all out of service after one pass."""
    digests = await bench.fill(150)
    files, packed = digests[0::2], digests[1::2]
    flipped = bench.path_of(files[0])
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    bench.path_of(files[1]).write_bytes(bench.path_of(files[2]).read_bytes())
    bench.path_of(files[3]).unlink()
    bench.disk._committer._sql.execute(
        "UPDATE packed SET body = zeroblob(100) WHERE id = (SELECT packed_id FROM chunks WHERE digest = ?)",
        (bytes.fromhex(packed[0]),),
    )
    bad = {files[0], files[1], files[3], packed[0]}
    assert await one_pass(bench, bench.disk) == 3
    assert await bench.disk.has(digests, None) == set(digests) - bad
    assert bench.counted("trivet_storage_scrub_corrupt_total") == 4
    assert await one_pass(bench, bench.disk) == 3
    assert bench.counted("trivet_storage_scrub_corrupt_total") == 4
    assert len(list((bench.root / "quarantine").iterdir())) == 2


async def test_a_pass_goes_on_after_a_restart(tmp_path):
    """The position is durable: a node that restarts does not begin again and again at the first chunk."""
    bench = Bench(tmp_path)
    async with bench.disk:
        await bench.fill(150)
        await Scrubber(bench.disk, PACE, bench.metrics).scrub_page()
    bench.disk = bench.make_disk()
    async with bench.disk:
        assert 0 < await one_pass(bench, bench.disk) == 2
        assert bench.counted("trivet_storage_scrub_progress") == 0
        assert await one_pass(bench, bench.disk) == 3


async def test_an_empty_disk_is_scrubbed_too(bench):
    """Nothing to read is a finished pass, and a pause."""
    assert await Scrubber(bench.disk, PACE, bench.metrics).scrub_page() == 60
    assert bench.counted("trivet_storage_scrub_passes_total") == 1


def test_the_pace_spreads_a_pass_over_its_period_within_the_rate():
    """Equal shares of bytes or chunks take equal shares of the period; the rate bound wins over the period."""
    pace = ScrubPace(period_s=1000, max_bytes_per_s=100)
    assert pace.pause_s(page_bytes=10, page_chunks=1, used_bytes=1000, chunk_count=1000) == 10
    assert pace.pause_s(page_bytes=0, page_chunks=10, used_bytes=1000, chunk_count=100) == 100
    assert pace.pause_s(page_bytes=500, page_chunks=1, used_bytes=500, chunk_count=1) == 1000
    assert pace.pause_s(page_bytes=200_000, page_chunks=1, used_bytes=10**9, chunk_count=10**6) == 2000
    assert pace.pause_s(page_bytes=0, page_chunks=0, used_bytes=0, chunk_count=0) == 0


@pytest.mark.parametrize("count", [63, 64, 65, 128])
async def test_a_pass_reads_every_chunk_once(count, bench):
    """Whether the last page is full or not."""
    await bench.fill(count)
    await one_pass(bench, bench.disk)
    assert bench.counted("trivet_storage_scrubbed_bytes_total") == bench.disk._holdings.total.used_bytes
