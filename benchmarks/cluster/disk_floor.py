"""What the disk alone takes: one process that writes the same bytes three times as new files, each with fdatasync.

Run as a process of its own: `python -m benchmarks.cluster.disk_floor FOLDER SIZE_BYTES COUNT` prints its figures as
JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from shared.units import MIB

REPLICAS: Final = 3


def main() -> None:
    """Write `COUNT` bodies, print the seconds and the CPU seconds that it took."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1], prefix="disk-floor-"))
    size_bytes, count = int(sys.argv[2]), int(sys.argv[3])
    piece = os.urandom(min(size_bytes, MIB))
    try:
        began, cpu_began = time.perf_counter(), time.process_time()
        for number in range(count * REPLICAS):
            _write(folder / str(number), piece, size_bytes // len(piece))
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"duration_s": took_s, "cpu_s": cpu_s}))


def _write(path: Path, piece: bytes, pieces: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(pieces):
            file.write(piece)
        os.fdatasync(file.fileno())


if __name__ == "__main__":
    main()
