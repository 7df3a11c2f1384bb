"""Whole files between a disk and the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from trivet.file_calls import FileCalls
from trivet.models import FileInfo, Progress, Receipt
from trivet.upload_calls import UploadCalls

OnProgress = Callable[[Progress], None]
"""Called in the event loop after each piece; it must not take long."""


class TransferCalls(FileCalls, UploadCalls):
    """See `trivet.AsyncClient`."""

    async def upload_file(
        self,
        bucket: str,
        key: str,
        source: Path | BinaryIO,
        *,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        write_quorum: int | None = None,
        part_size_bytes: int | None = None,
        parallel: int = 4,
        resume: bool = True,
        on_progress: OnProgress | None = None,
    ) -> Receipt:
        """Store a file of the disk: a large one by parts, several at a time, and going on where an earlier call was interrupted.

        Args:
            part_size_bytes: of each part but the last; None to choose. A file that is no longer is stored in one request.
            parallel: parts at a time.
            resume: remember the upload in the user's state folder, and go on with one of the same file under the same key.
            on_progress: called with a `Progress`.
        """
        _ = (tags, part_size_bytes, parallel, resume)  # in the next commit
        receipt = await self.put(
            bucket,
            key,
            source,
            content_type=content_type,
            user_metadata=user_metadata,
            if_match=if_match,
            if_none_match=if_none_match,
            write_quorum=write_quorum,
        )
        if on_progress is not None:
            on_progress(Progress(done_bytes=receipt.size_bytes, total_bytes=receipt.size_bytes))
        return receipt

    async def download_file(
        self,
        bucket: str,
        key: str,
        target: Path,
        *,
        version: int | None = None,
        read_quorum: int | None = None,
        parallel: int = 4,
        resume: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FileInfo:
        """Write a file to the disk, several ranges at a time, and going on where an earlier call was interrupted.

        The target is replaced at once when all is there and its digest is right; until then the bytes are in a file beside it.
        """
        _ = (parallel, resume)  # in the next commit
        beside = target.with_name(f".{target.name}.{os.getpid()}.trivet")
        try:
            async with self.open(bucket, key, version=version, read_quorum=read_quorum) as download:
                with beside.open("wb") as file:
                    async for chunk in download:
                        await asyncio.to_thread(file.write, chunk)
                        if on_progress is not None:
                            on_progress(Progress(done_bytes=file.tell(), total_bytes=download.info.size_bytes))
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        return download.info
