"""What a user of `trivet://` relies on, where fsspec's suites do not ask: open files, errors, versions, other writers."""

from __future__ import annotations

import asyncio
import errno
import pickle
from concurrent.futures import ThreadPoolExecutor

import fsspec
import httpx
import pytest
from fsspec.callbacks import Callback

import trivet
from tests.chance import random_bytes
from trivet.filesystem import TrivetFileSystem

pytestmark = pytest.mark.cluster

MIB = 1 << 20
PART_BYTES = 5 * MIB


@pytest.fixture
def client(storage_options):
    """The client beside the file system: another user of the same store."""
    with trivet.Client(storage_options["endpoint_url"], storage_options["key"]) as opened:
        yield opened


def put_in_pieces(file, body: bytes, size_bytes: int = MIB) -> None:
    for start in range(0, len(body), size_bytes):
        assert file.write(body[start : start + size_bytes]) == len(body[start : start + size_bytes])


class BlockError(Exception):
    """What a block may end by."""


def write_and_fail_later(fs, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(b"c")
    raise BlockError


def write_and_fail(fs, path: str, body: bytes | str, **options) -> None:
    with fs.open(path, block_size=PART_BYTES, **options) as file:
        file.write(body)
        raise BlockError


# Writing


def test_a_large_file_is_sent_in_parts_and_visible_at_its_end(fs, client, bucket) -> None:
    """Parts are on their way while the caller writes, and no reader sees one."""
    body = random_bytes(3 * PART_BYTES + 17)
    with fs.open(f"{bucket}/large.bin", "wb", block_size=PART_BYTES) as file:
        put_in_pieces(file, body)
        assert len(list(client.uploads(bucket))) == 1
        assert not fs.exists(f"{bucket}/large.bin")
        assert file.tell() == len(body)
    assert fs.cat(f"{bucket}/large.bin") == body
    assert list(client.uploads(bucket)) == []


def test_one_write_may_be_longer_than_any_part(fs, bucket) -> None:
    """It is cut."""
    body = random_bytes(2 * PART_BYTES + 1)
    with fs.open(f"{bucket}/k", "wb", block_size=PART_BYTES) as file:
        file.write(body)
    assert fs.cat(f"{bucket}/k") == body


@pytest.mark.parametrize("options", [{}, {"mode": "w"}, {"compression": "gzip"}, {"mode": "w", "compression": "gzip"}])
@pytest.mark.parametrize("size_bytes", [10, PART_BYTES + 1])
def test_a_block_that_ends_by_an_exception_leaves_nothing(fs, client, bucket, options, size_bytes) -> None:
    """Whatever the layers, and however much was sent: what stood there stays, and no part is left."""
    fs.pipe(f"{bucket}/k", b"before")
    body = random_bytes(size_bytes)
    options = {"mode": "wb"} | options
    with pytest.raises(BlockError):
        write_and_fail(fs, f"{bucket}/k", body if "b" in options["mode"] else body.hex(), **options)
    assert fs.cat(f"{bucket}/k") == b"before"
    assert list(client.uploads(bucket)) == []


@pytest.mark.parametrize("mode", ["w", "wb", "x", "a"])
def test_what_is_compressed_is_whole(fs, bucket, mode) -> None:
    """The end of the compressed bytes is written before the file is published."""
    with fs.open(f"{bucket}/k.gz", mode, compression="infer") as file:
        file.write(b"lines" if "b" in mode else "lines")
    with fs.open(f"{bucket}/k.gz", "rt", compression="infer") as file:
        assert file.read() == "lines"


def test_a_file_that_nobody_closed_is_not_stored(fs, client, bucket) -> None:
    """Its writer may have failed half way; Python says so."""
    file = fs.open(f"{bucket}/k", "wb", block_size=PART_BYTES)
    file.write(random_bytes(PART_BYTES))
    with pytest.warns(RuntimeWarning, match="never closed"):
        del file
    assert not fs.exists(f"{bucket}/k")


def test_a_file_that_should_be_new_never_replaces(fs, client, bucket) -> None:
    """Refused when it is opened, and by the store itself when another writer was faster."""
    file = fs.open(f"{bucket}/k", "xb")
    file.write(b"mine")
    client.put(bucket, "k", b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    with pytest.raises(FileExistsError):
        fs.open(f"{bucket}/k", "x")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{bucket}/k", b"mine", mode="create")
    assert fs.cat(f"{bucket}/k") == b"theirs"


@pytest.mark.parametrize("mode", ["r+b", "w+b", "rb+"])
def test_bytes_are_not_changed_in_place(fs, bucket, mode) -> None:
    """There is no such mode."""
    fs.pipe(f"{bucket}/k", b"x")
    with pytest.raises(ValueError, match="in place"):
        fs.open(f"{bucket}/k", mode)


@pytest.mark.parametrize("size_bytes", [0, 7, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 3])
@pytest.mark.parametrize("more_bytes", [1, PART_BYTES + 1])
def test_appending_goes_on_where_the_file_ends(fs, client, bucket, size_bytes, more_bytes) -> None:
    """Its type, its metadata and its tags stay."""
    first, second = random_bytes(size_bytes), random_bytes(more_bytes)
    client.put(bucket, "k", first, content_type="text/x-log", user_metadata={"host": "a"})
    client.set_tags(bucket, "k", {"stage": "draft"})
    with fs.open(f"{bucket}/k", "ab", block_size=PART_BYTES) as file:
        assert file.tell() == size_bytes
        put_in_pieces(file, second)
        assert file.tell() == size_bytes + more_bytes
    assert fs.cat(f"{bucket}/k") == first + second
    info = fs.info(f"{bucket}/k")
    assert (info["content_type"], info["user_metadata"]) == ("text/x-log", {"host": "a"})
    assert client.tags(bucket, "k").tags == {"stage": "draft"}


def test_appending_to_nothing_makes_a_file_and_appending_nothing_changes_none(fs, bucket) -> None:
    """As on a disk."""
    with fs.open(f"{bucket}/k", "a") as file:
        file.write("one")
    version = fs.info(f"{bucket}/k")["version"]
    with fs.open(f"{bucket}/k", "a"):
        pass
    assert fs.info(f"{bucket}/k")["version"] == version


@pytest.mark.parametrize("size_bytes", [3, PART_BYTES])
def test_of_two_that_append_none_loses_what_the_other_wrote(fs, client, bucket, size_bytes) -> None:
    """The later one fails, and nothing of it is stored."""
    fs.pipe(f"{bucket}/k", random_bytes(size_bytes))
    mine, theirs = fs.open(f"{bucket}/k", "ab"), fs.open(f"{bucket}/k", "ab")
    mine.write(b"mine")
    theirs.write(b"theirs")
    theirs.close()
    with pytest.raises(OSError, match="precondition_failed") as refused:
        mine.close()
    assert refused.value.errno == errno.ESTALE
    assert fs.cat(f"{bucket}/k").endswith(b"theirs")
    assert list(client.uploads(bucket)) == []


def test_files_of_a_transaction_appear_at_its_end_or_never(fs, client, bucket) -> None:
    """Short ones, too, wait as parts of an upload."""
    with fs.transaction:
        with fs.open(f"{bucket}/a", "wb") as file:
            file.write(b"a")
        with fs.open(f"{bucket}/b", "wb"):
            pass
        assert fs.find(bucket) == []
    assert fs.cat([f"{bucket}/a", f"{bucket}/b"]) == {f"{bucket}/a": b"a", f"{bucket}/b": b""}
    with pytest.raises(BlockError), fs.transaction:
        write_and_fail_later(fs, f"{bucket}/c")
    assert fs.find(bucket) == [f"{bucket}/a", f"{bucket}/b"]
    assert list(client.uploads(bucket)) == []


def test_the_name_says_the_type_unless_the_caller_does(fs, bucket, tmp_path) -> None:
    """A compressed file has no type of what is in it."""
    (tmp_path / "page.html").write_text("<p>")
    fs.put_file(str(tmp_path / "page.html"), f"{bucket}/page.html", user_metadata={"by": "me"})
    fs.pipe_file(f"{bucket}/data.json", b"{}")
    fs.pipe_file(f"{bucket}/data.tar.gz", b"")
    with fs.open(f"{bucket}/photo.png", "wb", content_type="image/x-mine") as file:
        file.write(b"")
    types = {entry["name"].partition("/")[2]: entry["content_type"] for entry in fs.ls(bucket)}
    assert types == {
        "page.html": "text/html",
        "data.json": "application/json",
        "data.tar.gz": "application/octet-stream",
        "photo.png": "image/x-mine",
    }
    assert fs.info(f"{bucket}/page.html")["user_metadata"] == {"by": "me"}


# Reading


@pytest.mark.parametrize("cache_type", ["readahead", "none", "bytes", "blockcache", "background", "first", "all"])
def test_a_reader_seeks_through_every_cache(fs, bucket, cache_type) -> None:
    """The bytes are those of the file."""
    body = random_bytes(300_001)
    fs.pipe(f"{bucket}/k", body)
    with fs.open(f"{bucket}/k", "rb", block_size=64 << 10, cache_type=cache_type) as file:
        assert file.read(10) == body[:10]
        assert file.seek(-100, 2) == len(body) - 100
        assert file.read() == body[-100:]
        file.seek(100_000)
        assert file.read(70_000) == body[100_000:170_000]


def test_a_reader_stays_with_the_version_that_it_opened(fs, client, bucket) -> None:
    """Where older versions are kept it reads on; where they are not it fails, and never mixes two."""
    old, new = random_bytes(3000), random_bytes(3000)
    fs.pipe(f"{bucket}/k", old)
    with fs.open(f"{bucket}/k", "rb", cache_type="none") as file:
        assert file.read(1000) == old[:1000]
        fs.pipe(f"{bucket}/k", new)
        with pytest.raises(FileNotFoundError):
            file.read()
    client.set_bucket_settings(bucket, versioning="enabled")
    with fs.open(f"{bucket}/k", "rb", cache_type="none") as file:
        assert file.read(1000) == new[:1000]
        fs.pipe(f"{bucket}/k", old)
        copied = pickle.loads(pickle.dumps(file))
        assert file.read() == copied.read() == new[1000:]
        copied.close()
    assert fs.cat(f"{bucket}/k") == old


def test_versions_are_listed_and_read(fs, client, bucket) -> None:
    """By the number that `info` says."""
    client.set_bucket_settings(bucket, versioning="enabled")
    for body in (b"one", b"two"):
        fs.pipe(f"{bucket}/k", body)
    two = fs.info(f"{bucket}/k")["version"]
    fs.rm(f"{bucket}/k")
    marker, newer, older = fs.versions(f"{bucket}/k")
    assert (marker["is_marker"], newer["version"], older["is_current"]) == (True, two, False)
    assert fs.cat_file(f"{bucket}/k", version=older["version"]) == b"one"
    assert fs.info(f"{bucket}/k", version=two)["size"] == 3
    with fs.open(f"{bucket}/k", version=two) as file:
        assert file.read() == b"two"
    with pytest.raises(FileNotFoundError):
        fs.info(f"{bucket}/k")


def test_ranges_are_those_of_a_slice(fs, bucket) -> None:
    """Also beyond the end, from the end, and of an empty file."""
    body = b"0123456789"
    fs.pipe({f"{bucket}/k": body, f"{bucket}/empty": b""})
    edges = [None, 0, 1, 5, 10, 11, 99, -1, -3, -10, -11]
    for start in edges:
        for end in edges:
            assert fs.cat_file(f"{bucket}/k", start=start, end=end) == body[start:end], (start, end)
    assert fs.cat_file(f"{bucket}/empty", start=0, end=4) == fs.cat_file(f"{bucket}/empty", start=-4) == b""
    found = fs.cat_ranges([f"{bucket}/k", f"{bucket}/nowhere"], [2, 0], [4, 1])
    assert found[0] == b"23"
    assert isinstance(found[1], FileNotFoundError)


def test_progress_is_told_to_the_callback(fs, bucket, tmp_path) -> None:
    """In bytes, both ways."""
    (tmp_path / "there").write_bytes(random_bytes(MIB))
    for call, names in (
        (fs.put_file, (tmp_path / "there", f"{bucket}/k")),
        (fs.get_file, (f"{bucket}/k", tmp_path / "back")),
    ):
        told = Callback()
        call(*map(str, names), callback=told)
        assert told.size == told.value == MIB
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()


# Names


def test_lists_and_patterns_are_those_of_a_disk(fs, bucket, tmp_path) -> None:
    """The same tree on a disk is the model."""
    names = ["a.txt", "a/b.txt", "a/b/c.csv", "a/b/d/e.txt", "a-b/c.txt", "f/g/h.txt", "ünï/ö.txt", "z"]
    local = fsspec.filesystem("file", auto_mkdir=True)
    for tree, root in ((fs, bucket), (local, str(tmp_path))):
        tree.pipe({f"{root}/{name}": name.encode() for name in names if name != "a.txt"} | {f"{root}/a.txt": b"1"})

    def relative(found, root):
        return sorted(name.removeprefix(root).strip("/") for name in found)

    for pattern in (
        "*",
        "**",
        "a/*",
        "a/**",
        "*/*.txt",
        "**/*.txt",
        "a*/",
        "?",
        "[a-f]*",
        "*/b/**",
        "nothing*",
        "a.txt",
        "ü*",
    ):
        assert relative(fs.glob(f"{bucket}/{pattern}"), bucket) == relative(
            local.glob(f"{tmp_path}/{pattern}"), str(tmp_path)
        ), pattern
    for options in ({}, {"maxdepth": 1}, {"maxdepth": 2}, {"withdirs": True}, {"withdirs": True, "maxdepth": 2}):
        for start in ("", "/a", "/a/b"):
            assert relative(fs.find(f"{bucket}{start}", **options), bucket) == relative(
                local.find(f"{tmp_path}{start}", **options), str(tmp_path)
            ), (start, options)
    walked = {(relative([root], bucket)[0], *map(tuple, map(sorted, rest))) for root, *rest in fs.walk(bucket)}
    assert walked == {
        (relative([root], str(tmp_path))[0], *map(tuple, map(sorted, rest)))
        for root, *rest in local.walk(str(tmp_path))
    }
    assert fs.du(bucket) == local.du(str(tmp_path))
    assert fs.du(f"{bucket}/a", total=False) == {
        name: len(name.removeprefix(bucket).strip("/")) for name in fs.find(f"{bucket}/a")
    }


def test_a_directory_is_there_while_a_file_is_in_it(fs, client, bucket) -> None:
    """And is not made; the empty files that stand for one are not shown."""
    fs.mkdir(f"{bucket}/a")
    assert not fs.exists(f"{bucket}/a")
    fs.touch(f"{bucket}/a/b")
    assert fs.isdir(f"{bucket}/a")
    assert fs.ls(f"{bucket}/a/b", detail=False) == [f"{bucket}/a/b"]
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{bucket}/a")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{bucket}/a")
    client.put(bucket, "m/", b"")
    client.put(bucket, "s//t", b"x")
    assert fs.ls(bucket, detail=False) == [f"{bucket}/a", f"{bucket}/m", f"{bucket}/s"]
    assert fs.ls(f"{bucket}/m") == fs.ls(f"{bucket}/s") == []
    assert fs.find(bucket) == [f"{bucket}/a/b", f"{bucket}/s//t"]
    fs.rm([f"{bucket}/a", f"{bucket}/m", f"{bucket}/s"], recursive=True)
    assert list(client.list(bucket)) == []


def test_a_name_may_be_a_file_and_a_directory(fs, bucket) -> None:
    """Keys are no tree; both are found, read and removed."""
    fs.pipe({f"{bucket}/a": b"file", f"{bucket}/a/b": b"below"})
    assert fs.isfile(f"{bucket}/a")
    assert fs.isdir(f"{bucket}/a")
    assert fs.find(bucket) == [f"{bucket}/a", f"{bucket}/a/b"]
    assert (fs.cat_file(f"{bucket}/a"), fs.cat_file(f"{bucket}/a/b")) == (b"file", b"below")
    fs.rm(f"{bucket}/a", recursive=True)
    assert fs.find(bucket) == []


def test_buckets_are_the_directories_at_the_top(fs, bucket) -> None:
    """Made, listed and deleted as such; one in which there is something is not deleted by accident."""
    other = f"{bucket}-b"
    fs.mkdir(other)
    with pytest.raises(FileExistsError):
        fs.mkdir(other)
    fs.makedirs(other, exist_ok=True)
    assert {bucket, other} <= set(fs.ls("", detail=False))
    assert other in fs.glob(f"{bucket[:-1]}*")
    assert fs.info(other)["type"] == "directory"
    fs.touch(f"{other}/a/b")
    assert f"{other}/a/b" in fs.find("")
    with pytest.raises(OSError, match="empty") as refused:
        fs.rmdir(other)
    assert refused.value.errno == errno.ENOTEMPTY
    with pytest.raises(IsADirectoryError):
        fs.rm(other)
    with pytest.raises(IsADirectoryError):
        fs.open(other, "wb")
    fs.rm(other, recursive=True)
    assert not fs.exists(other)
    with pytest.raises(FileNotFoundError):
        fs.mkdir(f"{other}/a", create_parents=False)
    with pytest.raises(FileNotFoundError):
        fs.ls(other)
    with pytest.raises(FileNotFoundError):
        fs.pipe(f"{other}/k", b"x")


def test_what_is_not_there_is_not_removed_or_moved(fs, bucket) -> None:
    """And a directory only where that was asked for."""
    fs.touch(f"{bucket}/a/b")
    for call in (fs.rm, fs.rm_file, fs.info, fs.ls, fs.cat, fs.modified, lambda path: fs.mv(path, f"{bucket}/x")):
        with pytest.raises(FileNotFoundError):
            call(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{bucket}/nothing", recursive=True)
    for call in (fs.rm, lambda path: fs.mv(path, f"{bucket}/x")):
        with pytest.raises(IsADirectoryError):
            call(f"{bucket}/a")
    assert fs.find(bucket) == [f"{bucket}/a/b"]


def test_moving_renames(fs, client, bucket) -> None:
    """Files, directories and what a pattern finds; into another bucket, too."""
    other = f"{bucket}-b"
    fs.mkdir(other)
    fs.pipe({f"{bucket}/a/{name}": name.encode() for name in ("1", "2", "b/3")})
    fs.mv(f"{bucket}/a/1", f"{bucket}/one")
    assert fs.cat(f"{bucket}/one") == b"1"
    fs.mv(f"{bucket}/a", f"{other}/c", recursive=True)
    assert (fs.find(bucket), fs.find(other)) == ([f"{bucket}/one"], [f"{other}/c/2", f"{other}/c/b/3"])
    fs.mv(f"{other}/c/*", f"{bucket}/", recursive=True)
    assert fs.find(bucket) == [f"{bucket}/2", f"{bucket}/b/3", f"{bucket}/one"]


def test_touch_makes_a_file_or_makes_it_new(fs, bucket) -> None:
    """Without `truncate` the bytes stay, and so does the description."""
    fs.pipe_file(f"{bucket}/k", b"x", content_type="text/plain", user_metadata={"a": "b"})
    before = fs.info(f"{bucket}/k")
    fs.touch(f"{bucket}/k", truncate=False)
    after = fs.info(f"{bucket}/k")
    assert after["version"] > before["version"]
    assert (after["content_type"], after["user_metadata"], after["size"]) == ("text/plain", {"a": "b"}, 1)
    fs.touch(f"{bucket}/new", truncate=False)
    fs.touch(f"{bucket}/k")
    assert (fs.size(f"{bucket}/new"), fs.size(f"{bucket}/k")) == (0, 0)


def test_what_tells_a_change_comes_from_the_store(fs, bucket) -> None:
    """The key and the checksum change with the file, and with nothing else."""
    fs.pipe({f"{bucket}/k": b"one", f"{bucket}/l": b"two"})
    one = (fs.ukey(f"{bucket}/k"), fs.checksum(f"{bucket}/k"))
    assert (fs.ukey(f"{bucket}/k"), fs.checksum(f"{bucket}/k")) == one
    assert (fs.ukey(f"{bucket}/l"), fs.checksum(f"{bucket}/l")) != one
    listed = {entry["name"]: entry["etag"] for entry in fs.ls(bucket)}
    assert listed[f"{bucket}/k"] == one[0]


def test_info_and_lists_say_the_same_moment(fs, bucket) -> None:
    """To the microsecond, also of a file that was just replaced."""
    for body in (b"1", b"2", b"3"):
        fs.pipe(f"{bucket}/k", body)
        listed = fs.ls(bucket)[0]
        assert fs.info(f"{bucket}/k")["modified"] == listed["modified"] == fs.created(f"{bucket}/k")
        assert listed["modified"].utcoffset() is not None


def test_a_link_needs_no_key(fs, bucket) -> None:
    """It is signed here, and good for its method alone."""
    fs.pipe(f"{bucket}/ü k", b"shared")
    link = fs.sign(f"{bucket}/ü k", expiration=60)
    assert httpx.get(link, trust_env=False).content == b"shared"
    assert httpx.delete(link, trust_env=False).status_code == 401


# Others


def test_every_answer_is_what_the_store_has_now(fs, client, bucket) -> None:
    """Nothing is remembered, so another writer's change is seen at once."""
    assert (fs.ls(bucket), fs.exists(f"{bucket}/k")) == ([], False)
    client.put(bucket, "k", b"1")
    assert (fs.ls(bucket, detail=False), fs.info(f"{bucket}/k")["size"]) == ([f"{bucket}/k"], 1)
    client.put(bucket, "k", b"22")
    assert (fs.info(f"{bucket}/k")["size"], fs.cat(f"{bucket}/k")) == (2, b"22")
    client.delete(bucket, "k")
    assert fs.find(bucket) == []


def test_refusals_are_errors_of_a_file_system(fs, client, storage_options, bucket) -> None:
    """With the client's error as their cause."""
    stranger = TrivetFileSystem(endpoint_url=storage_options["endpoint_url"], key="TV" + "0" * 18 + "." + "0" * 43)
    with pytest.raises(PermissionError) as refused:
        stranger.ls(bucket)
    assert isinstance(refused.value.__cause__, trivet.Unauthorized)
    client.set_bucket_settings(bucket, quota_bytes=3)
    with pytest.raises(OSError, match="quota") as refused:
        fs.pipe(f"{bucket}/k", b"1234")
    assert refused.value.errno == errno.EDQUOT
    for path in ("B", f"{bucket}/a/../b", f"{bucket}/" + "k" * 1025):
        with pytest.raises(OSError, match="invalid") as refused:
            fs.pipe(f"{path}/k", b"")
        assert refused.value.errno == errno.EINVAL
        assert not fs.isdir(path)


def test_threads_share_one_instance(fs, bucket) -> None:
    """All calls run side by side on one loop."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: fs.pipe(f"{bucket}/{number}", b"%d" % number), range(32)))
        bodies = list(threads.map(lambda number: fs.cat(f"{bucket}/{number}"), range(32)))
    assert bodies == [b"%d" % number for number in range(32)]


def test_loops_share_one_instance(storage_options, bucket) -> None:
    """Each has connections of its own, which end with `aclose`."""
    fs = TrivetFileSystem(asynchronous=True, **storage_options)

    async def use(number: int) -> bytes:
        await asyncio.gather(*(fs._pipe_file(f"{bucket}/{number}/{key}", b"%d" % number) for key in range(4)))
        found = await fs._cat(await fs._find(f"{bucket}/{number}"))
        await fs.aclose()
        return b"".join(found.values())

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda number: asyncio.run(use(number)), range(3))) == [b"0000", b"1111", b"2222"]


async def write_and_fail_awaiting(fs, path: str) -> None:
    async with await fs.open_async(path, "wb", block_size=PART_BYTES) as file:
        await file.write(random_bytes(PART_BYTES))
        raise BlockError


async def test_programs_that_await_have_open_files_too(storage_options, client, bucket) -> None:
    """With the same promises: by parts, visible at the end or never, one version."""
    fs, body = TrivetFileSystem(asynchronous=True, **storage_options), random_bytes(2 * PART_BYTES + 3)
    path = f"{bucket}/k"
    try:
        async with await fs.open_async(path, "wb", block_size=PART_BYTES) as file:
            await file.write(body)
            assert not await fs._exists(path)
        async with await fs.open_async(path, "ab") as file:
            await file.write(b"more")
        async with await fs.open_async(path, "ab"):
            pass
        with pytest.raises(BlockError):
            await write_and_fail_awaiting(fs, path)
        async with await fs.open_async(path) as file:
            assert await file.read(5) == body[:5]
            file.seek(-10, 2)
            assert await file.read() == body[-6:] + b"more"
    finally:
        await fs.aclose()
    assert list(client.uploads(bucket)) == []


def test_appending_nothing_in_a_transaction_changes_nothing(fs, bucket) -> None:
    """There is nothing to commit."""
    fs.pipe(f"{bucket}/k", b"x")
    with fs.transaction, fs.open(f"{bucket}/k", "ab"):
        pass
    assert fs.cat(f"{bucket}/k") == b"x"


def test_an_instance_goes_to_another_process(fs, bucket) -> None:
    """By its options, as pickle and JSON have them."""
    fs.pipe(f"{bucket}/k", b"x")
    assert pickle.loads(pickle.dumps(fs)) is fs
    other = fsspec.AbstractFileSystem.from_json(fs.to_json())
    assert other.cat(f"{bucket}/k") == b"x"
