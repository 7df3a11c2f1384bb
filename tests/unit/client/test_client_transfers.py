"""Uploads by parts and downloads by ranges: interrupted after each step, they go on and end with the right bytes."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from blake3 import blake3

from tests.chance import random_bytes
from trivet import errors
from trivet.bodies import FileBody
from trivet.download import AsyncDownload
from trivet.models import Durability, FileInfo, ListedPart, PartReceipt, Receipt, Timestamp, Upload
from trivet.transfers import downloading, plan
from trivet.transfers.downloading import Downloading, Places
from trivet.transfers.journal import Journal
from trivet.transfers.uploading import Source, Steps, Uploading

MIB = 1 << 20
_PIECE_BYTES = 4096
_NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("size_bytes", "wanted_bytes", "part_bytes"),
    [
        (1, None, 16 * MIB),
        (10_000 * 16 * MIB, None, 16 * MIB),
        (10_000 * 16 * MIB + 1, None, 17 * MIB),
        (99, 5 * MIB, 5 * MIB),
    ],
)
def test_parts_are_as_large_as_they_must_be(size_bytes, wanted_bytes, part_bytes) -> None:
    """There are 10,000 at most."""
    assert plan.part_size(size_bytes, wanted_bytes) == part_bytes
    assert -(-size_bytes // part_bytes) <= plan.PARTS_MAX


@pytest.mark.parametrize(
    ("size_bytes", "wanted_bytes"), [(1, 5 * MIB - 1), (1, (5 << 30) + 1), (10_000 * 5 * MIB + 1, 5 * MIB)]
)
def test_parts_that_the_store_does_not_take_are_refused(size_bytes, wanted_bytes) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="part"):
        plan.part_size(size_bytes, wanted_bytes)


@pytest.mark.parametrize("size_bytes", [1, 9, 10, 11, 35])
def test_pieces_are_the_whole_file(size_bytes) -> None:
    """In order, without gaps."""
    cut = plan.pieces(size_bytes, 10)
    assert [piece.number for piece in cut] == list(range(1, len(cut) + 1))
    assert (cut[0].start, cut[-1].end) == (0, size_bytes)
    assert all(one.end == two.start for one, two in itertools.pairwise(cut))
    assert plan.pieces(0, 10) == []


class PartsInMemory:
    """A store of one upload; `dies_at` is the step, counted from 1, behind which the process is killed."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.file: bytes | None = None
        self.begun = self.sent = self.aborted = self.steps = 0
        self.dies_at: int | None = None
        self.replaced: errors.TrivetError | int | None = None

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.dies_at:
            raise Killed

    async def begin(self) -> str:
        self.begun += 1
        self.parts, self.file = {}, None
        self._step()
        return f"upload-{self.begun}"

    async def put(self, upload_id: str, number: int, body: FileBody) -> PartReceipt:
        assert upload_id == f"upload-{self.begun}"
        data = b"".join([bytes(piece) async for piece in body.pieces()])
        self.parts[number] = data
        self.sent += 1
        self._step()
        return PartReceipt(number=number, etag=body.digest, size_bytes=len(data), part=number)

    async def complete(self, _upload_id: str, parts) -> Receipt:
        if self.file is None:
            assert {number: blake3(data).hexdigest() for number, data in self.parts.items()} == dict(parts)
            self.file = b"".join(self.parts[number] for number, _ in parts)
        self._step()
        stamp = Timestamp(hlc="0", state="LOGICAL")
        durability = Durability(target=3, acknowledged=2, nodes=[])
        return Receipt(
            bucket="b", key="k", version=9, etag="e", size_bytes=len(self.file), content_id="c", chunk_count=1,
            log_index=9, term=1, timestamp=stamp, durability=durability,
        )  # fmt: skip

    async def head(self) -> FileInfo:
        if isinstance(self.replaced, errors.TrivetError):
            raise self.replaced
        return FileInfo(
            bucket="b", key="k", size_bytes=0, etag="", version=self.replaced or 9, log_index=9, content_type="", user_metadata={}
        )  # fmt: skip

    async def upload(self, upload_id: str) -> Upload:
        if self.file is not None or upload_id != f"upload-{self.begun}":
            raise errors.error_of(404, {"code": "upload_not_found"})
        parts = [
            ListedPart(number=number, etag=blake3(data).hexdigest(), size_bytes=len(data), part=number, modified=_NOW)
            for number, data in self.parts.items()
        ]
        return Upload(
            upload_id=upload_id,
            bucket="b",
            key="k",
            content_type="",
            user_metadata={},
            tags={},
            created=_NOW,
            parts=parts,
        )

    async def abort_upload(self, upload_id: str) -> None:
        self.aborted += 1
        if upload_id == f"upload-{self.begun}":
            self.parts = {}


