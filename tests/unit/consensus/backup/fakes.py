"""A cluster without processes, and a target in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from services.consensus.backup.targets import FolderTarget
from shared.errors import DataUnavailableError


def digest_of(body: bytes) -> str:
    return blake3(body).hexdigest()


def write_list(folder: Path, bodies: Sequence[bytes]) -> None:
    """`chunks.txt` of a snapshot that needs these."""
    folder.mkdir(exist_ok=True)
    lines = sorted(f"{digest_of(body)} {len(body)}\n" for body in bodies)
    (folder / "chunks.txt").write_text("".join(lines))


class FakeSource:
    """Gives chunks, and counts how often."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.bodies = {digest_of(body): body for body in bodies}
        self.given: list[str] = []

    async def look(self) -> None:
        pass

    async def get(self, digest: str) -> bytes:
        if digest not in self.bodies:
            raise DataUnavailableError("no node has it")
        self.given.append(digest)
        return self.bodies[digest]


class FragileTarget(FolderTarget):
    """Fails at the put with that number, and at all after it."""

    def __init__(self, root: Path, puts_left: int) -> None:
        super().__init__(root)
        self.puts_left = puts_left

    async def put(self, name: str, body: bytes) -> None:
        if self.puts_left <= 0:
            raise OSError("the medium is gone")
        self.puts_left -= 1
        await super().put(name, body)
