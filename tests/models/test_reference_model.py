"""Who keeps which chunk: after any sequence of puts, parts, copies, deletions and time, the references are exactly those of
what can still be reached, and at the end nothing is left over. So it is with what is counted."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest

from services.consensus.metadata import retention
from services.consensus.metadata.manifests import Manifests
from services.consensus.metadata.pieces import PieceList
from services.consensus.metadata.rows import decode_content
from services.consensus.metadata.tables import distinct_chunks
from services.consensus.metadata.upload_records import PartBody
from services.consensus.metadata.usage import check_usage
from services.consensus.metadata.verification import verify
from shared.contracts.access import ANONYMOUS, Requester
from shared.contracts.metadata import DeleteFile, PublishFile
from shared.contracts.objects import BucketSettings, CopyFile, PutBucketSettings
from shared.errors import TrivetError
from tests.chance import draw_seed
from tests.unit.consensus.metadata.builders import Log, publish, stamp
from tests.unit.consensus.metadata.upload_builders import CHUNK, DAY_S, UploadOf, count, large_content, pass_time

KEYS = ("a", "b", "c")
SCHEDULES = 12
STEPS = 60


class Schedule:
    """Random commands; a refusal is as good as a success, as long as nothing is half done."""

    def __init__(self, log: Log, chance: random.Random) -> None:
        self.log = log
        self.chance = chance
        self.uploads: list[UploadOf] = []
        self.fill = 0

    def step(self) -> None:
        """One command."""
        steps = (self.put, self.begin, self.part, self.part, self.range, self.complete, self.abort)
        principal = self.chance.choice(("1a" * 32, "2b" * 32, ANONYMOUS, None))
        self.log.requester = None if principal is None else Requester(principal=principal)
        chosen = self.chance.choice((*steps, self.copy, self.delete, self.delete, self.time, self.time))
        with suppress(TrivetError):
            chosen()

    def content(self):
        self.fill += 1
        # Some chunks come again in other files.
        return large_content(self.chance.choice((0, 1, 5, 6)), fill=self.chance.choice((self.fill, 1)))

    def key(self) -> str:
        return self.chance.choice(KEYS)

    def put(self) -> None:
        command: PublishFile = publish(self.key(), content=self.content(), start_index=self.log.store.last_applied)
        self.log.apply(command, retain_s=self.chance.choice((0, 600)))

    def begin(self) -> None:
        lifetime_s = self.chance.choice((None, DAY_S, 7 * DAY_S))
        is_internal = self.chance.random() < 0.5
        self.uploads.append(UploadOf.begin(self.log, self.key(), lifetime_s=lifetime_s, is_internal=is_internal))

    def part(self) -> None:
        if self.uploads:
            self.chance.choice(self.uploads).put(self.chance.randint(1, 3), self.content())

    def range(self) -> None:
        if self.uploads:
            start = self.chance.randrange(6 * CHUNK)
            end = start + self.chance.randrange(1, 6 * CHUNK)
            upload = self.chance.choice(self.uploads)
            upload.copy(self.chance.randint(1, 3), self.key(), start, self.chance.choice((end, None)))

    def complete(self) -> None:
        if self.uploads:
            upload = self.chance.choice(self.uploads)
            numbers = [number for number in sorted(upload.parts) if self.chance.random() < 0.7]
            if numbers:
                upload.complete(numbers)

    def abort(self) -> None:
        if self.uploads and self.chance.random() < 0.5:
            self.chance.choice(self.uploads).abort()

    def copy(self) -> None:
        is_move = self.chance.random() < 0.3
        command = CopyFile(
            bucket="default",
            key=self.key(),
            source_bucket="default",
            source_key=self.key(),
            is_move=is_move,
            stamp=stamp(),
        )
        self.log.apply(command, retain_s=0)

    def delete(self) -> None:
        self.log.apply(DeleteFile(bucket="default", key=self.key(), stamp=stamp()), retain_s=0)

    def time(self) -> None:
        seconds = self.chance.choice((1, 1000, DAY_S // 2, DAY_S))
        pass_time(self.log, seconds, entries=self.chance.choice((1, 2, 10_000)))

    def end(self) -> None:
        """Everything is given up and becomes old."""
        for key in KEYS:
            try:
                self.log.apply(DeleteFile(bucket="default", key=key, stamp=stamp()), retain_s=0)
            except TrivetError:
                continue
        for upload in self.uploads:
            try:
                upload.abort()
            except TrivetError:
                continue
        for seconds in (1, 1000, DAY_S, 8 * DAY_S, 8 * DAY_S):
            pass_time(self.log, seconds)


def reachable(log: Log) -> tuple[set[tuple[bytes, int]], set[tuple[int, int]]]:
    """(chunk, chunk list) and (owner, manifest) of all references that there must be, found from the rows that refer."""
    execute = log.store._reader.database.execute
    dropped = dict(execute("SELECT version, next_chunk FROM doomed"))
    kept = {version for (version,) in execute("SELECT version FROM kept")}
    chunks: set[tuple[bytes, int]] = set()
    for version, body in execute("SELECT version, body FROM versions").fetchall():
        if version not in kept:
            refs = distinct_chunks(decode_content(body))[dropped.get(version, 0) :]
            chunks |= {(digest, version) for digest, _ in refs}
    for manifest, content, gone in Manifests(log.store._reader).between(0, log.store.last_applied):
        assert content is not None
        chunks |= {(digest, manifest) for digest, _ in distinct_chunks(content)[gone:]}
    owned: set[tuple[int, int]] = set()
    for composition, body in execute("SELECT composition, body FROM compositions").fetchall():
        if composition not in dropped:
            owned |= {(composition, manifest) for manifest in PieceList.decode(body).manifests()}
    for upload, body in execute("SELECT upload, body FROM parts").fetchall():
        part = PartBody.decode(body)
        owned |= {(upload, manifest) for manifest in PieceList(part.identities, part.places).manifests()}
    return chunks, owned


def check(log: Log) -> None:
    """The references are those that must be there; a manifest without any goes; usage is what counting again finds."""
    check_usage(log.store._reader.database)
    execute = log.store._reader.database.execute
    chunks, owned = reachable(log)
    assert set(execute("SELECT digest, version FROM chunk_refs")) == chunks
    found = set(execute("SELECT owner, manifest FROM manifest_refs"))
    closed = {upload for (upload,) in execute("SELECT upload FROM uploads WHERE closed_index IS NOT NULL")}
    opened = {upload for (upload,) in execute("SELECT upload FROM uploads WHERE state='open'")}
    dying = {version for (version,) in execute("SELECT version FROM doomed")}
    # What a closed upload is still to drop, or what parts of an open one that were ranges left when they were replaced.
    assert {pair for pair in owned - found if pair[0] not in closed | dying} == set()
    assert {pair for pair in found - owned if pair[0] not in closed | opened | dying} == set()
    waiting = {version for (version,) in execute("SELECT version FROM released UNION SELECT version FROM doomed")}
    manifests = {manifest for (manifest,) in execute("SELECT manifest FROM manifests")}
    assert manifests - {manifest for _, manifest in found} <= waiting
    assert {manifest for _, manifest in found} <= manifests
    assert {manifest for _, manifest in found}.isdisjoint(waiting)
    refs = set(execute("SELECT composition, version FROM composition_refs"))
    shown = {
        (decode_content(body).composition, v) for v, body in execute("SELECT version, body FROM versions").fetchall()
    }
    assert refs <= shown
    assert {pair for pair in shown - refs if pair[0] is not None} <= {
        (composition, version) for composition, version in shown if version in _gone(log)
    }


def _gone(log: Log) -> set[int]:
    return {version for (version,) in log.store._reader.database.execute("SELECT version FROM kept")}


@pytest.mark.parametrize("number", range(SCHEDULES))
@pytest.mark.parametrize("versioning", ["off", "enabled"])
def test_references_are_those_of_what_can_be_reached_and_nothing_is_left_over(
    tmp_path: Path, number: int, versioning: str, monkeypatch: pytest.MonkeyPatch
):
    """Checked after every step; forgetting goes a few rows at a time, so that every slice is seen."""
    chance = random.Random(draw_seed() + number)
    log = Log(tmp_path / "metadata", entry_version=4)
    if versioning == "enabled":
        # Older versions go after half a day: what is kept is deleted for good by time.
        settings = BucketSettings(versioning="enabled", superseded_retention_s=DAY_S // 2)
        log.apply(PutBucketSettings(bucket="default", settings=settings, stamp=stamp()), retain_s=0)
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", chance.choice((1, 3, 20)))
    schedule = Schedule(log, chance)
    for _ in range(STEPS):
        schedule.step()
        check(log)
    schedule.end()
    check(log)
    tables = ("uploads", "parts", "manifests", "manifest_refs", "compositions", "composition_refs")
    tables += ("versions", "chunk_refs", "released", "doomed", "kept", "past")
    if versioning == "off":
        assert {table: count(log, table) for table in tables} == dict.fromkeys(tables, 0)
    log.store.close()
    verify(tmp_path / "metadata")
