"""Answers `shared.contracts.chunk_batches`: many small calls as one, each with the outcome of the single call.

The signature of the request is of the frame's head. The bytes behind it are proved by the digests in it, as those of a single
put are by its path.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from blake3 import blake3
from starlette.types import Receive, Scope, Send

from services.storage.asgi_bodies import OCTETS, SentAnswer, header_of, read_body, send_answer
from services.storage.callers import check_items
from services.storage.chunk_store import ChunkStore, ReceivedChunk
from services.storage.outcomes import too_large_for_a_batch
from services.storage.ports import Body, PutOutcome
from shared.contracts.chunk_batches import (
    MAX_BATCH_BYTES,
    MAX_BATCHED_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    BatchAnswer,
    BatchRequest,
    BatchResult,
    Failed,
    Found,
    GetItem,
    HasItem,
    Held,
    PutItem,
    Stored,
    cut_bodies,
    encode_head,
    join_frame,
    split_frame,
)
from shared.errors import InvalidRequestError, PayloadTooLargeError, SignatureRejectedError, TrivetError
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER
from shared.web.service_app import BODY_DIGEST, caller_of

_BODY_DIGEST: Final = BODY_DIGEST_HEADER.encode()


class BatchCalls:
    """The call over `store`, as ASGI."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    async def answer(self, scope: Scope, receive: Receive, send: Send, _: str) -> SentAnswer:
        """Do all items, then answer.

        Raises:
            InvalidRequestError, PayloadTooLargeError: it is no frame; nothing was done.
            SignatureRejectedError: its head is not the one that was signed; nothing was done.
            ForbiddenError: the caller may not do one of the items; nothing was done.
            OverloadedError: there is no room in memory; nothing was done.
        """
        length = header_of(scope, b"content-length") or b""
        if not length.isdigit():
            raise InvalidRequestError("A frame comes with its length.")
        if int(length) > MAX_FRAME_BYTES:
            raise PayloadTooLargeError("A frame is at most this large.", limit_bytes=MAX_FRAME_BYTES)
        lease = await self._store.lease(int(length))
        try:
            request, bodies = _open(await read_body(receive), header_of(scope, _BODY_DIGEST) or b"")
            check_items(caller_of(scope), request.items)
            gets = sum(isinstance(item, GetItem) for item in request.items)
            # The bodies of puts are copied out of the frame.
            copied_bytes = sum(map(len, bodies))
            await lease.grow_to(int(length) + copied_bytes + gets * MAX_BATCHED_CHUNK_BYTES)
            head, answer = await self._do_all(request, bodies)
            lease.resize(int(length) + len(answer))
            headers = [(b"content-length", b"%d" % len(answer)), OCTETS]
            digest = blake3(head).hexdigest()
            start = {"type": "http.response.start", "status": 200, "headers": headers, BODY_DIGEST: digest}
            await send_answer(scope, send, start, memoryview(answer))
        finally:
            lease.release()
        return SentAnswer(200, len(answer))

    async def _do_all(self, request: BatchRequest, bodies: Sequence[memoryview]) -> tuple[bytes, bytes]:
        """The head of the answer and all of it."""
        puts = [item for item in request.items if isinstance(item, PutItem)]
        # First: a Redis that is replaced meanwhile must not be answered for under a newer fence.
        refusal = self._refusal_of_puts() if puts else None
        fence = self._store.fence
        gets = [item for item in request.items if isinstance(item, GetItem)]
        questions = [item for item in request.items if isinstance(item, HasItem)]
        if gets or questions:
            # Together, because a read must not wait for the fsync of a write.
            stored, held, read = await asyncio.gather(
                self._put_all(puts, bodies, refusal), self._find_all(questions), self._get_all(gets)
            )
        else:
            stored, held, read = await self._put_all(puts, bodies, refusal), [], []
        results: dict[type[object], Iterator[BatchResult]] = {
            PutItem: iter(stored),
            HasItem: iter(held),
            GetItem: iter([result for result, _ in read]),
        }
        head = encode_head(BatchAnswer([next(results[type(item)]) for item in request.items], fence))
        return head, join_frame(head, [body for _, body in read])

    def _refusal_of_puts(self) -> TrivetError | None:
        try:
            self._store.require_fence()
        except TrivetError as error:
            return error
        return None

    async def _put_all(
        self, items: Sequence[PutItem], bodies: Sequence[memoryview], refusal: TrivetError | None
    ) -> list[BatchResult]:
        if refusal is not None:
            return [_failed(refusal)] * len(items)
        if not items:
            return []
        received = [
            # A copy of its own: one chunk that is kept in memory must not keep the frame.
            ReceivedChunk(item.digest.hex(), bytes(body), item.start_index)
            for item, body in zip(items, bodies, strict=True)
        ]
        outcomes = await self._store.put_many(received, MAX_BATCHED_CHUNK_BYTES)
        return [
            Stored(outcome.created) if isinstance(outcome, PutOutcome) else _failed(outcome) for outcome in outcomes
        ]

    async def _get_all(self, items: Sequence[GetItem]) -> list[tuple[Found | Failed, Body]]:
        """With each result the bytes that go into the frame."""
        if not items:
            return []
        room_bytes = MAX_BATCH_BYTES
        found: list[tuple[Found | Failed, Body]] = []
        bodies = await self._store.get_many([item.digest.hex() for item in items], MAX_BATCHED_CHUNK_BYTES)
        asked = [item.digest.hex() for item in items if item.with_start_index]
        start_indexes = await self._store.get_start_indexes(asked) if asked else {}
        for item, body in zip(items, bodies, strict=True):
            start_index = start_indexes[item.digest.hex()] if item.with_start_index else None
            if isinstance(body, TrivetError):
                found.append((_failed(body), b""))
            elif isinstance(start_index, TrivetError):
                found.append((_failed(start_index), b""))
            elif len(body) > room_bytes:
                found.append((_failed(too_large_for_a_batch(MAX_BATCH_BYTES)), b""))
            else:
                room_bytes -= len(body)
                found.append((Found(len(body), start_index), body))
        return found

    async def _find_all(self, items: Sequence[HasItem]) -> list[BatchResult]:
        """One question for all that ask alike."""
        alike: dict[tuple[int | None, bool], list[str]] = defaultdict(list)
        for item in items:
            alike[item.start_index, item.verify].append(item.digest.hex())
        found = {
            (*kind, digest): result
            for kind, digests in alike.items()
            for digest, result in (await self._find(digests, *kind)).items()
        }
        return [found[item.start_index, item.verify, item.digest.hex()] for item in items]

    async def _find(self, digests: Sequence[str], start_index: int | None, verify: bool) -> dict[str, BatchResult]:
        try:
            held = await self._store.find(digests, start_index, verify=verify)
        except TrivetError as error:
            if len(digests) == 1:
                return {digests[0]: _failed(error)}
            # Each alone, because one of them may be what cannot be told.
            alone = await asyncio.gather(*[self._find([name], start_index, verify) for name in dict.fromkeys(digests)])
            return {digest: result for found in alone for digest, result in found.items()}
        return {digest: Held(digest in held, held.get(digest, False)) for digest in digests}


def _open(frame: bytes, signed_digest: bytes) -> tuple[BatchRequest, list[memoryview]]:
    """The items of a frame, and the bytes of its puts. Raises InvalidRequestError, SignatureRejectedError."""
    try:
        signed, request, body = split_frame(frame, BatchRequest)
        bodies = cut_bodies(body, [item.size_bytes for item in request.items if isinstance(item, PutItem)])
    except ValueError as error:
        raise InvalidRequestError(f"The body is no frame of a batch: {error}.") from error
    if blake3(signed).hexdigest().encode() != signed_digest:
        raise SignatureRejectedError("The head of the frame is not the one that was signed.")
    return request, bodies


def _failed(error: TrivetError) -> Failed:
    return Failed(error.to_problem())
