"""Whole files between a disk and the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

from blake3 import blake3

from trivet.bodies import Body, FileBody, body_of, section_of
from trivet.caller import new_idempotency_key
from trivet.config import state_path
from trivet.content_types import guessed_type
from trivet.download import AsyncDownload
from trivet.file_calls import FileCalls
from trivet.headers import change_headers, description_headers
from trivet.models import FileInfo, PartReceipt, Progress, Receipt
from trivet.transfers.downloading import Downloading, Places
from trivet.transfers.journal import Journal
from trivet.transfers.plan import is_single, part_size
from trivet.transfers.uploading import Source, Steps, Uploading
from trivet.upload_calls import UploadCalls

OnProgress = Callable[[Progress], None]
"""Called in the event loop after each piece; it must not take long."""


class TransferCalls(FileCalls, UploadCalls):
    """See `trivet.AsyncClient`."""

    async def upload_file(
        self,
        bucket: str,
        key: str,
        source: str | Path | BinaryIO,
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
        """Store a file of the disk: a large one by parts, several at a time, going on where an earlier call was interrupted.

        A file of at most 64 MiB without tags, and everything that is no regular file, is stored in one request as `put`
        does. A larger one has no digest of the whole; each part's is compared.

        Args:
            source: a path, or a binary file, which is sent from where it stands.
            content_type: None to guess it by the ending of the key, as `photo.jpg` is `image/jpeg`.
            part_size_bytes: of each part but the last; a file that is no longer is stored in one request. None to choose.
            parallel: parts at a time.
            resume: remember the upload in the user's state folder, and go on with one of the same file under the same key.
                Without it an upload that fails is aborted.
            on_progress: called with a `Progress`.

        Raises:
            SourceChanged: the file changed while it was sent.
            TransferInProgress: another process sends it under this key now.
            DigestMismatch: other bytes were stored than were read.
            PreconditionFailed: a condition does not hold. With `resume` the parts are kept for another call.
        """
        path = Path(source) if isinstance(source, str | Path) else None
        content_type = content_type or guessed_type(key)
        description = (content_type, user_metadata, write_quorum)
        with nullcontext(cast("BinaryIO", source)) if path is None else path.open("rb") as file:
            section = section_of(file)
            if section is None or (tags is None and is_single(section[2], part_size_bytes)):
                body = body_of(file)
                body.on_progress = _of_body(body, on_progress)
                headers = change_headers(
                    if_match=if_match, if_none_match=if_none_match, idempotency_key=new_idempotency_key()
                )
                return await self._put(bucket, key, body, description_headers(*description) | headers)

            async def begin() -> str:
                begun = await self.begin_upload(
                    bucket, key, content_type=content_type, user_metadata=user_metadata, tags=tags
                )
                return begun.upload_id

            async def put(upload_id: str, number: int, body: FileBody) -> PartReceipt:
                return await self._put_part(upload_id, number, body, write_quorum)

            async def complete(upload_id: str, parts: Sequence[tuple[int, str]]) -> Receipt:
                return await self.complete_upload(upload_id, parts, if_match=if_match, if_none_match=if_none_match)

            async def head() -> FileInfo:
                return await self.head(bucket, key)

            wanted = {
                "content_type": content_type,
                "user_metadata": dict(user_metadata or {}),
                "tags": dict(tags or {}),
            }
            with self._journal(bucket, key, path) if resume and path is not None else nullcontext() as journal:
                uploading = Uploading(
                    self,
                    Steps(begin, put, complete, head),
                    Source(*section),
                    part_bytes=part_size(section[2], part_size_bytes),
                    wanted=wanted,
                    journal=journal,
                    on_progress=on_progress,
                )
                return await uploading.run(parallel)

    async def download_file(
        self,
        bucket: str,
        key: str,
        target: str | Path,
        *,
        version: int | None = None,
        read_quorum: int | None = None,
        parallel: int = 4,
        resume: bool = True,
        on_progress: OnProgress | None = None,
    ) -> FileInfo:
        """Write a file to the disk, several ranges at a time, going on where an earlier call was interrupted.

        The target is replaced in one step when all is there and the digest is right. Until then the bytes are in a file
        beside it, `.NAME.trivet-partial`, and what is there in `.NAME.trivet-journal`.

        Args:
            parallel: ranges at a time.
            resume: keep the two files after a failure, and go on with those of an earlier one.
            on_progress: called with a `Progress`.

        Raises:
            FileNotFound: there is no such file or version.
            TransferInProgress: another process writes this target now.
            DigestMismatch: the bytes are not those that were stored.
            BrokenDownload: the connection was lost again and again, or the file replaced.
        """
        places = Places.of(Path(target))
        source = _OneFile(self, bucket, key, version, read_quorum)
        with Journal(places.journal) as journal:
            try:
                if not resume:
                    journal.begin({})
                return await Downloading(places, journal, source, on_progress).run(parallel)
            except BaseException:
                if not resume or not journal.done:
                    places.partial.unlink(missing_ok=True)
                    journal.remove()
                raise

    def _journal(self, bucket: str, key: str, path: Path) -> Journal:
        name = blake3("\n".join([self._endpoint.url, bucket, key, str(path.absolute())]).encode()).hexdigest()
        return Journal(state_path() / "uploads" / f"{name[:32]}.journal")


def _of_body(body: Body, on_progress: OnProgress | None) -> Callable[[int], None] | None:
    if on_progress is None:
        return None
    return lambda taken_bytes: on_progress(Progress(done_bytes=taken_bytes, total_bytes=body.size_bytes))


class _OneFile:
    """See `trivet.transfers.downloading.FileSource`."""

    def __init__(self, store: FileCalls, bucket: str, key: str, version: int | None, read_quorum: int | None) -> None:
        self._store = store
        self._name = (bucket, key)
        self._version = version
        self._read_quorum = read_quorum

    def open(self, *, start: int, end: int, if_match: str | None) -> AbstractAsyncContextManager[AsyncDownload]:
        return self._store.open(
            *self._name,
            version=self._version,
            start=start,
            end=end,
            if_match=if_match,
            read_quorum=self._read_quorum,
        )

    async def head(self) -> FileInfo:
        return await self._store.head(*self._name, version=self._version)
