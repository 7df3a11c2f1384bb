"""The client without `await`: each call runs in the event loop of a background thread (D-271)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from msgspec import UNSET, UnsetType

from trivet.async_client import DEFAULT_RETRY, AsyncClient
from trivet.background_loop import BackgroundLoop
from trivet.bodies import Data
from trivet.docstrings import document
from trivet.download import AsyncDownload
from trivet.list_calls import FileRow, VersionRow
from trivet.models import (
    BatchDeleted,
    Bucket,
    BucketCreated,
    BucketSettings,
    Cluster,
    CopyReceipt,
    Deleted,
    FileInfo,
    FilePage,
    Link,
    PartReceipt,
    Receipt,
    Tags,
    TimeNow,
    Upload,
    UploadBegun,
    UploadInfo,
    VersionPage,
)
from trivet.models import Caller as CallerInfo
from trivet.retry import RetryPolicy
from trivet.sync_operations import Operations
from trivet.transfer_calls import OnProgress


class Client:
    """A store, for programs without an event loop. It may be used by several threads at once.

    Arguments, attributes, calls and errors are those of `AsyncClient`. What that gives as asynchronous iterators are iterators
    here, and `open` gives a `Download`.

    Example:
        with trivet.Client() as store:
            store.put("default", "hello.txt", b"Hello")
            data = store.get("default", "hello.txt")
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        operations_url: str | None = None,
        profile: str | None = None,
        timeout_s: float = 30.0,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        self._async = AsyncClient(
            url, key, operations_url=operations_url, profile=profile, timeout_s=timeout_s, retry=retry
        )
        self._loop = BackgroundLoop(self._async.close)
        self.operations = Operations(self._async.operations, self._loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._async.url

    def close(self) -> None:
        """End the connections and the thread, and calls of other threads with an error. The client cannot be used again."""
        self._loop.close()

    def put(
        self,
        bucket: str,
        key: str,
        data: Data,
        *,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        write_quorum: int | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `AsyncClient.put`."""
        return self._loop.run(
            self._async.put(
                bucket,
                key,
                data,
                content_type=content_type,
                user_metadata=user_metadata,
                if_match=if_match,
                if_none_match=if_none_match,
                write_quorum=write_quorum,
                idempotency_key=idempotency_key,
            )
        )

    def get(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> bytes:
        """See `AsyncClient.get`."""
        return self._loop.run(
            self._async.get(
                bucket, key, version=version, start=start, end=end, if_match=if_match, read_quorum=read_quorum
            )
        )

    @contextmanager
    def open(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        start: int = 0,
        end: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> Iterator[Download]:
        """See `AsyncClient.open`."""
        context = self._async.open(
            bucket, key, version=version, start=start, end=end, if_match=if_match, read_quorum=read_quorum
        )
        download = self._loop.run(context.__aenter__())
        try:
            yield Download(download, self._loop)
        finally:
            self._loop.begin(_left(context))

    def head(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        read_quorum: int | None = None,
    ) -> FileInfo:
        """See `AsyncClient.head`."""
        return self._loop.run(
            self._async.head(bucket, key, version=version, if_match=if_match, read_quorum=read_quorum)
        )

    def delete(
        self,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Deleted:
        """See `AsyncClient.delete`."""
        return self._loop.run(
            self._async.delete(bucket, key, version=version, if_match=if_match, idempotency_key=idempotency_key)
        )

    def delete_many(self, bucket: str, keys: Iterable[str | tuple[str, int]]) -> BatchDeleted:
        """See `AsyncClient.delete_many`."""
        return self._loop.run(self._async.delete_many(bucket, keys))

    def list(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, *, details: bool = False
    ) -> Iterator[FileRow]:
        """See `AsyncClient.list`."""
        return self._loop.rows(self._async.list(bucket, prefix, delimiter, details=details))

    def list_pages(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str | None = None,
        *,
        details: bool = False,
        limit: int | None = None,
    ) -> Iterator[FilePage]:
        """See `AsyncClient.list_pages`."""
        return self._loop.iterate(self._async.list_pages(bucket, prefix, delimiter, details=details, limit=limit))

    def versions(
        self, bucket: str, prefix: str = "", delimiter: str | None = None, *, key: str | None = None
    ) -> Iterator[VersionRow]:
        """See `AsyncClient.versions`."""
        return self._loop.rows(self._async.versions(bucket, prefix, delimiter, key=key))

    def version_pages(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str | None = None,
        *,
        key: str | None = None,
        limit: int | None = None,
    ) -> Iterator[VersionPage]:
        """See `AsyncClient.version_pages`."""
        return self._loop.iterate(self._async.version_pages(bucket, prefix, delimiter, key=key, limit=limit))

    def copy(
        self,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        version: int | None = None,
        etag: str | None = None,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """See `AsyncClient.copy`."""
        return self._loop.run(
            self._async.copy(
                bucket,
                key,
                to_bucket,
                to_key,
                version=version,
                etag=etag,
                content_type=content_type,
                user_metadata=user_metadata,
                tags=tags,
                if_match=if_match,
                if_none_match=if_none_match,
                idempotency_key=idempotency_key,
            )
        )

    def rename(
        self,
        bucket: str,
        key: str,
        to_bucket: str,
        to_key: str,
        *,
        etag: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """See `AsyncClient.rename`."""
        return self._loop.run(
            self._async.rename(
                bucket,
                key,
                to_bucket,
                to_key,
                etag=etag,
                if_match=if_match,
                if_none_match=if_none_match,
                idempotency_key=idempotency_key,
            )
        )

    def restore(
        self,
        bucket: str,
        key: str,
        version: int | None = None,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> CopyReceipt:
        """See `AsyncClient.restore`."""
        return self._loop.run(
            self._async.restore(
                bucket, key, version, if_match=if_match, if_none_match=if_none_match, idempotency_key=idempotency_key
            )
        )

    def tags(self, bucket: str, key: str, *, version: int | None = None) -> Tags:
        """See `AsyncClient.tags`."""
        return self._loop.run(self._async.tags(bucket, key, version=version))

    def set_tags(
        self,
        bucket: str,
        key: str,
        tags: Mapping[str, str],
        *,
        version: int | None = None,
        idempotency_key: str | None = None,
    ) -> Tags:
        """See `AsyncClient.set_tags`."""
        return self._loop.run(self._async.set_tags(bucket, key, tags, version=version, idempotency_key=idempotency_key))

    def delete_tags(
        self, bucket: str, key: str, *, version: int | None = None, idempotency_key: str | None = None
    ) -> None:
        """See `AsyncClient.delete_tags`."""
        self._loop.run(self._async.delete_tags(bucket, key, version=version, idempotency_key=idempotency_key))

    def buckets(self) -> Iterator[Bucket]:
        """See `AsyncClient.buckets`."""
        return self._loop.rows(self._async.buckets())

    def create_bucket(
        self, bucket: str, *, versioning: str | None = None, idempotency_key: str | None = None
    ) -> BucketCreated:
        """See `AsyncClient.create_bucket`."""
        return self._loop.run(self._async.create_bucket(bucket, versioning=versioning, idempotency_key=idempotency_key))

    def delete_bucket(self, bucket: str, *, idempotency_key: str | None = None) -> None:
        """See `AsyncClient.delete_bucket`."""
        self._loop.run(self._async.delete_bucket(bucket, idempotency_key=idempotency_key))

    def bucket_settings(self, bucket: str) -> BucketSettings:
        """See `AsyncClient.bucket_settings`."""
        return self._loop.run(self._async.bucket_settings(bucket))

    def set_bucket_settings(
        self,
        bucket: str,
        *,
        versioning: str | UnsetType = UNSET,
        superseded_retention_s: int | UnsetType | None = UNSET,
        quota_bytes: int | UnsetType | None = UNSET,
        quota_files: int | UnsetType | None = UNSET,
        idempotency_key: str | None = None,
    ) -> BucketSettings:
        """See `AsyncClient.set_bucket_settings`."""
        return self._loop.run(
            self._async.set_bucket_settings(
                bucket,
                versioning=versioning,
                superseded_retention_s=superseded_retention_s,
                quota_bytes=quota_bytes,
                quota_files=quota_files,
                idempotency_key=idempotency_key,
            )
        )

    def begin_upload(
        self,
        bucket: str,
        key: str,
        *,
        content_type: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        lifetime_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> UploadBegun:
        """See `AsyncClient.begin_upload`."""
        return self._loop.run(
            self._async.begin_upload(
                bucket,
                key,
                content_type=content_type,
                user_metadata=user_metadata,
                tags=tags,
                lifetime_s=lifetime_s,
                idempotency_key=idempotency_key,
            )
        )

    def put_part(self, upload_id: str, number: int, data: Data, *, write_quorum: int | None = None) -> PartReceipt:
        """See `AsyncClient.put_part`."""
        return self._loop.run(self._async.put_part(upload_id, number, data, write_quorum=write_quorum))

    def copy_part(
        self,
        upload_id: str,
        number: int,
        bucket: str,
        key: str,
        *,
        version: int | None = None,
        etag: str | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> PartReceipt:
        """See `AsyncClient.copy_part`."""
        return self._loop.run(
            self._async.copy_part(upload_id, number, bucket, key, version=version, etag=etag, start=start, end=end)
        )

    def upload(self, upload_id: str) -> Upload:
        """See `AsyncClient.upload`."""
        return self._loop.run(self._async.upload(upload_id))

    def uploads(self, bucket: str, prefix: str = "") -> Iterator[UploadInfo]:
        """See `AsyncClient.uploads`."""
        return self._loop.rows(self._async.uploads(bucket, prefix))

    def complete_upload(
        self,
        upload_id: str,
        parts: Iterable[PartReceipt | tuple[int, str]],
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `AsyncClient.complete_upload`."""
        return self._loop.run(
            self._async.complete_upload(
                upload_id, parts, if_match=if_match, if_none_match=if_none_match, idempotency_key=idempotency_key
            )
        )

    def abort_upload(self, upload_id: str, *, idempotency_key: str | None = None) -> None:
        """See `AsyncClient.abort_upload`."""
        self._loop.run(self._async.abort_upload(upload_id, idempotency_key=idempotency_key))

    def upload_file(
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
        """See `AsyncClient.upload_file`."""
        return self._loop.run(
            self._async.upload_file(
                bucket,
                key,
                source,
                content_type=content_type,
                user_metadata=user_metadata,
                tags=tags,
                if_match=if_match,
                if_none_match=if_none_match,
                write_quorum=write_quorum,
                part_size_bytes=part_size_bytes,
                parallel=parallel,
                resume=resume,
                on_progress=on_progress,
            )
        )

    def download_file(
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
        """See `AsyncClient.download_file`."""
        return self._loop.run(
            self._async.download_file(
                bucket,
                key,
                target,
                version=version,
                read_quorum=read_quorum,
                parallel=parallel,
                resume=resume,
                on_progress=on_progress,
            )
        )

    def link(
        self,
        method: str,
        bucket: str,
        key: str,
        lifetime_s: int = 3600,
        headers: Mapping[str, str] | None = None,
        **query: str | int,
    ) -> Link:
        """See `AsyncClient.link`."""
        return self._async.link(method, bucket, key, lifetime_s, headers, **query)

    def identity(self) -> CallerInfo:
        """See `AsyncClient.identity`."""
        return self._loop.run(self._async.identity())

    def time(self) -> TimeNow:
        """See `AsyncClient.time`."""
        return self._loop.run(self._async.time())

    def cluster(self) -> Cluster:
        """See `AsyncClient.cluster`."""
        return self._loop.run(self._async.cluster())


async def _left(context: AbstractAsyncContextManager[AsyncDownload]) -> None:
    await context.__aexit__(None, None, None)


class Download:
    """A file, or a range of it, on its way. Read it once.

    Attributes:
        info: what the answer says about the file.
        start, end: which bytes come, `end` behind the last.
    """

    def __init__(self, download: AsyncDownload, loop: BackgroundLoop) -> None:
        self._async = download
        self._loop = loop
        self.info = download.info
        self.start, self.end = download.start, download.end

    def read(self) -> bytes:
        """See `AsyncDownload.read`."""
        return self._loop.run(self._async.read())

    def __iter__(self) -> Iterator[bytes]:
        """See `AsyncDownload.__aiter__`."""
        return self._loop.iterate(aiter(self._async))


document(Client, AsyncClient)
document(Download, AsyncDownload)
