"""Uploads by parts: begin, put parts in any order and in parallel, complete or abort. All that is known of one is in the log.

So every call may go to another gateway, and one that is lost takes nothing with it but the bodies that were on their way. A
part is received as a file is: the same admission, budget and digests, and put again when its entry is refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from blake3 import blake3

from services.gateway.ports import Clock, Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.body_digests import Digests
from services.gateway.semantics.conditions import UNCONDITIONAL
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import SMALL_BYTES, Admission, Client, Transfer
from services.gateway.transfers.chunking import PacedBody
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from services.gateway.transfers.part_publication import PartPublication, UploadId
from services.gateway.transfers.publishing import Publisher, ReceivedBody
from services.gateway.transfers.quota_checks import QuotaChecks
from services.gateway.transfers.uploads import UploadResult, result_of
from shared.contracts.files import Preconditions
from shared.contracts.s3 import S3Attributes, S3UploadAttributes
from shared.contracts.uploads import (
    MANIFEST_CHUNKS_MAX,
    PART_BYTES_MAX,
    AbortUpload,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    GetUpload,
    StoredPart,
    Upload,
    UploadAnswer,
)
from shared.errors import PayloadTooLargeError, RequestTimeoutError, UploadNotFoundError


@dataclass(frozen=True, slots=True)
class UploadBegin:
    """Which file is to be made of parts, and what is to be kept with it. `lifetime_s`: None for ever."""

    name: FileName
    content_type: str
    user_metadata: dict[str, str]
    tags: dict[str, str]
    lifetime_s: int | None
    s3: S3UploadAttributes | None = None


@dataclass(frozen=True, slots=True)
class PartRequest:
    """A part that a client sends, checked. `announced_bytes` and `s3` are as those of `UploadRequest`."""

    upload: UploadId
    number: int
    quorums: Quorums
    digests: Digests
    announced_bytes: int | None
    client: Client
    s3: Callable[[], S3Attributes] | None = None


@dataclass(frozen=True, slots=True)
class PartSource:
    """Bytes of a file: of its current version or the one that `version` names, up to `range_end` or to the end."""

    name: FileName
    version: int | None = None
    preconditions: Preconditions = UNCONDITIONAL
    range_start: int = 0
    range_end: int | None = None


class PartUploads:
    """All uploads by parts of a gateway, which keeps nothing of them."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        idempotency: IdempotencyStore,
        directory: NodeDirectory,
        publisher: Publisher,
        quotas: QuotaChecks,
        admission: Admission,
        clock: Clock,
        max_age_s: float,
    ) -> None:
        """`max_age_s`: a body that takes longer is refused."""
        self._metadata = metadata
        self._idempotency = idempotency
        self._directory = directory
        self._publisher = publisher
        self._quotas = quotas
        self._admission = admission
        self._clock = clock
        self._max_age_s = max_age_s
        self._max_part_bytes = min(PART_BYTES_MAX, MANIFEST_CHUNKS_MAX * publisher.chunk_size_bytes)

    async def begin(self, request: UploadBegin, key: IdempotencyKey | None) -> UploadId:
        """Begin an upload.

        Raises:
            BucketNotFoundError: there is no such bucket.
        """
        # Under a key the same at every attempt: the log answers a repeat with the index of the first one.
        nonce = secrets.token_hex(16) if key is None else blake3(key.request_id.encode()).hexdigest()[:32]
        with self._idempotency.running(key):
            outcome = await self._idempotency.propose(
                BeginUpload(
                    bucket=request.name.bucket,
                    key=request.name.key,
                    nonce=nonce,
                    content_type=request.content_type,
                    user_metadata=request.user_metadata,
                    tags=request.tags,
                    lifetime_s=request.lifetime_s,
                    s3=request.s3,
                    stamp=self._clock.stamp(),
                ),
                key,
            )
        return UploadId(outcome.result.upload, nonce)

    async def put(self, request: PartRequest, body: AsyncIterable[bytes]) -> StoredPart:
        """Store `body` as a part; the last one put under a number counts.

        Returns when every chunk is fsynced on W nodes and the part on a majority of the consensus members.

        Raises:
            UploadNotFoundError: it was aborted or completed, or has expired; definite, found before `body` is touched.
            RequestTimeoutError: the body takes so long that its first chunks may be collected.
            TrivetError: as for a file.
        """
        self._check_size(request.announced_bytes or 0)
        size_bytes = request.announced_bytes
        is_large = size_bytes is None or size_bytes > SMALL_BYTES
        async with self._admission.transfer(request.client, is_large_upload=is_large) as transfer:
            if size_bytes is not None:
                transfer.size_known(size_bytes)
            return await self._put(request, PacedBody(body, transfer), transfer)

    async def _put(self, request: PartRequest, body: AsyncIterable[bytes], transfer: Transfer) -> StoredPart:
        part = self._publication(request.upload, request.number, request.quorums)
        start = await part.read_start()
        await self._check_quotas(part, request.announced_bytes or 0)
        sender = self._publisher.sender(start, request.quorums)
        received = ReceivedBody(request.digests, request.announced_bytes)
        ends_at_s = time.monotonic() + self._max_age_s
        chunks = self._publisher.cut(body, transfer)
        try:
            async with aclosing(chunks):
                async for held in chunks:
                    with held as chunk:
                        await received.catch_up()
                        is_whole = received.add(chunk)
                        await sender.add(held, is_whole_file=is_whole)
                    self._check_size(sender.size_bytes)
                    _check_time(ends_at_s)
            await received.catch_up()
            received.check()
            await sender.finish()
        except BaseException:
            sender.abandon()
            raise
        part.digest = received.digest
        part.s3 = None if request.s3 is None else request.s3()
        return await self._publisher.until_decided(part, sender, transfer)

    async def _check_quotas(self, part: PartPublication, size_bytes: int) -> None:
        found = part.found
        if found is None or found.upload is None or size_bytes <= self._publisher.chunk_size_bytes:
            return
        replaced_bytes = sum(each.size_bytes for each in found.parts if each.number == part.number)
        await self._quotas.check_part(found.upload, size_bytes, replaced_bytes=replaced_bytes)

    def _publication(self, upload: UploadId, number: int, quorums: Quorums) -> PartPublication:
        return PartPublication(
            upload,
            number,
            quorums,
            metadata=self._metadata,
            directory=self._directory,
            publisher=self._publisher,
            clock=self._clock,
        )

    async def copy(self, upload: UploadId, number: int, source: PartSource) -> StoredPart:
        """A part that has bytes of a file; none are moved.

        Raises:
            TrivetError: as `CopyPart`.
        """
        outcome = await self._metadata.propose(
            CopyPart(
                upload=upload.upload,
                nonce=upload.nonce,
                number=number,
                source_bucket=source.name.bucket,
                source_key=source.name.key,
                source_version=source.version,
                source_preconditions=source.preconditions,
                range_start=source.range_start,
                range_end=source.range_end,
                stamp=self._clock.stamp(),
            )
        )
        return outcome.result

    async def page(self, upload: UploadId, *, after_part: int, limit: int) -> tuple[Upload, UploadAnswer]:
        """The upload and the parts after number `after_part`. Raises UploadNotFoundError."""
        query = GetUpload(upload=upload.upload, nonce=upload.nonce, after_part=after_part, limit=limit)
        answer, _ = await self._metadata.read(query)
        if answer.upload is None:
            raise UploadNotFoundError("There is no such upload.", upload_id=str(upload))
        return answer.upload, answer

    async def complete(
        self,
        upload: UploadId,
        parts: list[tuple[int, str]],
        preconditions: Preconditions,
        key: IdempotencyKey | None,
        *,
        s3: S3Attributes | None = None,
    ) -> UploadResult:
        """Make a version of `parts`, ascending numbers with their etags. The same again gets the same answer.

        `s3`: what only S3 shows of it.

        Raises:
            TrivetError: as `CompleteUpload`.
        """
        with self._idempotency.running(key):
            outcome = await self._idempotency.propose(
                CompleteUpload(
                    upload=upload.upload,
                    nonce=upload.nonce,
                    parts=parts,
                    s3=s3,
                    preconditions=preconditions,
                    stamp=self._clock.stamp(),
                ),
                key,
            )
        uploaded = result_of(outcome)
        self._clock.receive(uploaded.version.stamp.hlc)
        # A repeat is an entry of its own, which has changed nothing.
        return replace(uploaded, log_index=uploaded.version.version, term=uploaded.version.term)

    async def abort(self, upload: UploadId, key: IdempotencyKey | None) -> None:
        """Give the upload up, with its parts. Raises UploadNotFoundError, UploadCompletedError."""
        stamp = self._clock.stamp()
        with self._idempotency.running(key):
            await self._idempotency.propose(AbortUpload(upload=upload.upload, nonce=upload.nonce, stamp=stamp), key)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_part_bytes:
            raise PayloadTooLargeError("The part is larger than parts may be.", limit_bytes=self._max_part_bytes)


def _check_time(ends_at_s: float) -> None:
    if time.monotonic() >= ends_at_s:
        raise RequestTimeoutError("The part takes too long; send it again, or in smaller parts.")
