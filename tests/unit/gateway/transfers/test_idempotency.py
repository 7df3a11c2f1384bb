"""A request under an Idempotency-Key happens once: over the real state machine, with answers that get lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from services.gateway.access.context import AccessContext, acting_for
from services.gateway.access.principal import NOBODY, WRITER, Principal
from services.gateway.semantics.body_digests import BodyDigests
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import Client
from services.gateway.transfers.idempotency import IdempotencyKey, IdempotencyStore
from services.gateway.transfers.uploads import UploadRequest
from shared.contracts.files import Preconditions
from shared.contracts.metadata import CreateBucket, CreatedBucket, DeleteBucket, DeleteFile, GetFile
from shared.errors import (
    BucketRecreatedError,
    FileNotFoundInBucketError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    OutcomeUnknownError,
    PreconditionFailedError,
    RequestInProgressError,
)

pytestmark = pytest.mark.virtual_time

CREATE_ONLY = Preconditions(if_none_match=["*"])
KEY = {"idempotency-key": "order-17"}


async def bytes_of(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


def order(world: Any, **changes: Any) -> UploadRequest:
    facts: dict[str, Any] = {"key": "k", "preconditions": Preconditions(), "content": ["text/plain", {}]} | changes
    return UploadRequest(
        name=FileName("default", facts["key"]),
        content_type=facts["content"][0],
        user_metadata=facts["content"][1],
        quorums=world.services.quorums,
        preconditions=facts["preconditions"],
        digests=BodyDigests.announced({}),
        announced_bytes=None,
        client=Client("192.0.2.1"),
        idempotency_key=IdempotencyKey.of(KEY, method="PUT", bucket="default", **facts),
    )


async def put(world: Any, body: bytes, **changes: Any):
    return await world.services.uploads.put(order(world, **changes), bytes_of(body))


async def test_a_repeat_gets_the_first_receipt_and_stores_nothing(world, seed) -> None:
    """Not even the chunks are sent again; a condition that the first one made false does not matter."""
    body = random.Random(seed).randbytes(20_000)
    first = await put(world, body, preconditions=CREATE_ONLY)
    sent = world.nodes.calls.total()
    proposed = len(world.metadata.proposed)
    assert await put(world, body, preconditions=CREATE_ONLY) == first
    assert world.nodes.calls.total() == sent
    assert len(world.metadata.proposed) == proposed


async def test_a_retry_after_a_lost_answer_yields_one_version(world) -> None:
    """The entry is committed and its answer never comes: the retry finds what happened."""
    world.metadata.lost_answers.append(OutcomeUnknownError("lost"))
    with pytest.raises(OutcomeUnknownError):
        await put(world, b"x")
    answer, _ = await world.metadata.read(GetFile(bucket="default", key="k"))
    retried = await put(world, b"x")
    assert retried.is_created
    assert retried.version == answer.file


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b"y"},
        {"content": ["text/html", {}]},
        {"content": ["text/plain", {"colour": "red"}]},
        {"preconditions": Preconditions(if_match=["*"])},
    ],
    ids=["body", "content type", "user metadata", "preconditions"],
)
async def test_a_key_is_not_lent_to_another_request(world, changes) -> None:
    """Another body, description or condition is refused, and the file stays as it was."""
    await put(world, b"x")
    with pytest.raises(IdempotencyKeyReusedError):
        await put(world, changes.pop("body", b"x"), **changes)
    answer, _ = await world.metadata.read(GetFile(bucket="default", key="k"))
    assert answer.file.content.size_bytes == 1


async def test_the_same_key_for_another_file_is_another_request(world) -> None:
    """The scope holds the file's name."""
    first, second = await put(world, b"x"), await put(world, b"y", key="other")
    assert first.version.version != second.version.version


async def test_a_duplicate_of_a_running_upload_is_told_to_come_back(world) -> None:
    """409 with Retry-After while the first one runs, the receipt when it is done."""
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"x"

    running = asyncio.ensure_future(world.services.uploads.put(order(world), slow()))
    idempotency_key = order(world).idempotency_key
    await world.wait_until(lambda: _is_running(world.services.idempotency, idempotency_key), "the first upload runs")
    with pytest.raises(RequestInProgressError) as refusal:
        await put(world, b"x")
    assert refusal.value.retry_after_s is not None
    gate.set()
    assert await running == await put(world, b"x")


def _is_running(idempotency: IdempotencyStore, idempotency_key: IdempotencyKey) -> bool:
    try:
        with idempotency.running(idempotency_key):
            return False
    except RequestInProgressError:
        return True


async def test_duplicates_at_two_gateways_yield_one_version(world) -> None:
    """Each gateway knows its own running requests only; the log decides, and both get the same receipt."""
    stores = IdempotencyStore(world.metadata), IdempotencyStore(world.metadata)
    idempotency_key = IdempotencyKey.of(KEY, method="PUT", bucket="photos")
    command = CreateBucket(bucket="photos", stamp=world.clock.stamp())
    first, second = await asyncio.gather(*(store.propose(command, idempotency_key) for store in stores))
    assert first == second
    assert first.result == CreatedBucket(created=True, incarnation=first.log_index)


