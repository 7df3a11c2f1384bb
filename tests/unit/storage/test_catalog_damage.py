"""A flipped bit anywhere in the catalog: the node refuses to start, or every chunk is right, gone or an error."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FreeSpace
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.tiers.disk import DiskTier, prepare_folder
from shared.errors import ChunkCorruptError, ChunkNotFoundError, UnavailableError
from shared.units import KIB

_FLIPS = 40
_SEED = 20261125


def disk_in(folder: Path) -> DiskTier:
    prepare_folder(folder)
    space = FreeSpace(folder, None, 99)
    return DiskTier(folder, space=space, metrics=StorageMetrics(CollectorRegistry()), small_limit_bytes=64 * KIB)


async def fate_of(disk: DiskTier, digest: str, body: bytes) -> str:
    try:
        found = await disk.get(digest)
    except (ChunkNotFoundError, ChunkCorruptError, UnavailableError) as error:
        return error.code
    assert found == body, "wrong bytes were served"
    return "right"


async def test_a_flipped_bit_in_the_catalog_never_gives_a_wrong_byte(tmp_path):
    """Whatever it hits: the header, an index page, a row, a body."""
    draw = random.Random(_SEED)
    original = tmp_path / "original"
    original.mkdir()
    bodies = [draw.randbytes(draw.choice([40, 900, 5000, 70_000])) for _ in range(60)]
    chunks = {blake3(body).hexdigest(): body for body in bodies}
    async with disk_in(original) as disk:
        for digest, body in chunks.items():
            await disk.put(Chunk(digest, len(body), (body,)), 1)
    catalog = (original / "catalog.sqlite").read_bytes()
    assert not (original / "catalog.sqlite-wal").exists(), "an orderly end leaves all of it in one file"
    fates: Counter[str] = Counter()
    for _ in range(_FLIPS):
        folder = tmp_path / "damaged"
        shutil.copytree(original, folder)
        offset, bit = draw.randrange(len(catalog)), draw.randrange(8)
        damaged = bytearray(catalog)
        damaged[offset] ^= 1 << bit
        (folder / "catalog.sqlite").write_bytes(damaged)
        try:
            async with disk_in(folder) as disk:
                for digest, body in chunks.items():
                    fates[await fate_of(disk, digest, body)] += 1
        except SystemExit:
            fates["refused to start"] += 1
        except UnavailableError:
            fates["not opened"] += 1
        except Exception as error:
            raise AssertionError(f"byte {offset}, bit {bit}") from error
        shutil.rmtree(folder)
    print(dict(fates))
    assert fates["right"] > 0.9 * _FLIPS * len(chunks), fates
    assert fates["chunk_corrupt"] > 0, "no flip hit a body, so nothing was tested"
