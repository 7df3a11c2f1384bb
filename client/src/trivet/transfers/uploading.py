"""A file of the disk into the store, by parts.

What is remembered is which upload it was and of which file: size, time of its last change, inode. Which parts are durable the
store is asked, and each of them is compared with the file by its digest: a part that is there is not sent again, and one that is
there with other bytes is (D-272).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from blake3 import blake3

from trivet.bodies import FileBody
from trivet.errors import Forbidden, NotFound, SourceChanged, TrivetError, UploadNotFound
from trivet.models import FileInfo, PartReceipt, Progress, Receipt, Upload
from trivet.transfers.hashing import hash_section
from trivet.transfers.journal import Journal
from trivet.transfers.parallel import in_parallel
from trivet.transfers.plan import Piece, pieces


class PartStore(Protocol):
    """The calls that an upload needs."""

    async def upload(self, upload_id: str) -> Upload:
        """See `trivet.AsyncClient`."""

    async def abort_upload(self, upload_id: str) -> None:
        """See `trivet.AsyncClient`."""


class Source(msgspec.Struct, frozen=True):
    """A section of an open file."""

    descriptor: int
    start: int
    size_bytes: int

    def fingerprint(self) -> list[int]:
        """What changes when the file does: size, nanoseconds of its last change, inode."""
        facts = os.fstat(self.descriptor)
        return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


class Steps(msgspec.Struct, frozen=True):
    """How the caller makes each call of one upload."""

    begin: Callable[[], Awaitable[str]]
    put: Callable[[str, int, FileBody], Awaitable[PartReceipt]]
    complete: Callable[[str, Sequence[tuple[int, str]]], Awaitable[Receipt]]
    head: Callable[[], Awaitable[FileInfo]]


class Uploading:
    """One upload by parts.

    Args:
        wanted: what the file is to be: bucket, key and description; another upload is begun where it is another.
        journal: None where nothing is to be remembered.
        on_progress: see `trivet.transfer_calls`.
    """

    def __init__(
        self,
        store: PartStore,
        steps: Steps,
        source: Source,
        *,
        part_bytes: int,
        wanted: dict[str, Any],
        journal: Journal | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._store = store
        self._steps = steps
        self._source = source
        self._journal = journal
        self._on_progress = on_progress
        # An empty file is one part without bytes.
        self._pieces = pieces(source.size_bytes, part_bytes) or [Piece(1, 0, 0)]
        self._fingerprint = source.fingerprint()
        self._head = {"fingerprint": self._fingerprint, "part_bytes": part_bytes, "wanted": wanted}
        self._etags: dict[int, str] = {}
        self._sent_bytes: dict[int, int] = {}
        self._resumed_bytes = 0

    async def run(self, parallel: int) -> Receipt:
        """Send what is missing and complete the upload.

        Raises:
            SourceChanged: the file changed meanwhile; nothing was published.
            TrivetError: a part could not be sent. With a journal, a later run goes on.
        """
        remembered = self._remembered()
        if remembered is not None and (receipt := await self._completed(remembered)) is not None:
            return receipt
        upload_id = None if remembered is None else await self._resumed(remembered["upload_id"])
        if upload_id is None:
            upload_id = await self._steps.begin()
            self._remember({"upload_id": upload_id})
        try:
            await self._send(upload_id, parallel)
        except BaseException:
            if self._journal is None:
                # Not for the parts to lie there for days. What fails here fails for the reason that is raised.
                with suppress(TrivetError):
                    await self._store.abort_upload(upload_id)
            raise
        parts = sorted(self._etags.items())
        # The answer may get lost with this process: the next one then asks for the same completion again.
        self._remember({"upload_id": upload_id, "parts": parts})
        receipt = await self._steps.complete(upload_id, parts)
        if self._journal is not None:
            self._journal.remove()
        return receipt

    def _remembered(self) -> dict[str, Any] | None:
        head = None if self._journal is None else self._journal.head
        return head if head is not None and isinstance(head.get("upload_id"), str) else None

    def _remember(self, facts: dict[str, Any]) -> None:
        if self._journal is not None:
            self._journal.begin(self._head | facts)

    def _is_same(self, head: dict[str, Any]) -> bool:
        return all(head.get(name) == value for name, value in self._head.items())

    async def _completed(self, head: dict[str, Any]) -> Receipt | None:
        """The receipt of a completion that was asked for before, where the file is what came of it."""
        if "parts" not in head or not self._is_same(head):
            return None
        parts = dict(head["parts"])
        # Size and time may be those of other bytes.
        for piece in self._pieces:
            if await asyncio.to_thread(self._digest, piece) != parts.get(piece.number):
                return None
        try:
            receipt = await self._steps.complete(head["upload_id"], sorted(parts.items()))
            # The store gives the receipt for days, whatever became of the file. Who may not look sends it again.
            if (await self._steps.head()).version != receipt.version:
                return None
        except (NotFound, Forbidden):
            return None
        if self._journal is not None:
            self._journal.remove()
        return receipt

    async def _resumed(self, upload_id: str) -> str | None:
        """`upload_id` where it is under way and of this file as it is; else it is given up."""
        if self._journal is not None and self._journal.head is not None and not self._is_same(self._journal.head):
            with suppress(TrivetError):
                await self._store.abort_upload(upload_id)
            return None
        try:
            found = {part.number: part for part in (await self._store.upload(upload_id)).parts}
        except UploadNotFound:
            return None
        for piece in self._pieces:
            part = found.get(piece.number)
            if part is None or part.size_bytes != piece.size_bytes:
                continue
            if await asyncio.to_thread(self._digest, piece) == part.etag:
                self._etags[piece.number] = part.etag
                self._resumed_bytes += piece.size_bytes
        return upload_id

    async def _send(self, upload_id: str, parallel: int) -> None:
        async def send(piece: Piece) -> None:
            body = FileBody(self._source.descriptor, self._source.start + piece.start, piece.size_bytes)
            body.on_progress = lambda sent_bytes: self._progressed(piece.number, sent_bytes)
            part = await self._steps.put(upload_id, piece.number, body)
            self._etags[piece.number] = part.etag

        await in_parallel([piece for piece in self._pieces if piece.number not in self._etags], parallel, send)
        if self._source.fingerprint() != self._fingerprint:
            with suppress(TrivetError):
                await self._store.abort_upload(upload_id)
            raise SourceChanged("The file was changed while it was sent; nothing was stored. Send it again.")

    def _progressed(self, number: int, sent_bytes: int) -> None:
        self._sent_bytes[number] = sent_bytes
        if self._on_progress is not None:
            done_bytes = self._resumed_bytes + sum(self._sent_bytes.values())
            self._on_progress(
                Progress(
                    done_bytes=done_bytes,
                    total_bytes=self._source.size_bytes,
                    resumed_bytes=self._resumed_bytes,
                )
            )

    def _digest(self, piece: Piece) -> str:
        digest = blake3()
        start = self._source.start
        hash_section(digest, self._source.descriptor, start + piece.start, start + piece.end)
        return digest.hexdigest()
