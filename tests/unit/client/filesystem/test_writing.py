"""What goes to the store while a file is written, and what is given up when that fails."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from trivet import errors
from trivet.filesystem import publication as publications
from trivet.filesystem.file_system import TrivetFileSystem, guessed_type
from trivet.filesystem.open_files import Writer
from trivet.filesystem.publication import PART_SIZE_MIN_BYTES, PARTS_IN_FLIGHT_MAX, Description, Publication
from trivet.models import FileInfo, PartReceipt, UploadBegun


class Store:
    """Keeps what it is asked for; the call that `fails` names does."""

    def __init__(self, fails: str | None = None) -> None:
        self.fails = fails
        self.calls: list[tuple[str, Any]] = []
        self.under_way = self.most_under_way = 0

    async def _did(self, name: str, fact: Any) -> None:
        await asyncio.sleep(0)
        self.calls.append((name, fact))
        if name == self.fails:
            raise errors.Unavailable(503, "unavailable")

    async def put(self, bucket, key, data, **conditions) -> None:
        await self._did("put", (bytes(data), conditions["if_match"], conditions["if_none_match"]))

    async def begin_upload(self, bucket, key, **description) -> UploadBegun:
        await self._did("begin", description["tags"])
        return UploadBegun(upload_id="u", bucket=bucket, key=key)

    async def put_part(self, upload_id, number, data) -> PartReceipt:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._did("part", (number, len(data)))
        finally:
            self.under_way -= 1
        return PartReceipt(number=number, etag=str(number), size_bytes=len(data), part=number)

    async def copy_part(self, upload_id, number, bucket, key, *, etag, start, end) -> PartReceipt:
        await self._did("copy", (number, etag, start, end))
        return PartReceipt(number=number, etag=str(number), size_bytes=end - start, part=number)

    async def complete_upload(self, upload_id, parts, **conditions) -> None:
        await self._did("complete", ([part.number for part in parts], conditions["if_match"]))

    async def abort_upload(self, upload_id) -> None:
        await self._did("abort", upload_id)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def info(size_bytes: int) -> FileInfo:
    return FileInfo(
        bucket="b",
        key="k",
        size_bytes=size_bytes,
        etag="e",
        digest=None,
        content_id=None,
        version=7,
        log_index=7,
        modified=None,
        content_type="",
        user_metadata={},
    )


def publication(store: Store, **options) -> Publication:
    return Publication(lambda: store, "b", "k", options.pop("description", Description()), **options)


@pytest.fixture
def fs():
    return TrivetFileSystem(skip_instance_cache=True)


def opened(fs, store: Store, *, autocommit: bool = True, **options) -> Writer:
    return Writer(fs, "b/k", "wb", publication(store, **options), block_size=1, autocommit=autocommit)


def test_a_short_file_is_one_put(fs) -> None:
    """With its condition."""
    store = Store()
    with opened(fs, store, is_new=True) as file:
        file.write(b"ab")
        file.write(b"c")
        assert store.calls == []
    assert store.calls == [("put", (b"abc", None, "*"))]


def test_blocks_become_parts_and_the_last_one_may_be_short(fs) -> None:
    """No part but the last is shorter than the store takes, whatever the writes are."""
    store = Store()
    size_bytes = PART_SIZE_MIN_BYTES
    with opened(fs, store) as file:
        for length in (1, size_bytes - 2, 2, 3 * size_bytes, 5):
            file.write(bytes(length))
    parts = sorted(fact for name, fact in store.calls if name == "part")
    assert [number for number, _ in parts] == list(range(1, len(parts) + 1))
    assert sum(length for _, length in parts) == 4 * size_bytes + 6
    assert all(length >= size_bytes for _, length in parts[:-1])
    assert store.calls[-1] == ("complete", ([number for number, _ in parts], None))
    assert store.most_under_way <= PARTS_IN_FLIGHT_MAX


def test_parts_grow_so_that_the_longest_file_fits(fs, monkeypatch) -> None:
    """The size doubles after so many of them."""
    monkeypatch.setattr(publications, "PARTS_OF_ONE_SIZE", 2)
    store = Store()
    with opened(fs, store) as file:
        for _ in range(14):
            file.write(bytes(PART_SIZE_MIN_BYTES))
    lengths = [
        length // PART_SIZE_MIN_BYTES for _, length in sorted(fact for name, fact in store.calls if name == "part")
    ]
    assert lengths == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("fails", ["part", "complete"])
def test_a_failure_gives_the_upload_up(fs, fails) -> None:
    """The writer sees the store's error, and cannot go on."""
    store = Store(fails)
    file = opened(fs, store)
    with pytest.raises(OSError, match="unavailable"), file:
        file.write(bytes(2 * PART_SIZE_MIN_BYTES))
    assert store.names()[-1] == "abort"
    assert file.closed


def test_a_long_file_that_is_appended_to_is_copied_where_it_lies(fs) -> None:
    """In pieces that a part may have, of the version that was seen, and only when there is something to append."""
    store, terabyte = Store(), 1 << 40
    file = opened(fs, store, appended_to=info(terabyte))
    assert (file.tell(), store.calls) == (terabyte, [])
    file.write(b"more")
    file.close()
    copies = [fact for name, fact in store.calls if name == "copy"]
    assert [(copies[0][1], copies[0][2]), copies[-1][3]] == [("e", 0), terabyte]
    assert all(before[3] == after[2] and after[3] - after[2] <= 5 << 30 for before, after in pairwise(copies))
    assert store.calls[-1] == ("complete", (list(range(1, len(copies) + 2)), "e"))


def test_a_transaction_holds_even_a_short_file_back(fs) -> None:
    """Its bytes are durable before `commit`, which only completes."""
    store = Store()
    file = opened(fs, store, autocommit=False)
    file.write(b"x")
    file.close()
    assert store.names() == ["begin", "part"]
    file.commit()
    assert store.names() == ["begin", "part", "complete"]


def test_tags_go_with_an_upload(fs) -> None:
    """A PUT has none."""
    store = Store()
    with opened(fs, store, description=Description(tags={"a": "b"})) as file:
        file.write(b"x")
    assert store.calls == [("begin", {"a": "b"}), ("part", (1, 1)), ("complete", ([1], None))]


def test_an_option_that_is_not_there_is_refused() -> None:
    """A slip would lead to another store."""
    with pytest.raises(TypeError, match="endpoint"):
        TrivetFileSystem(endpoint="http://127.0.0.1:1")


def test_the_type_of_what_is_compressed_is_not_guessed() -> None:
    """It is not that of what is in it."""
    assert [guessed_type(key) for key in ("a.json", "a.json.gz", "a")] == ["application/json", None, None]


def test_another_environment_is_another_file_system(monkeypatch, tmp_path) -> None:
    """What options leave out, it says; equal options in the same one give the same instance."""
    first = TrivetFileSystem(timeout_s=7.0)
    assert TrivetFileSystem(timeout_s=7.0) is first
    for name in ("TRIVET_URL", "TRIVET_KEY", "TRIVET_PROFILE", "TRIVET_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name))
        other = TrivetFileSystem(timeout_s=7.0)
        assert other is not first
        assert str(tmp_path) not in other.to_json() + other._fs_token
        first = other


def test_a_key_can_be_left_out_of_what_is_written_down() -> None:
    """As other file systems leave their passwords out."""
    for fs in (TrivetFileSystem("http://a", key="secret"), TrivetFileSystem("http://a", "secret")):
        assert "secret" in fs.to_json()
        assert "secret" not in fs.to_json(include_password=False)
        assert "http://a" in fs.to_json(include_password=False)
