"""The file system itself: every call of fsspec, on the asynchronous client."""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import fsspec.utils
from fsspec.asyn import sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.core import get_compression

from trivet import AsyncClient, errors
from trivet.content_types import guessed_type
from trivet.filesystem.clients import ClientsByLoop
from trivet.filesystem.namespace import Namespace
from trivet.filesystem.open_files import Reader, Writer, layered
from trivet.filesystem.os_errors import os_errors
from trivet.filesystem.paths import split
from trivet.filesystem.publication import Description, Publication
from trivet.filesystem.streams import AsyncReader, AsyncWriter
from trivet.local_names import is_unfinished
from trivet.models import Progress

BLOCK_SIZE_BYTES: Final = 8 << 20
"""Of a read ahead, and of a part of what is written, where the caller does not say."""

_FSSPEC_KEEPS_INSIDE: Final = hasattr(fsspec.utils, "check_contained")
"""Whether `get` of this fsspec refuses names that lead out of its target."""

_FSSPEC_OPTIONS: Final = frozenset({"batch_size", "use_listings_cache", "listings_expiry_time", "max_paths"})

Mode = Literal["overwrite", "create"]


class _Environment:
    """What variables say. fsspec gives equal instances for equal options, and which store it is depends on these, too."""

    def __get__(self, instance: object, owner: type | None = None) -> tuple[str | None, ...]:
        return tuple(os.getenv(name) for name in ("TRIVET_URL", "TRIVET_KEY", "TRIVET_PROFILE", "TRIVET_CONFIG"))


