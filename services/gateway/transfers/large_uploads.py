"""A single large body, stored as parts of an upload that stands in no list.

What one entry of the log can hold bounds a list of chunks, and chunks that no entry refers to are collected after a while. So
a body that goes on is logged part by part, and joined into a version when all of it has come and was checked (G-135).
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Final

import structlog

from services.gateway.access.context import as_system
from services.gateway.ports import Clock, Metadata
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import Transfer
from services.gateway.transfers.chunk_sender import ChunkSender
from services.gateway.transfers.part_publication import PartPublication, UploadId
from services.gateway.transfers.publishing import Publisher
from shared.background_tasks import BackgroundTasks
from shared.contracts.etags import list_digest
from shared.contracts.files import Preconditions
from shared.contracts.s3 import S3Attributes
from shared.contracts.uploads import AbortUpload, BeginUpload, CompleteUpload
from shared.errors import OverloadedError, TrivetError

logger = structlog.get_logger(__name__)

SEAL_CHUNKS: Final = 2048
"""Chunks of a part: half of what a version may have in its own list."""


class LargeUpload:
    """The parts of one body that are in the log. Invariant: all that was sent before `seal` returned is safe from garbage."""

    def __init__(
        self,
        upload: UploadId,
        part: PartPublication,
        *,
        metadata: Metadata,
        publisher: Publisher,
        clock: Clock,
        tasks: BackgroundTasks,
    ) -> None:
        self.upload = upload
        self._part = part
        self._parts: list[tuple[int, str]] = []
        self._metadata = metadata
        self._publisher = publisher
        self._clock = clock
        self._tasks = tasks
        self._is_completed = False

    async def seal(self, sender: ChunkSender, transfer: Transfer) -> None:
        """Have what was sent logged as the next part.

        Raises:
            UploadNotFoundError: the upload took longer than uploads may; definite.
            TrivetError: as a publish.
        """
        await sender.finish()
        # Nobody sees it: a name for these chunks does, and costs no second hash of the body.
        self._part.digest = list_digest(bytes(sender.chunk_digests)).hex()
        self._part.number = len(self._parts) + 1
        stored = await self._publisher.until_decided(self._part, sender, transfer)
        self._parts.append((self._part.number, stored.etag))

    async def next_sender(self, sender: ChunkSender) -> ChunkSender:
        """Of what follows, with a start of its own."""
        return sender.begin_next(await self._part.read_start())

    def completion(self, digest: str, preconditions: Preconditions, s3: S3Attributes | None) -> CompleteUpload:
        """What joins the parts into a version; `digest` of all bytes."""
        return CompleteUpload(
            upload=self.upload.upload,
            nonce=self.upload.nonce,
            parts=self._parts,
            digest=digest,
            s3=s3,
            preconditions=preconditions,
            stamp=self._clock.stamp(),
        )

    def completed(self) -> None:
        """The parts are a version now."""
        self._is_completed = True

    def close(self) -> None:
        """Abort the upload in the background unless it is completed. One that is not told is aborted when it expires."""
        if self._is_completed:
            return
        with suppress(OverloadedError):
            self._tasks.start("abort upload", self._abort())

    async def _abort(self) -> None:
        upload = self.upload
        try:
            with as_system():  # also for a principal that may not write here any more
                await self._metadata.propose(
                    AbortUpload(upload=upload.upload, nonce=upload.nonce, stamp=self._clock.stamp())
                )
        except TrivetError as error:
            logger.warning("an upload is left until it expires", upload=upload.upload, code=error.code)


class LargeUploads:
    """Begins them."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        directory: NodeDirectory,
        publisher: Publisher,
        clock: Clock,
        tasks: BackgroundTasks,
        lifetime_s: int,
    ) -> None:
        """`lifetime_s`: of what a gateway leaves that is lost; longer than a list of chunks takes that is not logged yet."""
        self._lifetime_s = lifetime_s
        self._metadata = metadata
        self._directory = directory
        self._publisher = publisher
        self._clock = clock
        self._tasks = tasks

    async def begin(
        self,
        name: FileName,
        incarnation: int,
        quorums: Quorums,
        *,
        content_type: str,
        user_metadata: dict[str, str],
        tags: dict[str, str],
    ) -> LargeUpload:
        """Begin an upload of the body of `name`, in the bucket of that incarnation.

        Raises:
            BucketNotFoundError, BucketRecreatedError: it is gone; definite.
            UpgradeUnfinishedError, InvalidRequestError: the cluster does not know uploads yet; definite.
        """
        nonce = secrets.token_hex(16)
        outcome = await self._metadata.propose(
            BeginUpload(
                bucket=name.bucket,
                incarnation=incarnation,
                key=name.key,
                nonce=nonce,
                content_type=content_type,
                user_metadata=user_metadata,
                tags=tags,
                is_internal=True,
                lifetime_s=self._lifetime_s,
                stamp=self._clock.stamp(),
            )
        )
        upload = UploadId(outcome.result.upload, nonce)
        part = PartPublication(
            upload,
            0,
            quorums,
            metadata=self._metadata,
            directory=self._directory,
            publisher=self._publisher,
            clock=self._clock,
            keep_s=self._lifetime_s,
        )
        return LargeUpload(
            upload,
            part,
            metadata=self._metadata,
            publisher=self._publisher,
            clock=self._clock,
            tasks=self._tasks,
        )