async def _upload(store: PartsInMemory, path, journal_path, *, wanted="text/plain", on_progress=None) -> Receipt:
    with path.open("rb") as file, Journal(journal_path) as journal:
        uploading = Uploading(
            store,
            Steps(store.begin, store.put, store.complete, store.head),
            Source(file.fileno(), 0, os.fstat(file.fileno()).st_size),
            part_bytes=_PIECE_BYTES,
            wanted={"content_type": wanted},
            journal=journal,
            on_progress=on_progress,
        )
        return await uploading.run(1)


@pytest.fixture
def source(tmp_path):
    """A file of five parts and a bit."""
    path = tmp_path / "source"
    path.write_bytes(random_bytes(5 * _PIECE_BYTES + 10))
    return path


async def test_an_upload_that_is_killed_after_any_step_goes_on(source, tmp_path) -> None:
    """No part that is durable is sent again, and the journal is gone at the end."""
    clean = PartsInMemory()
    await _upload(clean, source, tmp_path / "journal")
    assert (clean.file, clean.sent, clean.steps) == (source.read_bytes(), 6, 8)
    assert not (tmp_path / "journal").exists()
    for step in range(1, clean.steps + 1):
        store = PartsInMemory()
        store.dies_at = step
        with pytest.raises(Killed):
            await _upload(store, source, tmp_path / "journal")
        receipt = await _upload(store, source, tmp_path / "journal")
        assert (store.file, receipt.size_bytes) == (source.read_bytes(), len(source.read_bytes())), step
        assert store.sent == 6, step
        assert store.begun == (2 if step == 1 else 1), step
        assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("change", ["bytes", "time", "description"])
async def test_an_upload_of_another_file_is_not_gone_on_with(source, tmp_path, change) -> None:
    """A changed source or description begins anew, and gives the old upload up."""
    store = PartsInMemory()
    store.dies_at = 4
    with pytest.raises(Killed):
        await _upload(store, source, tmp_path / "journal")
    wanted = "text/plain"
    if change == "bytes":
        source.write_bytes(source.read_bytes() + b"more")
    elif change == "time":
        os.utime(source, ns=(1, 1))
    else:
        wanted = "text/html"
    await _upload(store, source, tmp_path / "journal", wanted=wanted)
    assert (store.file, store.begun, store.aborted) == (source.read_bytes(), 2, 1)


@pytest.mark.parametrize(
    "since", ["kept", "replaced", "deleted", "not readable", "source changed", "source changed, not completed"]
)
async def test_a_receipt_of_before_is_believed_while_the_file_is_there(source, tmp_path, since) -> None:
    """The store gives it for days; by then there may be another file, or the source have other bytes of the same time."""
    store = PartsInMemory()
    store.dies_at = 8
    with pytest.raises(Killed):
        await _upload(store, source, tmp_path / "journal")
    match since:
        case "replaced":
            store.replaced = 10
        case "deleted":
            store.replaced = errors.error_of(404, {"code": "file_not_found"})
        case "not readable":
            store.replaced = errors.error_of(403, {"code": "access_denied"})
        case "source changed" | "source changed, not completed":
            facts = source.stat()
            with source.open("r+b") as file:
                file.write(bytes(10))
            os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            if since != "source changed":
                store.file = None
        case _:
            pass
    await _upload(store, source, tmp_path / "journal")
    assert store.file == source.read_bytes()
    assert (store.begun, store.sent) == {"kept": (1, 6), "source changed, not completed": (1, 7)}.get(since, (2, 12))
    assert not (tmp_path / "journal").exists()


async def test_a_part_with_other_bytes_is_sent_again(source, tmp_path) -> None:
    """Whatever a file says of its time: the digests are compared."""
    store = PartsInMemory()
    store.dies_at = 5
    with pytest.raises(Killed):
        await _upload(store, source, tmp_path / "journal")
    store.parts[2] = bytes(_PIECE_BYTES)
    await _upload(store, source, tmp_path / "journal")
    assert store.file == source.read_bytes()


async def test_a_file_that_changes_while_it_is_sent_is_not_published(source, tmp_path) -> None:
    """It would be of no one moment."""
    store = PartsInMemory()
    put = store.put

    async def put_and_change(upload_id, number, body):
        if number == 3:
            os.utime(source, ns=(1, 1))
        return await put(upload_id, number, body)

    store.put = put_and_change
    with pytest.raises(errors.SourceChanged):
        await _upload(store, source, tmp_path / "journal")
    assert (store.file, store.aborted) == (None, 1)


async def test_progress_counts_what_was_there_before(source, tmp_path) -> None:
    """It ends with all bytes."""
    store, told = PartsInMemory(), []
    store.dies_at = 4
    with pytest.raises(Killed):
        await _upload(store, source, tmp_path / "journal")
    await _upload(store, source, tmp_path / "journal", on_progress=told.append)
    assert told[0].resumed_bytes == 3 * _PIECE_BYTES
    assert told[-1].done_bytes == told[-1].total_bytes == 5 * _PIECE_BYTES + 10


def test_a_journal_survives_a_line_that_is_cut_off(tmp_path) -> None:
    """And a head that is none is a new journal."""
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.begin({"a": 1})
        for number in (1, 2, 30):
            journal.add(number)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        with Journal(path) as journal:
            assert journal.head == ({"a": 1} if end >= len(b'{"a":1}\n') else None)
            assert journal.done <= {1, 2, 30}
            assert (30 in journal.done) == (end == len(whole))


def test_two_processes_never_have_one_transfer_in_hand(tmp_path) -> None:
    """The second is told at once."""
    with Journal(tmp_path / "journal"), pytest.raises(errors.TransferInProgress), Journal(tmp_path / "journal"):
        pass
    with Journal(tmp_path / "journal"):
        pass


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_journal_that_is_removed_while_it_is_opened_is_not_taken(tmp_path, monkeypatch, is_made_again) -> None:
    """Else two processes would hold the lock, each of its own file."""
    path = tmp_path / "journal"
    first, lock, others = Journal(path), fcntl.flock, []

    def lock_late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        first.remove()
        first.__exit__(None, None, None)
        if is_made_again:
            others.append(Journal(path))
        fcntl.flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    if is_made_again:
        with pytest.raises(errors.TransferInProgress):
            Journal(path)
        others[0].__exit__(None, None, None)
    else:
        with Journal(path), pytest.raises(errors.TransferInProgress):
            Journal(path)


class FileInMemory:
    """A file of a store; `dies_at` is the range, counted from 1, in whose middle the process is killed."""

    def __init__(self, data: bytes, *, has_digest: bool = True) -> None:
        self.data = data
        self.has_digest = has_digest
        self.opened: list[int] = []
        self.dies_at: int | None = None
        self.replacement: bytes | None = None

    async def head(self) -> FileInfo:
        digest = blake3(self.data).hexdigest()
        return FileInfo(
            bucket="b", key="k", size_bytes=len(self.data), etag=digest[:32], version=1, log_index=1, content_type="",
            digest=digest if self.has_digest else None, user_metadata={},
        )  # fmt: skip

    @asynccontextmanager
    async def open(self, *, start: int, end: int, if_match: str | None):
        if self.replacement is not None and len(self.opened) == 2:
            self.data, self.replacement = self.replacement, None
        info = await self.head()
        if if_match is not None and if_match != info.etag:
            raise errors.error_of(412, {"code": "precondition_failed"})
        if start >= len(self.data):
            raise errors.error_of(416, {"code": "range_not_satisfiable"})
        self.opened.append(start)
        dies = len(self.opened) == self.dies_at

        class Range(AsyncDownload):
            def __init__(self) -> None:
                self.info = info

            async def _chunks(self_):  # noqa: N805 the file is `self`
                for place in range(start, min(end, len(self.data)), 1000):
                    if dies and place > start:
                        raise Killed
                    yield self.data[place : min(end, place + 1000)]

        yield Range()


@pytest.fixture
def places(tmp_path, monkeypatch) -> Places:
    """A target that is there already, and small pieces."""
    monkeypatch.setattr(downloading, "PART_BYTES", _PIECE_BYTES)
    (tmp_path / "target").write_bytes(b"old")
    return Places.of(tmp_path / "target")


async def _download(file: FileInMemory, places: Places, *, parallel: int = 1, on_progress=None) -> FileInfo:
    with Journal(places.journal) as journal:
        return await Downloading(places, journal, file, on_progress).run(parallel)


@pytest.mark.parametrize("has_digest", [True, False])
async def test_a_download_that_is_killed_in_any_range_goes_on(places, has_digest) -> None:
    """The target is the old one until all is there; no range that is there is fetched again."""
    data = random_bytes(5 * _PIECE_BYTES + 10)
    for dying in range(1, 6):
        file = FileInMemory(data, has_digest=has_digest)
        file.dies_at = dying
        places.target.write_bytes(b"old")
        with pytest.raises(Killed):
            await _download(file, places)
        assert places.target.read_bytes() == b"old"
        told = []
        await _download(file, places, on_progress=told.append)
        assert places.target.read_bytes() == data
        assert len(file.opened) == 7
        assert told[-1].done_bytes == told[-1].total_bytes == len(data)
        assert told[-1].resumed_bytes == (dying - 1) * _PIECE_BYTES
        assert {path.name for path in places.target.parent.iterdir()} == {"target"}


async def test_a_file_that_was_replaced_is_fetched_from_the_start(places) -> None:
    """Between two runs, and in the middle of one."""
    old, new = random_bytes(5 * _PIECE_BYTES), random_bytes(6 * _PIECE_BYTES)
    file = FileInMemory(old)
    file.dies_at = 4
    with pytest.raises(Killed):
        await _download(file, places)
    file.data = new
    await _download(file, places)
    assert places.target.read_bytes() == new

    file = FileInMemory(old)
    file.replacement = new
    await _download(file, places)
    assert places.target.read_bytes() == new


async def test_bytes_that_the_disk_lost_are_fetched_again(places) -> None:
    """The digest of everything says so; a journal alone proves nothing."""
    data = random_bytes(5 * _PIECE_BYTES)
    file = FileInMemory(data)
    file.dies_at = 4
    with pytest.raises(Killed):
        await _download(file, places)
    with places.partial.open("r+b") as partial:
        partial.write(bytes(_PIECE_BYTES))
    await _download(file, places)
    assert places.target.read_bytes() == data


async def test_without_a_digest_nothing_of_another_boot_is_trusted(places, monkeypatch) -> None:
    """What was not synced may be gone."""
    data = random_bytes(5 * _PIECE_BYTES)
    file = FileInMemory(data, has_digest=False)
    file.dies_at = 4
    with pytest.raises(Killed):
        await _download(file, places)
    with places.partial.open("r+b") as partial:
        partial.write(bytes(_PIECE_BYTES))
    monkeypatch.setattr(downloading, "boot_id", lambda: "another boot")
    await _download(file, places)
    assert places.target.read_bytes() == data


async def test_a_journal_does_not_say_what_is_compared(places) -> None:
    """One that somebody planted, with bytes of theirs: the store has no digest of that file, whatever the journal says."""
    data = random_bytes(2 * _PIECE_BYTES)
    file = FileInMemory(data, has_digest=False)
    info = await file.head()
    with Journal(places.journal) as journal:
        journal.begin(
            {
                "etag": info.etag,
                "size_bytes": len(data),
                "digest": "0" * 64,
                "piece_bytes": _PIECE_BYTES,
                "boot_id": "x",
            }
        )
        journal.add(1)
    places.partial.write_bytes(bytes(len(data)))
    await _download(file, places)
    assert places.target.read_bytes() == data


async def test_wrong_bytes_never_reach_the_target(places) -> None:
    """They are thrown away, and the next run begins from the start."""

    class Liar(FileInMemory):
        async def head(self) -> FileInfo:
            said = await super().head()
            return FileInfo(**{name: getattr(said, name) for name in said.__struct_fields__} | {"digest": "0" * 64})

    with pytest.raises(errors.DigestMismatch):
        await _download(Liar(random_bytes(3 * _PIECE_BYTES)), places)
    assert places.target.read_bytes() == b"old"


@pytest.mark.parametrize("parallel", [1, 3, 10])
async def test_ranges_come_together_in_their_places(places, parallel) -> None:
    """However many come at a time; an empty file is one, too."""
    for data in (random_bytes(5 * _PIECE_BYTES + 1), random_bytes(10), b""):
        await _download(FileInMemory(data), places, parallel=parallel)
        assert places.target.read_bytes() == data


@pytest.mark.parametrize("surplus", [-1, 1])
async def test_a_range_of_another_length_is_not_written(places, surplus) -> None:
    """It would lie over its neighbours, or leave a gap."""
    data = random_bytes(3 * _PIECE_BYTES)

    class Wrong(FileInMemory):
        @asynccontextmanager
        async def open(self, *, start: int, end: int, if_match: str | None):
            async with super().open(start=start, end=end + surplus if start else end, if_match=if_match) as download:
                yield download

    with pytest.raises(errors.BrokenDownload):
        await _download(Wrong(data, has_digest=False), places)
    assert places.target.read_bytes() == b"old"
    assert places.partial.read_bytes()[2 * _PIECE_BYTES :] == bytes(_PIECE_BYTES)


@pytest.mark.parametrize("ending", ["failure", "cancelled", "cancelled again"])
async def test_no_write_comes_after_the_end(places, monkeypatch, ending) -> None:
    """The descriptor is closed behind the last one: its number may be another file's then."""
    monkeypatch.setattr(downloading, "_WRITE_BYTES", 1000)
    begun, goes_on, written, closed_at = threading.Event(), threading.Event(), [], []
    write, close = downloading._write_all, os.close

    def slow_write(*arguments) -> None:
        begun.set()
        assert goes_on.wait(30)
        write(*arguments)
        written.append(arguments[0])

    def watched_close(descriptor: int) -> None:
        closed_at.append((descriptor, len(written)))
        close(descriptor)

    class Failing(FileInMemory):
        @asynccontextmanager
        async def open(self, *, start: int, end: int, if_match: str | None):
            async with super().open(start=start, end=end, if_match=if_match) as download:
                chunks = download._chunks

                async def some():
                    async for chunk in chunks():
                        yield chunk
                        if ending == "failure":
                            await asyncio.to_thread(begun.wait, 10)
                            raise errors.BrokenDownload("cut")

                download._chunks = some
                yield download

    monkeypatch.setattr(downloading, "_write_all", slow_write)
    monkeypatch.setattr(downloading.os, "close", watched_close)
    download = asyncio.ensure_future(_download(Failing(random_bytes(2 * _PIECE_BYTES)), places))
    assert await asyncio.to_thread(begun.wait, 10)
    for _ in range({"failure": 0, "cancelled": 1, "cancelled again": 2}[ending]):
        download.cancel()
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    assert not download.done()
    goes_on.set()
    with pytest.raises((errors.BrokenDownload, asyncio.CancelledError)):
        await download
    assert written
    assert (written[0], len(written)) in closed_at


@pytest.mark.parametrize("planted", ["link", "dangling link", "second name", "pipe"])
async def test_what_lies_in_the_place_of_a_download_is_not_written_to(places, planted) -> None:
    """Somebody who may write in the folder knows the names: a link there, or a name of another file, is removed."""
    victim = places.target.with_name("victim")
    victim.write_bytes(b"precious")
    for path in (places.partial, places.journal):
        if planted == "link":
            path.symlink_to(victim)
        elif planted == "dangling link":
            path.symlink_to(victim.with_name("nothing"))
        elif planted == "second name":
            path.hardlink_to(victim)
        else:
            os.mkfifo(path)
    data = random_bytes(_PIECE_BYTES + 1)
    await _download(FileInMemory(data), places)
    assert (victim.read_bytes(), places.target.read_bytes()) == (b"precious", data)
    assert {path.name for path in places.target.parent.iterdir()} == {"target", "victim"}
    assert not places.target.is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o664])
async def test_a_file_that_is_replaced_keeps_its_mode(places, mode) -> None:
    """From the first byte on, in the file beside it, too."""
    places.target.chmod(mode)
    file = FileInMemory(random_bytes(2 * _PIECE_BYTES))
    file.dies_at = 1
    with pytest.raises(Killed):
        await _download(file, places)
    assert places.partial.stat().st_mode & 0o777 == mode
    await _download(file, places)
    assert places.target.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("size_bytes", [239, 240, 255])
async def test_the_longest_names_can_be_downloaded(places, size_bytes) -> None:
    """What is put around a name finds room."""
    data = random_bytes(_PIECE_BYTES + 1)
    for letter in "nm":
        place = Places.of(places.target.with_name(letter * size_bytes))
        await _download(FileInMemory(data), place)
        assert place.target.read_bytes() == data
    assert Places.of(places.target.with_name("n" * size_bytes)).partial != place.partial
