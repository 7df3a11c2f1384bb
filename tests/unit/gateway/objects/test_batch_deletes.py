"""Batch deletions over the real state machine: cut into entries, each of which happens once."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.objects.batch_deletes import DeletedBatch
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.idempotency import IdempotencyKey
from shared.contracts.metadata import CreateBucket, DeleteBucket
from shared.contracts.objects import DELETE_FILES_MAX, BucketSettings, DeleteFiles, FileToDelete, PutBucketSettings
from shared.errors import BucketNotFoundError, BucketRecreatedError, LeaderUnavailableError, OutcomeUnknownError
from tests.unit.gateway.transfers.transfer_calls import get, put

pytestmark = pytest.mark.virtual_time

COUNT = 2 * DELETE_FILES_MAX + 1
ASKED = [FileToDelete(key=f"f{number:04d}") for number in range(COUNT)]


@pytest.fixture
async def world(make_world):
    made = await make_world()
    await made.metadata.upgrade(made.clock)
    return made


def entries(world) -> list[int]:
    """How many files each entry so far named."""
    return [len(command.files) for command in world.metadata.proposed if isinstance(command, DeleteFiles)]


async def delete(world, files=ASKED, *, key: str | None = None, bucket: str = "default") -> DeletedBatch:
    fields = {} if key is None else {"idempotency-key": key}
    idempotency_key = IdempotencyKey.of(fields, method="POST /v1/batch-delete", bucket=bucket)
    return await world.services.batch_deletes.delete(bucket, files, idempotency_key)


async def test_a_long_batch_is_several_entries_in_their_order(world) -> None:
    """One past two full entries makes a third; absent files count as deleted."""
    for asked in (ASKED[0], ASKED[-1]):
        await put(world, b"x", name=FileName("default", asked.key))
    deleted = await delete(world)
    assert entries(world) == [DELETE_FILES_MAX, DELETE_FILES_MAX, 1]
    assert [key for key, _ in deleted.files] == [asked.key for asked in ASKED]
    assert all(outcome.problem is None for _, outcome in deleted.files)
    assert deleted.files[-1][1].version == deleted.log_index == world.metadata.store.last_applied
    assert not (await world.services.listings.page("default", {})).rows.files


@pytest.mark.parametrize("is_apart", [True, False])
async def test_entries_are_under_way_at_once_where_no_key_is_in_two_of_them(world, monkeypatch, is_apart) -> None:
    """Behind the first one, which says which bucket is meant; else each waits for the one before, and order is kept."""
    await world.metadata.propose(
        PutBucketSettings(bucket="default", settings=BucketSettings(versioning="enabled"), stamp=world.clock.stamp())
    )
    last = ASKED[-1] if is_apart else ASKED[DELETE_FILES_MAX]
    for asked in (ASKED[DELETE_FILES_MAX], last):
        await put(world, b"x", name=FileName("default", asked.key))
    proposed, under_way, most = world.metadata.propose, 0, []

    async def propose(command, **facts):
        nonlocal under_way
        under_way += 1
        most.append(under_way)
        await asyncio.sleep(0)
        outcome = await proposed(command, **facts)
        under_way -= 1
        return outcome

    monkeypatch.setattr(world.metadata, "propose", propose)
    deleted = await delete(world, [*ASKED[:-1], last])
    assert most == ([1, 1, 2] if is_apart else [1, 1, 1])
    assert [key for key, _ in deleted.files] == [asked.key for asked in [*ASKED[:-1], last]]
    assert [outcome.is_marker for _, outcome in deleted.files[DELETE_FILES_MAX::DELETE_FILES_MAX]] == [True, is_apart]


async def test_a_bucket_made_again_in_mid_batch_keeps_its_files(world, monkeypatch) -> None:
    """The files that were named were those of the bucket before."""
    await world.metadata.propose(CreateBucket(bucket="photos", stamp=world.clock.stamp()))
    proposed = world.metadata.propose

    async def propose(command, **facts):
        if isinstance(command, DeleteFiles) and command.files[0].key != ASKED[0].key:
            monkeypatch.setattr(world.metadata, "propose", proposed)
            await proposed(DeleteBucket(bucket="photos", stamp=world.clock.stamp()))
            await proposed(CreateBucket(bucket="photos", stamp=world.clock.stamp()))
            await put(world, b"new", name=FileName("photos", ASKED[-1].key))
        return await proposed(command, **facts)

    monkeypatch.setattr(world.metadata, "propose", propose)
    with pytest.raises(BucketRecreatedError) as refusal:
        await delete(world, bucket="photos")
    assert not refusal.value.definite, "the first entry has happened"
    assert bytes((await get(world, name=FileName("photos", ASKED[-1].key))).body) == b"new"


async def test_what_ended_in_mid_batch_is_not_definite_and_goes_on_under_its_key(world) -> None:
    """The first entry has happened, and does not happen again; what it deleted and somebody stored since stays."""
    await put(world, b"x", name=FileName("default", ASKED[0].key))
    proposed = world.metadata.propose

    async def propose(command, **facts):
        if isinstance(command, DeleteFiles) and command.files[0].key != ASKED[0].key:
            raise LeaderUnavailableError("gone")
        return await proposed(command, **facts)

    world.metadata.propose = propose
    with pytest.raises(LeaderUnavailableError) as failed:
        await delete(world, key="k")
    assert failed.value.definite is False
    world.metadata.propose = proposed
    await put(world, b"stored since", name=FileName("default", ASKED[0].key))
    assert len((await delete(world, key="k")).files) == COUNT
    assert (await get(world, name=FileName("default", ASKED[0].key))).body == b"stored since"


async def test_a_refusal_before_anything_happened_is_definite(world) -> None:
    """A bucket that is not there, and no leader at the first entry."""
    with pytest.raises(BucketNotFoundError) as absent:
        await delete(world, bucket="nowhere")
    world.metadata.errors.append(LeaderUnavailableError("gone"))
    with pytest.raises(LeaderUnavailableError) as gone:
        await delete(world)
    assert (absent.value.definite, gone.value.definite) == (True, True)
    world.metadata.lost_answers.append(OutcomeUnknownError("lost"))
    with pytest.raises(OutcomeUnknownError) as lost:
        await delete(world)
    assert lost.value.definite is False


async def test_a_batch_that_brings_many_older_versions_back_brings_them_all(world) -> None:
    """One entry promotes one version; each of the others has an entry to itself, and no file is left out."""
    await world.services.bucket_settings.put("default", BucketSettings(versioning="enabled"), None)
    newest = []
    for key in ("a", "b", "c"):
        await put(world, b"first", name=FileName("default", key))
        second = (await put(world, b"second", name=FileName("default", key))).version
        newest.append(FileToDelete(key=key, version=second.version))
    deleted = await delete(world, [*newest, FileToDelete(key="never")])
    assert entries(world) == [4, 1, 1], "the work grows with the files, not with their square"
    assert [outcome.removed_version for _, outcome in deleted.files] == [*(file.version for file in newest), None]
    assert all(outcome.problem is None for _, outcome in deleted.files)
    assert len({outcome.version for _, outcome in deleted.files[:3]}) == 3
    for key in ("a", "b", "c"):
        assert (await get(world, name=FileName("default", key))).body == b"first"
