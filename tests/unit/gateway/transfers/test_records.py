"""A record that a gateway knows is not sent again, and is shown only when the log says that it is current."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
from blake3 import blake3

from services.gateway.cluster_caches import ClusterCaches
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.record_cache import RecordCache
from services.gateway.transfers.records import Records
from shared.consensus_calls.client import ReadContext
from shared.contracts.files import FileVersion
from shared.contracts.metadata import AdmitNode, Answer, AnyQuery, CreateBucket, DeleteBucket, DeleteFile, GetFile
from shared.contracts.objects import BucketSettings, PutBucketSettings, SetTags
from shared.errors import (
    BucketNotFoundError,
    FileNotFoundInBucketError,
    InvalidRequestError,
    MethodNotAllowedError,
    VersionNotFoundError,
)
from shared.placement import read_order
from shared.units import MIB
from tests.unit.gateway.conftest import World
from tests.unit.gateway.transfers.transfer_calls import CLIENT, NAME, Received, find, get, is_idle, put, send_file

Change = Callable[[AnyQuery, Answer, ReadContext], tuple[Answer, ReadContext]]


class Questions:
    """What is asked of consensus; `change` may give another answer, `before` runs before each answer."""

    def __init__(self, world: World) -> None:
        self.asked: list[GetFile] = []
        self.answers: list[Answer] = []
        self.change: Change = lambda _query, answer, context: (answer, context)
        self._read = world.metadata.read
        world.metadata.read = self._answer

    async def _answer(self, query: AnyQuery, **options: float | None) -> tuple[Answer, ReadContext]:
        answer, context = self.change(query, *await self._read(query, **options))
        if isinstance(query, GetFile):
            self.asked.append(query)
            self.answers.append(answer)
        return answer, context

    @property
    def known_versions(self) -> list[int | None]:
        return [query.known_version for query in self.asked]


@pytest.fixture
def questions(world) -> Questions:
    return Questions(world)


async def publish(world: World, body: bytes) -> FileVersion:
    """As the API does it."""
    version = (await put(world, body)).version
    world.services.downloads.published(version)
    await is_idle(world)
    return version


async def test_a_record_is_sent_once(world, questions) -> None:
    """Then the log only says that it has not changed."""
    version = (await put(world, b"body")).version
    for _ in range(3):
        assert (await find(world)).version == version
    assert questions.known_versions == [None, version.version, version.version]
    assert [answer.is_unchanged for answer in questions.answers] == [False, True, True]
    assert [answer.file for answer in questions.answers] == [version, None, None]
    assert world.metric("trivet_gateway_records_unchanged_total") == 2


async def test_what_this_gateway_published_need_not_be_sent(world, questions) -> None:
    """Its receipt is the record."""
    version = await publish(world, b"body")
    assert (await find(world)).version == version
    assert questions.known_versions == [version.version]
    assert bytes((await get(world)).body) == b"body"


async def test_a_record_that_changed_is_sent(world, questions) -> None:
    """By another gateway: this one learns of it from the log alone."""
    await publish(world, b"first")
    second = (await put(world, b"second")).version
    assert (await find(world)).version == second
    assert bytes((await get(world)).body) == b"second"
    assert questions.known_versions[1] == second.version


async def test_a_record_that_was_patched_is_sent(world, questions) -> None:
    """Its version is the one that is known, and its tags are not."""
    await world.metadata.upgrade(world.clock)
    version = await publish(world, b"body")
    await world.metadata.propose(
        SetTags(bucket=NAME.bucket, key=NAME.key, tags={"stage": "final"}, stamp=world.clock.stamp())
    )
    patched = (await find(world)).version
    assert (patched.version, patched.tags) == (version.version, {"stage": "final"})
    assert (await find(world)).version == patched
    assert [answer.is_unchanged for answer in questions.answers] == [False, True]


async def test_a_version_is_read_by_its_number(world, questions) -> None:
    """Whatever is current; neither taken from the cache nor put into it. A marker, and what was never there, is told apart."""
    await world.metadata.upgrade(world.clock)
    settings = BucketSettings(versioning="enabled")
    await world.metadata.propose(PutBucketSettings(bucket=NAME.bucket, settings=settings, stamp=world.clock.stamp()))
    first, second = await publish(world, b"first"), await publish(world, b"second")
    deleted = await world.metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=world.clock.stamp()))
    for version, body in ((first, b"first"), (second, b"second")):
        async with world.services.downloads.open(NAME, CLIENT, version=version.version) as found:
            assert (found.version.version, found.version.content.size_bytes) == (version.version, len(body))
    with pytest.raises(FileNotFoundInBucketError) as gone:
        await find(world)
    assert gone.value.facts["is_marker"]
    for number, error in ((deleted.result.version, MethodNotAllowedError), (99, VersionNotFoundError)):
        with pytest.raises(error) as refused:
            async with world.services.downloads.open(NAME, CLIENT, version=number):
                pass
        assert refused.value.facts["version"] == deleted.result.version
    assert questions.known_versions.count(None) == len(questions.asked) - 1


async def test_a_file_or_bucket_that_is_gone_is_gone(world) -> None:
    """A record refuses nothing and shows nothing by itself; a bucket of the same name made again is another one."""
    await publish(world, b"body")
    await world.metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=world.clock.stamp()))
    with pytest.raises(FileNotFoundInBucketError):
        await find(world)
    other = FileName("other", "key")
    for body in (b"first", b"second"):
        await world.metadata.propose(CreateBucket(bucket="other", stamp=world.clock.stamp()))
        version = (await put(world, body, name=other)).version
        world.services.downloads.published(version)
        async with world.services.downloads.open(other, CLIENT) as found:
            assert found.version == version
        await world.metadata.propose(DeleteFile(bucket="other", key="key", stamp=world.clock.stamp()))
        await world.metadata.propose(DeleteBucket(bucket="other", stamp=world.clock.stamp()))
        with pytest.raises(BucketNotFoundError):
            async with world.services.downloads.open(other, CLIENT):
                pass


async def test_a_record_of_another_cluster_is_not_used(world, questions) -> None:
    """The same number is another version there: its record is asked for."""
    known = await publish(world, b"body")
    other = known.model_copy(update={"etag": "other"})

    def restored(query: AnyQuery, answer: Answer, context: ReadContext) -> tuple[Answer, ReadContext]:
        if isinstance(query, GetFile) and query.known_version is None:
            answer = answer.model_copy(update={"file": other})
        return answer, replace(context, cluster_id="restored")

    questions.change = restored
    assert (await find(world)).version == other
    assert questions.known_versions == [known.version, None]
    assert (await find(world)).version == other, "what was asked for again is a record of the cluster that answers now"


async def test_a_leader_of_an_older_version_is_asked_as_before(world, questions) -> None:
    """It refuses the question, once; its answers name no cluster, and nothing is remembered of them."""
    known = await publish(world, b"body")

    def older(query: AnyQuery, answer: Answer, context: ReadContext) -> tuple[Answer, ReadContext]:
        if isinstance(query, GetFile) and query.known_version is not None:
            questions.asked.append(query)
            raise InvalidRequestError("The request is malformed.")
        return answer, replace(context, cluster_id=None)

    questions.change = older
    for _ in range(3):
        assert (await find(world)).version == known
    assert questions.known_versions == [known.version, None, None, None]


async def test_without_a_cache_every_record_is_sent(make_world) -> None:
    """A size of 0 switches it off."""
    world: World = await make_world(record_cache_bytes=0)
    questions = Questions(world)
    await publish(world, b"body")
    await find(world)
    await find(world)
    assert questions.known_versions == [None, None]


def test_a_question_without_a_known_version_is_what_it_was() -> None:
    """Members of an older version refuse fields that they do not know."""
    plain = GetFile(bucket="b", key="k").model_dump_json(exclude_none=True)
    assert plain == '{"kind":"get_file","bucket":"b","key":"k"}'


async def test_a_known_chunk_is_fetched_beside_the_read(world, questions) -> None:
    """One client waits for the longer of the two, and the node is asked once."""
    await publish(world, b"body")
    order: list[str] = []
    questions.change = lambda _query, answer, context: (order.append("answered"), (answer, context))[1]
    read, fetched = questions._read, asyncio.Event()

    async def slow_read(query: AnyQuery, **options: float | None) -> tuple[Answer, ReadContext]:
        await asyncio.wait_for(fetched.wait(), 5)
        return await read(query, **options)

    questions._read = slow_read
    world.nodes.on_call = lambda what, _: (order.append(what), fetched.set())
    received = await get_wanting_body(world)
    assert bytes(received.body) == b"body"
    assert order[:2] == ["get", "answered"]
    assert order.count("get") == 1
    await is_idle(world)


async def test_a_chunk_of_a_version_that_is_not_current_is_not_sent(world) -> None:
    """What was fetched on the word of an old record is dropped."""
    await publish(world, b"first")
    await put(world, b"second")
    await is_idle(world)
    received = await get_wanting_body(world)
    assert bytes(received.body) == b"second"
    await is_idle(world)


async def test_a_chunk_that_hangs_holds_up_no_answer_that_does_not_need_it(world) -> None:
    """A file that is gone is a 404 at once, and the fetch under way is broken off."""
    version = await publish(world, b"first")
    digest = version.content.chunk(0)[0]
    world.nodes.hanging.add(read_order(digest, world.metadata.store.node_map())[0].id)
    await world.metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=world.clock.stamp()))
    with pytest.raises(FileNotFoundInBucketError):
        async with asyncio.timeout(5):
            await get_wanting_body(world)
    assert world.nodes.under_way == 0
    await is_idle(world)


async def test_a_chunk_fetched_by_an_older_node_map_is_fetched_again(world) -> None:
    """Its sender counts as a replica, and need not be a node any more in the epoch of the read."""
    version = await publish(world, b"body")
    await get(world)
    world.nodes.calls.clear()
    await world.metadata.propose(AdmitNode(node_id="storage-9", stamp=world.clock.stamp()))
    received = await get_wanting_body(world)
    assert bytes(received.body) == b"body"
    assert sum(count for (kind, _), count in world.nodes.calls.items() if kind == "get") == 2, version


async def get_wanting_body(world: World) -> Received:
    """As the API reads a file without conditions."""
    received = Received()
    async with (
        world.services.downloads.open(NAME, CLIENT, is_body_wanted=True) as found,
        asyncio.TaskGroup() as group,
    ):
        await send_file(
            world, found, None, world.services.quorums, start=received.start, sink=received.sink, group=group
        )
    return received


def record(number: int, version: FileVersion, digests: int = 1) -> tuple[FileName, FileVersion]:
    content = version.content.model_copy(update={"chunk_digests": blake3(b"%d" % number).digest() * digests})
    name = FileName("default", f"key-{number}")
    return name, FileVersion.model_validate(
        version.model_copy(update={"key": name.key, "version": number, "content": content}).model_dump()
    )


async def test_records_are_bounded_in_bytes_and_the_last_used_stay(world) -> None:
    """What it shows is never more than its limit, and what it really takes is not more either."""
    version = (await put(world, b"body")).version
    tracemalloc.start()
    try:
        cache = RecordCache(2 * MIB)
        for number in range(3000):
            cache.put(*_with_cluster(record(number, version, 1 + number % 200)))
            cache.find(FileName("default", "key-7"))
            assert cache.statistics()["bytes"] <= 2 * MIB
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used_bytes < 2 * MIB
    assert cache.find(FileName("default", "key-7")) is not None
    assert cache.find(FileName("default", "key-8")) is None
    for number in range(3000):
        cache.drop(FileName("default", f"key-{number}"))
    assert (cache.statistics()["bytes"], cache.statistics()["records"]) == (0, 0)


async def test_long_chunk_lists_are_not_kept(world) -> None:
    """The byte budget holds those, while they are read."""
    version = (await put(world, b"body")).version
    cache = RecordCache(2 * MIB)
    for digests in (512, 513):
        cache.put(*_with_cluster(record(digests, version, digests)))
    assert cache.find(FileName("default", "key-512")) is not None
    assert cache.find(FileName("default", "key-513")) is None


async def test_a_record_of_an_unknown_cluster_is_not_kept(world) -> None:
    """Nobody would notice that another one answers."""
    version = (await put(world, b"body")).version
    cache = RecordCache(2 * MIB)
    Records(world.metadata, cache, ClusterCaches()).published(version)
    assert cache.find(NAME) is None


def _with_cluster(named: tuple[FileName, FileVersion]) -> tuple[FileName, str, FileVersion]:
    name, version = named
    return name, "test-cluster", version
