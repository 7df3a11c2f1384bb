"""Copies, renames and restores over the real state machine: one entry each, and no byte asked of any node."""

from __future__ import annotations

import pytest

from services.gateway.objects.copies import Copied, CopySource, CopyTarget
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.idempotency import IdempotencyKey
from shared.contracts.files import Preconditions
from shared.contracts.objects import BucketSettings, CopyFile
from shared.errors import (
    CopyOntoItselfError,
    FileNotFoundInBucketError,
    IdempotencyKeyReusedError,
    OutcomeUnknownError,
    PreconditionFailedError,
    VersionNotFoundError,
)
from tests.unit.gateway.transfers.transfer_calls import get, put

pytestmark = pytest.mark.virtual_time

OLD, NEW = FileName("default", "old"), FileName("default", "new")
CREATE_ONLY = Preconditions(if_none_match=["*"])


@pytest.fixture
async def world(make_world):
    made = await make_world()
    await made.metadata.upgrade(made.clock)
    return made


def key(value: str, target: FileName = NEW) -> IdempotencyKey | None:
    fields = {"idempotency-key": value}
    return IdempotencyKey.of(fields, method="POST /v1/copy", bucket=target.bucket, key=target.key, content=[])


async def copy(world, source: FileName = OLD, target: FileName = NEW, **facts) -> Copied:
    return await world.services.copies.copy(CopySource(source), CopyTarget(target, **facts), None)


async def test_a_copy_is_read_like_the_original_and_moves_nothing(world) -> None:
    """Bytes, type, metadata and entity tag are those of the source; no node was asked for anything."""
    original = (await put(world, b"bytes" * 5000, name=OLD)).version
    calls = world.nodes.calls.copy()
    copied = await copy(world)
    assert world.nodes.calls == calls
    assert (copied.source_version, copied.published.is_created) == (original.version, True)
    version = copied.published.version
    assert version.version == copied.published.log_index > original.version
    assert (version.etag, version.content_type) == (original.etag, original.content_type)
    assert (await get(world, name=NEW)).body == (await get(world, name=OLD)).body == b"bytes" * 5000


async def test_a_copy_may_have_a_description_of_its_own(world) -> None:
    """Another type or other metadata is another entity tag; tags are none of it."""
    original = (await put(world, b"x", name=OLD)).version
    tagged = (await copy(world, tags={"a": "b"})).published.version
    retyped = (await copy(world, content_type="text/html", user_metadata={"m": "1"})).published.version
    assert tagged.etag == original.etag != retyped.etag
    assert (retyped.content_type, retyped.user_metadata) == ("text/html", {"m": "1"})


async def test_conditions_are_about_the_target_and_of_the_source_about_the_source(world) -> None:
    """Neither stands for the other."""
    original = (await put(world, b"x", name=OLD)).version
    await copy(world, preconditions=CREATE_ONLY)
    with pytest.raises(PreconditionFailedError):
        await copy(world, preconditions=CREATE_ONLY)
    target = CopyTarget(NEW)
    with pytest.raises(PreconditionFailedError):
        await world.services.copies.copy(CopySource(OLD, preconditions=Preconditions(if_match=["y"])), target, None)
    right = CopySource(OLD, preconditions=Preconditions(if_match=[original.etag]))
    assert (await world.services.copies.copy(right, target, None)).published.is_created is False


async def test_a_renamed_file_has_one_name(world) -> None:
    """The old one is gone by the same entry, whose index both names say."""
    await put(world, b"x", name=OLD)
    moved = await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), None)
    with pytest.raises(FileNotFoundInBucketError) as gone:
        await get(world, name=OLD)
    assert gone.value.facts["version"] == moved.published.version.version
    assert (await get(world, name=NEW)).body == b"x"
    with pytest.raises(FileNotFoundInBucketError):
        await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), None)
    with pytest.raises(CopyOntoItselfError):
        await world.services.copies.move(CopySource(NEW), CopyTarget(NEW), None)


async def test_an_older_version_is_the_current_one_again(world) -> None:
    """With a number of its own, and the older one stays."""
    await world.services.bucket_settings.put("default", BucketSettings(versioning="enabled"), None)
    first = (await put(world, b"first", name=OLD)).version.version
    await put(world, b"second", name=OLD)
    restored = await world.services.copies.copy(CopySource(OLD, first), CopyTarget(OLD), None)
    assert restored.source_version == first < restored.published.version.version
    assert (await get(world, name=OLD)).body == b"first"
    again = await world.services.copies.copy(CopySource(OLD, first), CopyTarget(OLD), None)
    assert again.published.version.etag == restored.published.version.etag
    with pytest.raises(VersionNotFoundError):
        await world.services.copies.copy(CopySource(OLD, first + 10_000), CopyTarget(OLD), None)


async def test_a_rename_under_a_key_happens_once(world) -> None:
    """Though its answer was lost, and the source is gone by then."""
    await put(world, b"x", name=OLD)
    world.metadata.lost_answers.append(OutcomeUnknownError("lost"))
    with pytest.raises(OutcomeUnknownError):
        await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), key("k"))
    again = await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), key("k"))
    assert again.published.is_created
    assert again == await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), key("k"))
    other = IdempotencyKey.of(
        {"idempotency-key": "k"}, method="POST /v1/copy", bucket="default", key="new", content=["another"]
    )
    with pytest.raises(IdempotencyKeyReusedError):
        await world.services.copies.move(CopySource(OLD), CopyTarget(NEW), other)
    moves = [command for command in world.metadata.proposed if isinstance(command, CopyFile)]
    assert len(moves) == 4
    assert (await get(world, name=NEW)).body == b"x"
