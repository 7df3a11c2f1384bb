"""Chunks, a disk tier on a folder of a test, and calls that fail."""

from __future__ import annotations

import os
from pathlib import Path

from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from shared.units import KIB
from tests.chance import random_bytes


def make_chunk(size_bytes: int = 100_000) -> Chunk:
    body = random_bytes(size_bytes)
    return Chunk(blake3(body).hexdigest(), size_bytes, (body,))


def disk_in(folder: Path) -> DiskTier:
    prepare_folder(folder)
    space = FreeSpace(folder, None, 99)
    return DiskTier(folder, space=space, metrics=StorageMetrics(CollectorRegistry()), small_limit_bytes=64 * KIB)


def failing(code: int):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail
