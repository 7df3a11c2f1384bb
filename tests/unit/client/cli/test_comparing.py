"""What `sync` finds different."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from blake3 import blake3

from trivet.cli.addresses import Remote
from trivet.cli.comparing import Judge, RemoteFile, side_by_side
from trivet.cli.local import LocalFile, describe
from trivet.cli.transfers import mtime_text, parse_mtime_ns
from trivet.models import ListedFile

DATA = b"the same"


def remote(
    name: str, data: bytes = DATA, *, digest: bool = True, mtime_ns: int | None = None, etag: str = "e"
) -> RemoteFile:
    row = ListedFile(
        key=f"f/{name}",
        size_bytes=len(data),
        etag=etag,
        version=1,
        content_type="text/plain",
        modified=datetime(2026, 1, 1, tzinfo=UTC),
        digest=blake3(data).hexdigest() if digest else None,
        user_metadata={} if mtime_ns is None else {"mtime": mtime_text(mtime_ns)},
    )
    return RemoteFile(Remote("b", row.key), name, row)


class Store:
    """A client with one file, whose reads are counted."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def open(self, bucket, key):
        self.reads += 1
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return None

    async def __aiter__(self):
        yield self.data


@pytest.fixture
def here(tmp_path) -> LocalFile:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    os.utime(path, ns=(7, 1_700_000_000_123_456_789))
    return describe(path, "x")


async def rows(*entries):
    for entry in entries:
        yield entry


async def test_two_lists_are_walked_side_by_side() -> None:
    """Each name once, with what there is at either side."""
    ours = rows(remote("a"), remote("b"), remote("d"))
    theirs = rows(remote("b"), remote("c"), remote("e"))
    pairs = [(pair.name, pair.source is not None, pair.target is not None) async for pair in side_by_side(ours, theirs)]
    assert pairs == [("a", True, False), ("b", True, True), ("c", False, True), ("d", True, False), ("e", False, True)]


async def test_a_digest_decides_whatever_the_times_say(here) -> None:
    judge = Judge(Store(b""), reads_all=False)
    assert await judge.are_equal(here, remote("x", mtime_ns=1))
    assert not await judge.are_equal(here, remote("x", b"not same", mtime_ns=here.mtime_ns))
    assert await judge.are_equal(remote("x"), here)


async def test_without_a_digest_size_and_time_decide(here) -> None:
    """One nanosecond is a difference; a file that came without a time has the one of its storing."""
    judge = Judge(Store(b""), reads_all=False)
    assert await judge.are_equal(here, remote("x", digest=False, mtime_ns=here.mtime_ns))
    assert not await judge.are_equal(here, remote("x", digest=False, mtime_ns=here.mtime_ns + 1))
    assert not await judge.are_equal(here, remote("x", b"longer data", digest=False, mtime_ns=here.mtime_ns))
    assert not await judge.are_equal(here, remote("x", digest=False))
    os.utime(here.path, ns=(0, int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 10**9))
    assert await judge.are_equal(describe(here.path, "x"), remote("x", digest=False))


@pytest.mark.parametrize(("stored", "is_equal"), [(DATA, True), (b"not same", False)])
async def test_checksum_reads_where_there_is_no_digest(here, stored, is_equal) -> None:
    store = Store(stored)
    judge = Judge(store, reads_all=True)
    assert await judge.are_equal(here, remote("x", stored, digest=False, mtime_ns=here.mtime_ns)) is is_equal
    assert store.reads == 1


async def test_within_the_store_etags_decide(here) -> None:
    judge = Judge(Store(b""), reads_all=False)
    assert await judge.are_equal(remote("x", digest=False), remote("x", digest=False))
    assert not await judge.are_equal(remote("x", digest=False, etag="1"), remote("x", digest=False, etag="2"))
    assert await judge.are_equal(remote("x", etag="1"), remote("x", etag="2"))


@pytest.mark.parametrize("mtime_ns", [0, 1, 1_700_000_000_123_456_789])
def test_a_time_comes_back_as_it_went(mtime_ns) -> None:
    assert parse_mtime_ns({"mtime": mtime_text(mtime_ns)}) == mtime_ns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12 * 10**9),
        ("1.5", 1_500_000_000),
        ("soon", None),
        ("", None),
        ("99999999999999999999.0", None),
        ("-99999999999999999999.0", None),
    ],
)
def test_times_of_other_programs_are_read_or_left_alone(text, expected) -> None:
    """rclone writes fewer decimals where they are zero; a time that no file can have is none."""
    assert parse_mtime_ns({"mtime": text}) == expected