class TrivetFileSystem(Namespace):
    """Files of a Trivet cluster.

    A path is `bucket/key`, with or without `trivet://`. Buckets are directories; below them a directory is there while a file
    is in it, so that `mkdir` has nothing to make and an empty directory does not last.

    Every call asks the store and remembers nothing, so `invalidate_cache` and `refresh` have nothing to do. An open file reads
    one version.
    """

    blocksize = BLOCK_SIZE_BYTES
    _environment = _Environment()
    _extra_tokenize_attributes = ("_environment",)

    def __init__(
        self,
        endpoint_url: str | None = None,
        key: str | None = None,
        *,
        profile: str | None = None,
        timeout_s: float = 30.0,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        **options: Any,
    ) -> None:
        """Open nothing yet: the first call does.

        Args:
            endpoint_url: `url` of `trivet.Client`; fsspec has another use for that name.
            key, profile, timeout_s: as of `trivet.Client`. What is not given, the environment and the config file say.
            asynchronous: the caller awaits the calls that begin with `_`, on loops of its own, and calls none that block.
            loop: for calls that block; by default that of fsspec.
            options: `batch_size` of fsspec; those about a cache of lists are taken and not used.

        Raises:
            TypeError: there is no such option.
        """
        if unknown := set(options) - _FSSPEC_OPTIONS:
            raise TypeError(f"trivet:// has no storage option {', '.join(sorted(unknown))}")
        super().__init__(asynchronous=asynchronous, loop=loop, **options)
        self._clients = ClientsByLoop(partial(AsyncClient, endpoint_url, key, profile=profile, timeout_s=timeout_s))
        weakref.finalize(self, self._clients.close)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """As fsspec's; without the key where the password is to be left out."""
        found: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            found.pop("key", None)
            # Behind the address, the key.
            found["args"] = found["args"][:1]
        return found

    # Bytes out

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, *, version: int | None = None, **_: Any
    ) -> bytes:
        bucket, key = self._file(path)
        with os_errors(path):
            first = start or 0
            if (first < 0 and end is not None) or (end or 0) < 0:
                found = await self.client.head(bucket, key, version=version)
                version = found.version
                first, end, _step = slice(start, end).indices(found.size_bytes)
            if end is not None and first >= end:
                return b""
            try:
                return await self.client.get(bucket, key, version=version, start=first, end=end)
            except errors.RangeNotSatisfiable:  # it begins at the end, or after it
                return b""

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        """As fsspec's. Its releases before `check_contained` let a key with `..` in it lead out of the target.

        Raises:
            ValueError: a key would.
        """
        if not _FSSPEC_KEEPS_INSIDE and not (isinstance(rpath, list) and isinstance(lpath, list)):
            for name in await self._expand_path(self._strip_protocol(rpath), recursive=recursive, maxdepth=maxdepth):
                if ".." in name.split("/"):
                    raise ValueError(
                        f"{name} has .. between its slashes, and could leave the target; get_file takes it"
                    )
        await super()._get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **options)

    async def _get_file(
        self,
        rpath: str,
        lpath: str | os.PathLike[str],
        callback: Callback = DEFAULT_CALLBACK,
        *,
        version: int | None = None,
        **_: Any,
    ) -> None:
        bucket, key = split(self._strip_protocol(rpath))
        if _is_directory(lpath) or not key:
            _make_directory(lpath)
            return
        if is_unfinished(Path(lpath).name):
            raise OSError(errno.EINVAL, "Only an unfinished download may have a file of this name.", str(lpath))
        with os_errors(rpath):
            try:
                await self.client.download_file(
                    bucket, key, Path(lpath), version=version, on_progress=_progress(callback)
                )
            except errors.FileNotFound:
                if not await self._isdir(rpath):
                    raise
                _make_directory(lpath)

    # Bytes in

    async def _pipe_file(
        self,
        path: str,
        value: Any,
        mode: Mode = "overwrite",
        *,
        content_type: str | None = None,
        user_metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> None:
        bucket, key = self._file(path)
        with os_errors(path, is_new=mode == "create"):
            await self.client.put(
                bucket,
                key,
                value,
                content_type=content_type or guessed_type(key),
                user_metadata=user_metadata,
                if_none_match=_only_new(mode),
            )

    async def _put_file(
        self,
        lpath: str | os.PathLike[str],
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: Mode = "overwrite",
        *,
        content_type: str | None = None,
        user_metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> None:
        if _is_directory(lpath):
            return
        bucket, key = self._file(rpath)
        with os_errors(rpath, is_new=mode == "create"):
            await self.client.upload_file(
                bucket,
                key,
                Path(lpath),
                content_type=content_type or guessed_type(key),
                user_metadata=user_metadata,
                if_none_match=_only_new(mode),
                on_progress=_progress(callback),
            )

    async def _touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Make an empty file; with `truncate=False` a file that is there keeps its bytes and becomes as new."""
        if truncate:
            await self._pipe_file(path, b"", **options)
            return
        try:
            await self._pipe_file(path, b"", mode="create", **options)
        except FileExistsError:
            bucket, key = self._file(path)
            with os_errors(path):
                found = await self.client.head(bucket, key)
                await self.client.copy(
                    bucket,
                    key,
                    bucket,
                    key,
                    etag=found.etag,
                    content_type=found.content_type,
                    user_metadata=found.user_metadata,
                )

    touch = sync_wrapper(_touch)

    # Open files

    def open(self, path: str, mode: str = "rb", *arguments: Any, compression: str | None = None, **options: Any) -> Any:
        """As `open` of fsspec; what is written is discarded, whatever the layers, when the block ends by an exception."""
        if "r" in mode:
            return super().open(path, mode, *arguments, compression=compression, **options)
        text: dict[str, Any] = {
            name: options.pop(name) for name in ("encoding", "errors", "newline") if name in options
        }
        writer = super().open(path, mode.replace("t", "").replace("b", "") + "b", *arguments, **options)
        return layered(writer, None if "b" in mode else text, get_compression(path, compression))

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        *,
        content_type: str | None = None,
        user_metadata: dict[str, str] | None = None,
        **options: Any,
    ) -> Reader | Writer:
        block_size = block_size or self.blocksize
        if mode == "rb":
            return Reader(
                self, path, block_size=block_size, autocommit=autocommit, cache_options=cache_options, **options
            )
        if mode not in {"wb", "xb", "ab"}:
            raise ValueError(
                f"a file is opened by rb, wb, xb or ab, not by {mode}: its bytes are never changed in place"
            )
        begun = sync(self.loop, self._begin, path, mode, content_type, user_metadata)
        return Writer(self, path, mode, begun, block_size=block_size, autocommit=autocommit)

    async def _begin(
        self, path: str, mode: str, content_type: str | None, user_metadata: dict[str, str] | None
    ) -> Publication:
        bucket, key = self._file(path)
        clients = self._clients.current
        description = Description(content_type or guessed_type(key), user_metadata)
        with os_errors(path):
            if mode == "ab":
                return await Publication.appending(clients, bucket, key, description)
            if mode == "xb" and await self._exists(path):
                raise FileExistsError(errno.EEXIST, "It is there already.", path)
            return Publication(clients, bucket, key, description, is_new=mode == "xb")

    async def open_async(
        self,
        path: str,
        mode: str = "rb",
        *,
        block_size: int | None = None,
        version: int | None = None,
        content_type: str | None = None,
        user_metadata: dict[str, str] | None = None,
        **_: Any,
    ) -> AsyncReader | AsyncWriter:
        """As `open`, of bytes, for programs that await: `read`, `write`, `close` and `async with`; modes rb, wb and ab."""
        path = self._strip_protocol(path)
        block_size = block_size or self.blocksize
        if mode == "rb":
            return AsyncReader(self, path, await self._info(path, version=version), block_size)
        if mode not in {"wb", "ab"}:
            raise ValueError(f"a file is opened by rb, wb or ab here, not by {mode}")
        begun = await self._begin(path, mode, content_type, user_metadata)
        return AsyncWriter(self, path, mode, begun, block_size)

    def in_background(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the loop run `call` some time soon, if it still runs at all."""
        if self.loop is not None and self.loop.is_running():
            asyncio.run_coroutine_threadsafe(call(), self.loop)


def _is_directory(path: str | os.PathLike[str]) -> bool:
    return Path(path).is_dir()


def _make_directory(path: str | os.PathLike[str]) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)


def _only_new(mode: Mode) -> str | None:
    return "*" if mode == "create" else None


def _progress(callback: Callback) -> Callable[[Progress], None]:
    """Tell fsspec's callback how many bytes are done, and of how many."""

    def tell(progress: Progress) -> None:
        callback.set_size(progress.total_bytes)
        callback.absolute_update(progress.done_bytes)

    return tell