async def test_a_refusal_of_the_log_is_repeated_too(world) -> None:
    """A deletion that found nothing stays one, though a file came since: it was said that nothing happened."""
    idempotency = world.services.idempotency
    idempotency_key = IdempotencyKey.of(KEY, method="DELETE", bucket="default", key="k", preconditions=Preconditions())
    command = DeleteFile(bucket="default", key="k", stamp=world.clock.stamp())
    with pytest.raises(FileNotFoundInBucketError):
        await idempotency.propose(command, idempotency_key)
    await put(world, b"x")
    with pytest.raises(FileNotFoundInBucketError):
        await idempotency.propose(command, idempotency_key)


async def test_an_upload_that_the_log_refused_is_refused_again(world) -> None:
    """By the answer that is stored, before the body is judged anew: it was said that nothing happened."""

    async def body_during_which_another_wins() -> AsyncIterator[bytes]:
        await world.services.uploads.put(replace(order(world), idempotency_key=None), bytes_of(b"other"))
        yield b"x"

    with pytest.raises(PreconditionFailedError) as first:
        await world.services.uploads.put(order(world, preconditions=CREATE_ONLY), body_during_which_another_wins())
    await world.metadata.propose(DeleteFile(bucket="default", key="k", stamp=world.clock.stamp()))
    with pytest.raises(PreconditionFailedError) as again:
        await put(world, b"x", preconditions=CREATE_ONLY)
    assert again.value.to_problem() == first.value.to_problem()


async def test_a_result_is_kept_for_a_day(world) -> None:
    """What docs/api.md promises to a client that comes back."""
    await put(world, b"x")
    assert world.metadata.retentions_s[-1] >= 24 * 3600


async def test_an_early_refusal_is_not_stored(world) -> None:
    """What never reached the log may be tried again under the same key."""
    with pytest.raises(PreconditionFailedError):
        await put(world, b"x", preconditions=Preconditions(if_match=["*"]))
    await put(world, b"x")


async def test_a_refusal_that_a_new_attempt_may_escape_is_not_stored(world) -> None:
    """The bucket was made anew in mid-upload: 409, and the repeat under the same key is a new attempt that succeeds."""
    stamp = world.clock.stamp
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=stamp()))

    async def interrupted():
        await world.metadata.propose(DeleteBucket(bucket="photos", stamp=stamp()))
        await world.metadata.propose(CreateBucket(bucket="photos", stamp=stamp()))
        yield b"x"

    key = IdempotencyKey.of(KEY, method="PUT", bucket="photos", key="k", preconditions=Preconditions())
    request = replace(order(world), name=FileName("photos", "k"), idempotency_key=key)
    with pytest.raises(BucketRecreatedError) as caught:
        await world.services.uploads.put(request, interrupted())
    assert caught.value.definite
    first = await world.services.uploads.put(request, bytes_of(b"x"))
    assert await world.services.uploads.put(request, bytes_of(b"x")) == first


@pytest.mark.parametrize("value", ["", " ", "a b", "a, b", "ä", "k" * 256])
def test_a_malformed_key_is_refused(value) -> None:
    """1-255 visible ASCII characters; two header fields are joined by a comma and a space."""
    with pytest.raises(InvalidRequestError):
        IdempotencyKey.of({"idempotency-key": value}, method="PUT", bucket="b")


@pytest.mark.parametrize("value", ["k", "k" * 255, '"8e03978e"'])
def test_a_longest_and_a_quoted_key_are_taken(value) -> None:
    """The other side of the edge, and the form of the IETF's draft."""
    assert IdempotencyKey.of({"idempotency-key": value}, method="PUT", bucket="b") is not None


@pytest.mark.parametrize("field", ["method", "bucket", "key", "value"])
def test_every_part_of_the_scope_counts(field) -> None:
    """Requests that differ in one of them do not know each other."""
    make: Callable[..., IdempotencyKey | None] = lambda value="v", **scope: IdempotencyKey.of(  # noqa: E731
        {"idempotency-key": value}, **({"method": "PUT", "bucket": "abc", "key": "k"} | scope)
    )
    assert make().request_id != make(**{field: "other"}).request_id
    assert make().request_id == make().request_id


def test_a_key_belongs_to_a_principal() -> None:
    """Two that use the same one do not know each other; for anonymous it is what it was before there were any."""
    made: list[IdempotencyKey | None] = []
    for principal in (Principal("a" * 64, "one"), Principal("b" * 64, "other"), NOBODY, WRITER):
        with acting_for(AccessContext(principal)):
            made.append(IdempotencyKey.of(KEY, method="PUT", bucket="b"))
    ids = [key.request_id for key in made if key is not None]
    assert len({*ids}) == 3
    assert ids[2] == ids[3]


def test_a_duplicate_across_an_upgrade_has_the_fingerprint_of_before():
    """As gateways wrote it before preconditions on sizes and times came; those make another request."""
    asked = {"method": "PUT", "bucket": "b", "key": "x", "content": ["t", {}]}
    key = IdempotencyKey.of({"idempotency-key": "k"}, **asked, preconditions=Preconditions(if_match=["e"]))
    assert key.parameters_digest == "b316a4533c4b5e59ba4e1923c78abfd3"
    for more in ({"size_bytes": 0}, {"stored_s": 0}):
        other = IdempotencyKey.of(
            {"idempotency-key": "k"}, **asked, preconditions=Preconditions(if_match=["e"], **more)
        )
        assert other.parameters_digest != key.parameters_digest
