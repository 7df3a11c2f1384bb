"""Lists show what a principal may list, as if nothing else were there, and never a name outside."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from services.consensus.metadata.listing import list_page
from services.consensus.metadata.rows import FileRow
from services.gateway.access.context import as_system
from services.gateway.access.policy import EVERYTHING, Coverage, Prefixes, ScopeTable
from services.gateway.access.visible_lists import first_covered, read_visible, visible_buckets
from services.gateway.semantics.raw_names import FileName
from shared.consensus_calls.client import ReadContext
from shared.contracts.access import Action, Scope
from shared.contracts.metadata import CreateBucket, FilePage, ListBuckets, ListFiles
from shared.contracts.objects import ListVersions
from shared.contracts.uploads import BeginUpload, ListUploads
from tests.unit.gateway.transfers.transfer_calls import put

INDEX = 42
PREFIXES = ("", "a/", "a/b/", "a/b/c/", "ab/", "b/", "b//", "z/")


class Bucket:
    """The files of one bucket, listed by the code that lists them in the state machine."""

    def __init__(self, keys: set[str]) -> None:
        self._keys = sorted(key.encode() for key in keys)
        self.reads: list[ListFiles] = []

    async def read(self, query, *, deadline_s: float | None = None):
        self.reads.append(query)

        def scan(lower: bytes, upper: bytes):
            return (FileRow(key, 1, 0, "e", "t", 0) for key in self._keys if lower <= key < upper)

        return list_page(query, query.at_index or INDEX, scan), ReadContext(INDEX, 1, 1, 0)


async def walk(bucket: Bucket, query: ListFiles, names: Prefixes) -> tuple[list[str], list[str]]:
    """All pages of a list, as a client asks for them."""
    keys: list[str] = []
    prefixes: list[str] = []
    for _ in range(500):
        page, _context = await read_visible(bucket, query, names)
        keys += [row.key for row in page.files]
        prefixes += page.prefixes
        assert len(page.files) + len(page.prefixes) <= query.limit
        assert page.at_index == INDEX
        if not page.has_more:
            return keys, prefixes
        position = {"after_key": page.last_key, "after_prefix": page.last_prefix, "at_index": page.at_index}
        query = query.model_copy(update=position)
    raise AssertionError("the list does not end")


def expected(keys: set[str], prefix: str, delimiter: str | None) -> tuple[list[str], list[str]]:
    """The list of a bucket that holds `keys` alone."""
    shown, common = [], {}
    for key in sorted(key for key in keys if key.startswith(prefix)):
        at = -1 if delimiter is None else key.find(delimiter, len(prefix))
        if at < 0:
            shown.append(key)
        else:
            common[key[: at + len(delimiter or "")]] = None
    return shown, list(common)


names_of_files = st.one_of(
    st.text("ab/c0.", min_size=1, max_size=7),
    st.sampled_from(["a/b/c/d", "a0", "a/\U0010ffff", "a.\U0010ffff\U0010ffff"]),
)
prefixes = st.lists(st.sampled_from(PREFIXES), max_size=4, unique=True).map(tuple)


@given(
    keys=st.sets(names_of_files, max_size=25),
    allow=prefixes,
    deny=prefixes,
    prefix=st.text("ab/", max_size=4),
    delimiter=st.sampled_from([None, "/", "b", "b/", "/b", "c"]),
    limit=st.integers(1, 4),
)
async def test_a_list_is_that_of_a_bucket_without_anything_else(keys, allow, deny, prefix, delimiter, limit) -> None:
    """Keys and common prefixes, over all pages, at any page size: none outside, none missing, none twice."""
    names = Prefixes(allow, deny)
    if names.coverage(prefix) is Coverage.NONE:
        return  # refused before anything is read
    bucket = Bucket(keys)
    query = ListFiles(bucket="one", prefix=prefix, delimiter=delimiter, limit=limit)
    found = await walk(bucket, query, names)
    note(str(bucket.reads))
    assert found == expected({key for key in keys if names.covers(key)}, prefix, delimiter)


@pytest.mark.parametrize(("keys", "shown"), [({"a/b/1"}, []), ({"a/b/1", "a/c/1"}, ["a/"])])
async def test_a_common_prefix_is_shown_for_a_name_that_may_be_listed(keys, shown) -> None:
    """`a/` stands for names of both kinds: hidden ones alone do not show it."""
    found = await walk(Bucket(keys), ListFiles(bucket="one", delimiter="/"), Prefixes(("a/",), ("a/b/",)))
    assert found == ([], shown)


@given(allow=prefixes, deny=prefixes, lower=st.text("ab/0", max_size=5), name=names_of_files)
def test_nothing_that_is_covered_is_skipped(allow, deny, lower, name) -> None:
    """The next scope is never too far ahead."""
    names = Prefixes(allow, deny)
    first = first_covered(names, lower)
    if names.covers(name) and name >= lower:
        assert first is not None
        assert lower <= first <= name
    if first is not None:
        assert names.coverage(first) is not Coverage.NONE


@pytest.mark.parametrize("delimiter", [None, "/", "."])
@pytest.mark.parametrize("limit", [1, 2])
async def test_names_with_the_last_character_do_not_turn_a_walk_back(delimiter, limit) -> None:
    """They stand between the position before a scope and the scope."""
    last = "\U0010ffff"
    keys = {f"a.{last}", f"a.{last}b", f"a.{last}{last}", f"a.{last}{last}.b", "a/1", "b"}
    bucket = Bucket(keys)
    found = await walk(bucket, ListFiles(bucket="one", delimiter=delimiter, limit=limit), Prefixes(("a/",), ()))
    assert found == expected({"a/1"}, "", delimiter)
    assert len(bucket.reads) < 20


async def test_what_lies_between_scopes_is_not_read() -> None:
    """Of a large bucket in which little may be seen, little is read."""
    keys = {f"m/{number:05d}" for number in range(5000)} | {"a/1", "z/1"}
    bucket = Bucket(keys)
    names = Prefixes(("a/", "z/"))
    page, _ = await read_visible(bucket, ListFiles(bucket="one", limit=10), names)
    assert [row.key for row in page.files] == ["a/1"]
    assert page.has_more
    query = ListFiles(bucket="one", limit=10, after_key=page.last_key, at_index=INDEX)
    page, _ = await read_visible(bucket, query, names)
    assert ([row.key for row in page.files], page.has_more) == (["z/1"], False)
    assert len(bucket.reads) == 2


async def test_a_page_never_ends_at_a_name_outside() -> None:
    """A position is given to the client, sealed or not."""
    bucket = Bucket({"a/1", "secret-1", "secret-2", "z/1"})
    page, _ = await read_visible(bucket, ListFiles(bucket="one", limit=2), Prefixes(("a/", "z/")))
    assert "secret" not in page.model_dump_json()
    assert page.last_key is not None
    assert page.last_key.startswith("z.")


async def test_whoever_may_list_everything_reads_once() -> None:
    """And gets the very page."""
    bucket = Bucket({"a", "b"})
    query = ListFiles(bucket="one")
    page, _ = await read_visible(bucket, query, EVERYTHING)
    assert bucket.reads == [query]
    assert [row.key for row in page.files] == ["a", "b"]


async def test_an_absent_bucket_is_absent() -> None:
    """No more is read of it."""

    class Nothing:
        async def read(self, query, *, deadline_s: float | None = None):
            return FilePage(has_bucket=False), ReadContext(INDEX, 1, 1, 0)

    page, _ = await read_visible(Nothing(), ListFiles(bucket="one"), Prefixes(("a/",)))
    assert not page.has_bucket


SCOPES = ScopeTable([
    Scope(actions=[Action.LIST], bucket="default", prefix="mine/"),
    Scope(effect="deny", actions=[Action.LIST], bucket="default", prefix="mine/private/"),
])  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_lists_of_versions_show_no_name_outside(world, limit) -> None:
    """Nor does one of their common prefixes, nor their positions."""
    await world.metadata.upgrade(world.clock)
    with as_system():
        for key in ("a", "mine/1", "mine/1", "mine/private/hidden", "mine/z", "other/1", "zz"):
            await put(world, b"", name=FileName("default", key))
    names = SCOPES.prefixes(Action.LIST, "default")
    seen: list[str] = []
    query = ListVersions(bucket="default", limit=limit)
    for _ in range(20):
        page, _ = await read_visible(world.metadata, query, names)
        seen += [version.key for version in page.versions]
        assert "other" not in page.model_dump_json()
        assert "hidden" not in page.model_dump_json()
        if not page.has_more:
            break
        query = query.model_copy(update={"after_key": page.last_key, "after_version": page.last_version})
    assert seen == ["mine/1", "mine/z"]
    query = ListVersions(bucket="default", delimiter="/", limit=limit)
    page, _ = await read_visible(world.metadata, query, names)
    assert page.prefixes == ["mine/"]
    assert page.versions == []
    query = ListVersions(bucket="default", prefix="mine/", delimiter="/")
    page, _ = await read_visible(world.metadata, query, names)
    assert ([version.key for version in page.versions], page.prefixes) == (["mine/1", "mine/z"], [])


_nonces = itertools.count(1)


async def begin(world, key: str) -> None:
    begun = BeginUpload(
        bucket="default", key=key, nonce=f"{next(_nonces):032x}", content_type="a/b", stamp=world.clock.stamp()
    )
    await world.metadata.propose(begun)


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_lists_of_uploads_show_no_name_outside(world, limit) -> None:
    """Nor does one of their common prefixes, nor their positions."""
    await world.metadata.upgrade(world.clock)
    for key in ("a", "mine/1", "mine/1", "mine/private/hidden", "mine/z", "other/1", "zz"):
        await begin(world, key)
    names = SCOPES.prefixes(Action.LIST, "default")
    seen: list[str] = []
    query = ListUploads(bucket="default", limit=limit)
    for _ in range(20):
        page, _ = await read_visible(world.metadata, query, names)
        seen += [upload.key for upload in page.uploads]
        assert "other" not in page.model_dump_json()
        assert "hidden" not in page.model_dump_json()
        if not page.has_more:
            break
        query = query.model_copy(update={"after_key": page.last_key, "after_upload": page.last_upload})
    assert seen == ["mine/1", "mine/1", "mine/z"]
    page, _ = await read_visible(world.metadata, ListUploads(bucket="default", delimiter="/"), names)
    assert page.prefixes == ["mine/"]


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_lists_of_buckets_show_those_that_are_seen(world, limit) -> None:
    """A page is empty only at the end, and where one ends is a bucket that it shows."""
    for name in ("aaa", "bbb", "ccc", "ddd"):
        await world.metadata.propose(CreateBucket(bucket=name, stamp=world.clock.stamp()))
    for seen in ([], ["aaa"], ["ddd"], ["aaa", "ddd"], ["bbb", "ccc", "default"]):
        found: list[str] = []
        query = ListBuckets(limit=limit)
        while True:
            whole, _ = await world.metadata.read(query)
            page = await visible_buckets(world.metadata, whole, lambda name, seen=seen: name in seen)
            assert len(page.buckets) <= limit
            found += [bucket.name for bucket in page.buckets]
            if not page.has_more:
                break
            query = query.model_copy(update={"after": page.buckets[-1].name})
        assert found == seen


async def test_a_short_page_does_not_read_every_bucket_that_is_hidden(world) -> None:
    """Whoever sees the last one alone has one more read made, not one for each before it."""
    for number in range(20):
        await world.metadata.propose(CreateBucket(bucket=f"hidden-{number:02d}", stamp=world.clock.stamp()))
    for name in ("shown-1", "shown-2"):
        await world.metadata.propose(CreateBucket(bucket=name, stamp=world.clock.stamp()))
    reads: list[object] = []

    class Counted:
        async def read(self, query, *, deadline_s: float | None = None):
            reads.append(query)
            return await world.metadata.read(query)

    first, _ = await world.metadata.read(ListBuckets(limit=1))
    page = await visible_buckets(Counted(), first, lambda name: name.startswith("shown"))
    assert ([bucket.name for bucket in page.buckets], page.has_more, len(reads)) == (["shown-1"], True, 1)
