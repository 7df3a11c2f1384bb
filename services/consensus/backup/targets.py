"""Where backups lie: a folder, or a bucket of S3. Names are paths with `/`; all but marks of `runs` stay as they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from shared.disk.durable_files import sync_directory, sync_file, write_new_file
from shared.units import MIB

if TYPE_CHECKING:
    # An extra of the images: imported only where a bucket is named.
    from obstore.store import S3Store

_PIECE_BYTES: Final = 8 * MIB
_DELETED_AT_ONCE: Final = 1000
_TEMPORARY: Final = ".new-"


class Target(Protocol):
    """Calls raise OSError, or another error of the medium, and then nothing has that name."""

    async def names(self, prefix: str) -> dict[str, int]:
        """What lies below `prefix`, which ends with a slash: names, with their sizes in bytes."""

    async def get(self, name: str) -> bytes:
        """All of it. Raises OSError."""

    async def put(self, name: str, body: bytes) -> None:
        """Store it durably, whole or not at all."""

    async def get_file(self, name: str, to: Path) -> None:
        """As `get`, for what may be larger than memory."""

    async def put_file(self, name: str, source: Path) -> None:
        """As `put`, likewise."""

    async def delete(self, names: Sequence[str]) -> None:
        """Those that are there."""

    async def delete_unfinished(self) -> None:
        """What killed runs left half written. Only while no run writes."""


class FolderTarget:
    """Below one folder. A file gets its name when its bytes are fsynced, and the name is fsynced too."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def names(self, prefix: str) -> dict[str, int]:
        """See `Target`."""
        return await asyncio.to_thread(self._names, prefix)

    def _names(self, prefix: str) -> dict[str, int]:
        found = (path for path in (self._root / prefix).rglob("*") if not path.name.startswith(_TEMPORARY))
        return {path.relative_to(self._root).as_posix(): path.stat().st_size for path in found if path.is_file()}

    async def get(self, name: str) -> bytes:
        """See `Target`."""
        return await asyncio.to_thread((self._root / name).read_bytes)

    async def put(self, name: str, body: bytes) -> None:
        """See `Target`."""
        await asyncio.to_thread(self._put, name, body)

    def _put(self, name: str, body: bytes) -> None:
        self._place(name, lambda temporary: write_new_file(temporary, [body]))

    def _place(self, name: str, write: Callable[[Path], None]) -> None:
        """`write` leaves durable bytes in the file that it is given."""
        path = self._root / name
        _make_folder(path.parent)
        temporary = path.with_name(f"{_TEMPORARY}{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        write(temporary)
        temporary.rename(path)
        sync_directory(path.parent)

    async def get_file(self, name: str, to: Path) -> None:
        """See `Target`."""
        await asyncio.to_thread(_copy, self._root / name, to)

    async def put_file(self, name: str, source: Path) -> None:
        """See `Target`."""
        await asyncio.to_thread(self._put_file, name, source)

    def _put_file(self, name: str, source: Path) -> None:
        def write(temporary: Path) -> None:
            _copy(source, temporary)
            sync_file(temporary)

        self._place(name, write)

    async def delete(self, names: Sequence[str]) -> None:
        """See `Target`."""
        for name in names:
            await asyncio.to_thread((self._root / name).unlink, missing_ok=True)

    async def delete_unfinished(self) -> None:
        """See `Target`."""
        await asyncio.to_thread(self._delete_unfinished)

    def _delete_unfinished(self) -> None:
        for path in self._root.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


class BucketTarget:
    """Below a prefix of a bucket; an object of S3 is there whole or not at all."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def names(self, prefix: str) -> dict[str, int]:
        """See `Target`."""
        with _errors():
            return {one["path"]: one["size"] async for page in self._store.list(prefix) for one in page}

    async def get(self, name: str) -> bytes:
        """See `Target`."""
        with _errors():
            found = await self._store.get_async(name)
            return bytes(await found.bytes_async())

    async def put(self, name: str, body: bytes) -> None:
        """See `Target`."""
        with _errors():
            await self._store.put_async(name, body)

    async def get_file(self, name: str, to: Path) -> None:
        """See `Target`."""
        with _errors(), to.open("wb") as file:
            found = await self._store.get_async(name)
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                file.write(bytes(piece))

    async def put_file(self, name: str, source: Path) -> None:
        """See `Target`."""
        with _errors():
            await self._store.put_async(name, source)

    async def delete(self, names: Sequence[str]) -> None:
        """See `Target`."""
        with _errors():
            for at in range(0, len(names), _DELETED_AT_ONCE):
                await self._store.delete_async(list(names[at : at + _DELETED_AT_ONCE]))

    async def delete_unfinished(self) -> None:
        """Nothing: parts of uploads that were never completed are the rules of the bucket to remove."""


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """How a bucket is reached. `key_file` has an access key id and its secret, with a dot or an end of line between."""

    endpoint: str
    key_file: Path
    region: str


def open_target(place: str, access: BucketAccess | None) -> Target:
    """The folder of that path, or `s3://bucket/prefix`. Raises ValueError."""
    if not place.startswith("s3://"):
        return FolderTarget(Path(place))
    if access is None:
        raise ValueError("a bucket needs --s3-endpoint and --s3-key")
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ValueError("for a bucket the dependencies of the group `backup` have to be installed") from error
    parts = urlsplit(place)
    key_id, _, secret = access.key_file.read_text(encoding="utf-8").strip().replace("\n", ".").partition(".")
    store = S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        endpoint=access.endpoint,
        region=access.region,
        access_key_id=key_id,
        secret_access_key=secret,
        virtual_hosted_style_request=False,
        client_options={"allow_http": access.endpoint.startswith("http://")},
    )
    return BucketTarget(store)


@contextmanager
def _errors() -> Iterator[None]:
    """What the library raises, as OSError: its own classes are those of a package that may not be there."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"the bucket: {error}") from error


def _make_folder(path: Path) -> None:
    """With those above it. A power cut must not take a folder away in which files are already named."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def _copy(source: Path, to: Path) -> None:
    with source.open("rb") as read, to.open("wb") as written:
        while piece := read.read(_PIECE_BYTES):
            written.write(piece)
