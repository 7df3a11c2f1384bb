"""Which chunks are condemned, when, and which uploads are refused because of that (docs/promises.md, "The life of a chunk")."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from services.consensus.metadata import retention
from services.consensus.metadata.kept_references import BACKUPS_MAX
from services.consensus.metadata.verification import verify
from shared.contracts.backups import BeginBackup, EndBackup, ListBackups, RenewBackup
from shared.contracts.metadata import DeleteFile, GetRequest, PassTime
from shared.contracts.references import CheckReferences, CondemnChunks, ListReferenceChanges
from shared.errors import BackupNotFoundError, ChunkCondemnedError, ConflictError, InvalidRequestError
from tests.chance import draw_seed
from tests.unit.consensus.metadata.builders import Log, content, publish, referring_versions, stamp

HOUR_MS = 3_600_000
DAY_S = 86_400
DAY_MS = DAY_S * 1000
WEEK_S = 7 * DAY_S


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(tmp_path / "metadata", entry_version=3)


def pass_time(log: Log, elapsed_ms: int, *, references_s: int = DAY_S, condemned_s: int = WEEK_S) -> int:
    """Time passes, and everything that is then old enough is forgotten; how many entries that took."""
    for entries in range(1, 10_000):
        command = PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=900,
            tombstone_retention_s=DAY_S,
            reference_retention_s=references_s,
            condemned_retention_s=condemned_s,
            stamp=stamp(),
        )
        elapsed_ms = 0
        if not log.apply(command, retain_s=0)["has_more"]:
            return entries
    raise AssertionError("it never ends")


def put(log: Log, key: str, *, fill: int = 1, size_bytes: int = 1, start_index: int | None = None) -> int:
    """Publish a file that began now, or at `start_index`; its version."""
    start_index = log.store.last_applied if start_index is None else start_index
    log.apply(publish(key, content=content(size_bytes, fill=fill), start_index=start_index), retain_s=0)
    return log.store.last_applied


def delete(log: Log, key: str) -> int:
    log.apply(DeleteFile(bucket="default", key=key, stamp=stamp()), retain_s=0)
    return log.store.last_applied


def chunk(fill: int = 1, number: int = 0) -> bytes:
    return content(1000 * (number + 1), fill=fill).chunk_digests[32 * number :][:32]


def condemned(log: Log) -> dict[bytes, int]:
    return dict(log.store._reader.database.execute("SELECT digest, log_index FROM condemned").fetchall())


def rows(log: Log, table: str) -> int:
    [[count]] = log.store._reader.database.execute(f"SELECT count(*) FROM {table}")
    return count


def report(log: Log, *chunks: bytes, start_index: int = 1) -> int:
    """A storage node holds chunks that no page listed; how many are condemned now."""
    command = CondemnChunks(digests=b"".join(chunks), start_indexes=[start_index] * len(chunks), stamp=stamp())
    return log.apply(command, retain_s=0)["condemned"]


# --- the last reference -------------------------------------------------------------------------------------------


def test_a_chunk_is_condemned_by_the_entry_that_drops_its_last_reference(log):
    """After the references were kept for their retention, and not a tick earlier; then by that very entry."""
    put(log, "a")
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, DAY_MS - 1)
    assert (condemned(log), rows(log, "chunk_refs"), rows(log, "released")) == ({}, 1, 1)
    pass_time(log, 1)
    assert condemned(log) == {chunk(): log.store.last_applied}
    assert (rows(log, "chunk_refs"), rows(log, "released"), rows(log, "versions")) == (0, 0, 0)


def test_a_chunk_that_something_else_refers_to_is_not_condemned(log):
    """Not by another file, not by a version that is only kept for slow readers; only the last one that goes condemns it."""
    put(log, "a")
    put(log, "b")
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, HOUR_MS)
    delete(log, "b")
    pass_time(log, 1)
    pass_time(log, DAY_MS - HOUR_MS - 1)
    assert (condemned(log), rows(log, "chunk_refs")) == ({}, 1)
    pass_time(log, HOUR_MS + 1)
    assert condemned(log) == {chunk(): log.store.last_applied}


def test_two_versions_that_go_in_one_entry_condemn_what_they_share_once(log):
    """The sum of all rows stays right."""
    put(log, "a", size_bytes=2500)
    put(log, "a", size_bytes=1500)
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    assert condemned(log) == dict.fromkeys((chunk(number=n) for n in range(3)), log.store.last_applied)
    log.store.close()
    verify(log.path)


def test_a_version_that_was_superseded_is_kept_from_then_on(log):
    """Age counts from the entry that replaced it, not from the one that made it."""
    put(log, "a", fill=1)
    pass_time(log, 1)
    pass_time(log, 3 * DAY_MS)
    put(log, "a", fill=2)
    pass_time(log, 1)
    pass_time(log, DAY_MS - 1)
    assert condemned(log) == {}
    pass_time(log, 1)
    assert list(condemned(log)) == [chunk(1)]


def test_before_entries_of_version_3_nothing_is_condemned(tmp_path):
    """An entry without the retentions means what it meant: references go with the lists, and no chunk is named."""
    log = Log(tmp_path / "m", entry_version=2)
    put(log, "a")
    delete(log, "a")
    for elapsed_ms in (1, DAY_MS, 0):
        command = PassTime(elapsed_ms=elapsed_ms, cursor_retention_s=900, tombstone_retention_s=900, stamp=stamp())
        log.apply(command, retain_s=0)
    assert (rows(log, "chunk_refs"), rows(log, "released"), rows(log, "condemned")) == (0, 0, 0)


def test_what_was_doomed_before_version_3_is_condemned_when_it_goes(tmp_path, monkeypatch):
    """A cluster that is upgraded in the middle of a long expiry loses no orphan of it."""
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 4)
    log = Log(tmp_path / "m")
    put(log, "a", size_bytes=10_000)
    delete(log, "a")
    for elapsed_ms in (1, DAY_MS):
        command = PassTime(
            elapsed_ms=elapsed_ms, cursor_retention_s=900, tombstone_retention_s=9 * DAY_S, stamp=stamp()
        )
        log.apply(command, retain_s=0)
    dropped = 10 - rows(log, "chunk_refs")
    assert 0 < dropped < 10
    log.raise_entry_version(3)
    pass_time(log, 0)
    assert rows(log, "chunk_refs") == 0
    assert set(condemned(log)) == {chunk(number=n) for n in range(dropped, 10)}


def test_one_entry_drops_and_condemns_a_bounded_number_of_chunks(tmp_path, monkeypatch):
    """A large file goes in slices, each of which condemns what it drops; together they condemn all of it."""
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 10)
    log = Log(tmp_path / "m", entry_version=3)
    put(log, "large", size_bytes=95_000)
    for number in range(12):
        put(log, f"{number}", fill=2 + number)
    for key in ("large", *map(str, range(12))):
        delete(log, key)
    pass_time(log, 1)
    before = (95 + 12, 0)
    slices, elapsed_ms, has_more = 0, 2 * DAY_MS, True
    while has_more:
        command = PassTime(
            elapsed_ms=elapsed_ms,
            cursor_retention_s=900,
            tombstone_retention_s=DAY_S,
            reference_retention_s=DAY_S,
            condemned_retention_s=WEEK_S,
            stamp=stamp(),
        )
        result, elapsed_ms = log.apply(command, retain_s=0), 0
        after = rows(log, "chunk_refs"), rows(log, "condemned")
        assert before[0] - after[0] == after[1] - before[1] <= 10
        assert result["forgotten"] <= 11
        before, slices, has_more = after, slices + 1, result["has_more"]
    assert before == (0, 95 + 12)
    assert slices >= (95 + 4 * 13) / 10
    assert len(set(condemned(log).values())) >= 95 / 10
    pass_time(log, 1)
    pass_time(log, 8 * DAY_MS)
    for table in ("past", "released", "doomed", "condemned", "chunk_refs", "versions"):
        assert rows(log, table) == 0, table
    log.store.close()
    verify(log.path)


def test_a_remembered_request_keeps_no_chunk(log):
    """The receipt is there word for word; its chunks are condemned all the same."""
    first = log.propose(publish("a", start_index=1), request_id="once", retain_s=WEEK_S)
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_MS)
    assert (rows(log, "kept"), rows(log, "chunk_refs"), len(condemned(log))) == (1, 0, 1)
    assert log.ask(GetRequest(request_id="once")).result == first
    assert log.ask(ListReferenceChanges(after_index=0)).added == b""


# --- uploads against condemnation -----------------------------------------------------------------------------------


def gone(log: Log, fill: int = 1) -> int:
    """A file came and went, chunks and all; the index that condemned its chunk."""
    put(log, "gone", fill=fill)
    delete(log, "gone")
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    return condemned(log)[chunk(fill)]


def test_an_upload_that_began_before_the_condemnation_is_refused(log):
    """At its very index, too: what a node recorded then is below it. One later passes."""
    index = gone(log)
    put(log, "other", fill=9)
    for start_index in (1, index - 1, index):
        with pytest.raises(ChunkCondemnedError) as refused:
            put(log, "b", start_index=start_index)
        assert refused.value.definite
        assert refused.value.facts["condemned_index"] == index
    put(log, "b", start_index=index + 1)
    assert log.ask(CheckReferences(digests=chunk(), age_s=0)).is_referenced == [True]


def test_one_condemned_chunk_among_many_refuses_the_upload(log):
    """Whichever it is; chunks that were never condemned refuse nothing."""
    report(log, chunk(number=7))
    index = log.store.last_applied
    with pytest.raises(ChunkCondemnedError):
        put(log, "b", size_bytes=10_000, start_index=index)
    put(log, "c", size_bytes=7_000, start_index=index)
    put(log, "d", fill=2, size_bytes=10_000, start_index=index)


def test_before_version_3_no_upload_is_refused(tmp_path):
    """Members of older versions would let it pass, and all must come to the same state."""
    log = Log(tmp_path / "m", entry_version=2)
    with log.store._writer.database.transaction(write=True):
        log.store._writer.database.insert("condemned", chunk(), 100)
    put(log, "a", start_index=0)


def test_an_upload_from_the_future_is_refused(log):
    """An index that does not exist yet would be above every condemnation to come."""
    for start_index in (log.store.last_applied + 1, 1 << 62, -1):
        with pytest.raises(InvalidRequestError):
            put(log, "a", start_index=start_index)
    put(log, "a", start_index=log.store.last_applied)


def test_a_refused_upload_is_no_final_answer_to_its_key(log):
    """The attempt's refusal is stored under the attempt; the next one, begun later, stands under the client's key."""
    index = gone(log)
    key = {"request_id": "client-key", "fingerprint": "f", "retain_s": DAY_S}
    early, late = publish("b", start_index=index), publish("b", start_index=index + 1)
    put(log, "other", fill=9)
    first = log.propose(early, attempt_id="a1", **key)
    assert first.problem is not None
    assert first.problem["code"] == ChunkCondemnedError.code
    assert log.propose(late, attempt_id="a1", **key) == first
    second = log.propose(late, attempt_id="a2", **key)
    assert second.result is not None
    assert log.propose(early, attempt_id="a3", **key) == second


@pytest.mark.parametrize("order", list(permutations(["condemn", "publish", "begin"])))
def test_condemning_and_referring_again_in_every_order(log, order):
    """A chunk that an upload refers to is never condemned, and a condemned one is never referred to by an earlier upload."""
    start_index, published = None, None
    for step in order:
        if step == "begin":
            put(log, "tick", fill=9)
            start_index = log.store.last_applied
        elif step == "condemn":
            report(log, chunk())
        else:
            try:
                put(log, "a", start_index=0 if start_index is None else start_index)
                published = log.store.last_applied
            except ChunkCondemnedError:
                published = None
    index = condemned(log).get(chunk())
    begun = 0 if order.index("begin") > order.index("publish") else start_index
    if order.index("condemn") < order.index("publish"):
        assert index is not None
        assert (published is not None) == (begun > index)
    else:
        assert (published is not None, index) == (True, None)


def test_the_second_condemnation_counts(log):
    """A chunk that came back and went again: uploads that began between the two are refused by the later one."""
    first = gone(log)
    put(log, "tick", fill=9)
    put(log, "between", fill=9)
    start_index = log.store.last_applied
    second = gone(log)
    assert second > start_index > first
    with pytest.raises(ChunkCondemnedError):
        put(log, "b", start_index=start_index)
    assert rows(log, "condemned") == 1


def test_condemnations_are_remembered_as_long_as_an_upload_may_take(log):
    """Then the highest index that is forgotten is the horizon: nothing that began up to it is published, whatever it names."""
    index = gone(log)
    put(log, "tick", fill=9)
    pass_time(log, 1)
    pass_time(log, WEEK_S * 1000 - 2)
    assert list(condemned(log).values()) == [index]
    put(log, "new", fill=5, start_index=index)
    pass_time(log, 2)
    assert condemned(log) == {}
    for start_index in (1, index):
        with pytest.raises(ChunkCondemnedError) as refused:
            put(log, "b", fill=6, start_index=start_index)
        assert refused.value.facts["horizon"] == index
    put(log, "b", fill=6, start_index=index + 1)


def test_the_horizon_never_goes_back_and_rises_with_what_is_forgotten(log):
    """It is the highest index whose condemned chunks are gone."""
    horizons = []
    for fill in range(1, 5):
        gone(log, fill)
        pass_time(log, 1)
        pass_time(log, WEEK_S * 1000)
        horizons.append(log.ask(ListReferenceChanges(after_index=log.store.last_applied)).horizon)
    assert horizons == sorted(set(horizons))
    assert rows(log, "horizons") == 1


# --- orphans ------------------------------------------------------------------------------------------------------


def test_an_orphan_that_a_node_reports_is_condemned(log):
    """It never had a reference."""
    assert report(log, chunk(1), chunk(2)) == 2
    assert condemned(log) == dict.fromkeys((chunk(1), chunk(2)), log.store.last_applied)


def test_a_referenced_chunk_is_no_orphan(log):
    """Whatever the page said that the node read: what the log says at this entry counts. So do references that are kept."""
    put(log, "a")
    assert report(log, chunk(1), chunk(2)) == 1
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, HOUR_MS)
    assert report(log, chunk(1)) == 0
    assert list(condemned(log)) == [chunk(2)]


def test_a_chunk_that_was_condemned_after_it_was_stored_is_left_as_it_is(log):
    """It may go already. One that was stored again since needs another condemnation, at the very index, too."""
    report(log, chunk())
    index = log.store.last_applied
    assert report(log, chunk(), start_index=index - 1) == 0
    assert condemned(log) == {chunk(): index}
    assert report(log, chunk(), start_index=index) == 1
    assert condemned(log) == {chunk(): log.store.last_applied}


def test_a_chunk_that_is_reported_twice_in_one_entry_counts_with_the_higher_index(log):
    """The sum of all rows stays right."""
    report(log, chunk())
    index = log.store.last_applied
    command = CondemnChunks(digests=chunk() * 2, start_indexes=[index + 1, 1], stamp=stamp())
    assert log.apply(command)["condemned"] == 1
    log.store.close()
    verify(log.path)


def test_a_malformed_report_is_refused(log):
    """As many indexes as digests, and whole digests."""
    for digests, start_indexes in ((chunk() * 2, [1]), (chunk() + b"x", [1, 2])):
        with pytest.raises(InvalidRequestError):
            log.apply(CondemnChunks(digests=digests, start_indexes=start_indexes, stamp=stamp()))


# --- backups ------------------------------------------------------------------------------------------------------


def begin(log: Log, backup_id: str = "nightly", *, lease_s: int = DAY_S) -> dict:
    return log.apply(BeginBackup(backup_id=backup_id, owner="ops", lease_s=lease_s, stamp=stamp()), retain_s=0)


def test_a_backup_keeps_the_chunks_of_what_is_deleted_after_it_began(log):
    """For as long as it lives, however long ago that was; then they are condemned."""
    put(log, "a")
    index = begin(log, lease_s=3 * DAY_S)["log_index"]
    assert index == log.store.last_applied
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_MS)
    assert (condemned(log), rows(log, "chunk_refs")) == ({}, 1)
    assert log.apply(EndBackup(backup_id="nightly", stamp=stamp())) == {"ended": True}
    pass_time(log, 0)
    assert list(condemned(log)) == [chunk()]


def test_a_backup_keeps_nothing_that_was_deleted_before_it_began(log):
    """It would never need it."""
    put(log, "a")
    delete(log, "a")
    begin(log, lease_s=3 * DAY_S)
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    assert list(condemned(log)) == [chunk()]


def test_a_lease_that_ran_out_keeps_nothing(log):
    """At its end to the tick, by the log's own clock; then it is neither listed nor renewed."""
    put(log, "a")
    expires_ms = begin(log, lease_s=2 * DAY_S)["expires_ms"]
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, expires_ms - log.store.summary().lived_ms - 1)
    assert condemned(log) == {}
    [listed] = log.ask(ListBackups()).backups
    assert (listed.backup_id, listed.owner, listed.expires_in_s) == ("nightly", "ops", 0)
    pass_time(log, 1)
    assert list(condemned(log)) == [chunk()]
    assert log.ask(ListBackups()).backups == []
    assert rows(log, "backups") == 0
    with pytest.raises(BackupNotFoundError):
        log.apply(RenewBackup(backup_id="nightly", lease_s=DAY_S, stamp=stamp()))


def test_a_lease_that_is_renewed_goes_on_from_then(log):
    """Its index stays: it is the same backup."""
    put(log, "a")
    index = begin(log, lease_s=2 * DAY_S)["log_index"]
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    renewed = log.apply(RenewBackup(backup_id="nightly", lease_s=2 * DAY_S, stamp=stamp()))
    assert renewed == {"log_index": index, "expires_ms": log.store.summary().lived_ms + 2 * DAY_MS}
    pass_time(log, 2 * DAY_MS - 1)
    assert condemned(log) == {}
    pass_time(log, 1)
    assert list(condemned(log)) == [chunk()]


def test_the_oldest_of_several_backups_decides(log):
    """What was deleted between the two is needed by the first only."""
    put(log, "a", fill=1)
    begin(log, "first", lease_s=9 * DAY_S)
    delete(log, "a")
    begin(log, "second", lease_s=9 * DAY_S)
    put(log, "b", fill=2)
    delete(log, "b")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_MS)
    assert condemned(log) == {}
    log.apply(EndBackup(backup_id="first", stamp=stamp()))
    pass_time(log, 0)
    assert list(condemned(log)) == [chunk(1)]
    assert [backup.backup_id for backup in log.ask(ListBackups()).backups] == ["second"]


def test_beginning_and_ending_twice_changes_nothing(log):
    """So a caller that lost the answer asks again; one whose lease ran out begins anew."""
    first = begin(log)
    assert begin(log, lease_s=5 * DAY_S) == first
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    again = begin(log)
    assert again["log_index"] > first["log_index"]
    assert log.apply(EndBackup(backup_id="nightly", stamp=stamp()), request_id="e1") == {"ended": True}
    assert log.apply(EndBackup(backup_id="nightly", stamp=stamp()), request_id="e2") == {"ended": False}
    with pytest.raises(BackupNotFoundError):
        log.apply(RenewBackup(backup_id="nightly", lease_s=1, stamp=stamp()))


def test_backups_under_way_are_bounded(log):
    """One that was begun is begun again all the same."""
    for number in range(BACKUPS_MAX):
        begin(log, f"b{number}")
    with pytest.raises(ConflictError):
        begin(log, "one-more")
    begin(log, "b7")
    log.apply(EndBackup(backup_id="b7", stamp=stamp()))
    begin(log, "one-more")


# --- all together -------------------------------------------------------------------------------------------------


class RandomHistory:
    """Commands by chance, and what must hold after each.

    An upload is safe while no node may have deleted one of its chunks: its start index is above their last condemnations.
    """

    def __init__(self, log: Log, chance: random.Random) -> None:
        self._log = log
        self._chance = chance
        self._begun = [log.store.last_applied]
        self._referenced: set[bytes] = set()
        self._condemned: dict[bytes, int] = {}
        self.published = 0
        self.refused = 0

    def step(self) -> None:
        acts = [
            self._put,
            self._delete,
            self._report,
            self._begin_backup,
            self._end_backup,
            self._pass_time,
            self._begin,
        ]
        [act] = self._chance.choices(acts, [35, 15, 10, 5, 5, 20, 10])
        act()
        self._check()

    def _put(self) -> None:
        fill, start_index = self._chance.randrange(1, 6), self._chance.choice(self._begun)
        chunks = {chunk(fill, number) for number in range(2)}
        safe = all(self._condemned.get(digest, 0) < start_index for digest in chunks)
        command = publish(self._key(), content=content(1500, fill=fill), start_index=start_index)
        problem = self._log.propose(command, retain_s=0).problem
        if problem is None:
            assert safe, "an upload was published whose chunk may be deleted"
            self._referenced |= chunks
            self.published += 1
        else:
            assert problem["code"] == ChunkCondemnedError.code
            assert not safe or start_index <= problem["horizon"]
            self.refused += 1

    def _delete(self) -> None:
        self._log.propose(DeleteFile(bucket="default", key=self._key(), stamp=stamp()), retain_s=0)

    def _report(self) -> None:
        orphan = chunk(self._chance.randrange(1, 6), self._chance.randrange(3))
        report(self._log, orphan, start_index=self._chance.choice(self._begun))

    def _begin_backup(self) -> None:
        begin(self._log, self._chance.choice("xyz"), lease_s=self._chance.choice([600, DAY_S]))

    def _end_backup(self) -> None:
        self._log.apply(EndBackup(backup_id=self._chance.choice("xyz"), stamp=stamp()), retain_s=0)

    def _pass_time(self) -> None:
        command = PassTime(
            elapsed_ms=self._chance.choice([0, 1, 60_000, HOUR_MS]),
            cursor_retention_s=60,
            tombstone_retention_s=600,
            reference_retention_s=600,
            condemned_retention_s=4 * 3600,
            stamp=stamp(),
        )
        self._log.apply(command, retain_s=0)

    def _begin(self) -> None:
        """An upload reads its start index now, and is published whenever."""
        self._begun.append(self._log.store.last_applied)

    def _key(self) -> str:
        return f"{self._chance.randrange(6)}"

    def _check(self) -> None:
        for digest, index in condemned(self._log).items():
            if index == self._log.store.last_applied:
                assert referring_versions(self._log.store, digest) == [], "a referenced chunk was condemned"
            self._condemned[digest] = index
        for digest in self._referenced:
            is_known = digest in self._condemned or referring_versions(self._log.store, digest)
            assert is_known, "a chunk was dropped and not condemned"


@pytest.mark.parametrize("rows_max", [1, 7, 250])
def test_random_histories_condemn_exactly_what_nothing_refers_to(tmp_path, monkeypatch, rows_max):
    """No referenced chunk is condemned, none that lost its last reference is left out, no unsafe upload is published."""
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", rows_max)
    seed = draw_seed()
    print(f"seed {seed}")
    log = Log(tmp_path / "m", entry_version=3)
    history = RandomHistory(log, random.Random(seed))
    for _ in range(400):
        history.step()
    assert history.published
    # With few rows for each entry hardly anything is forgotten, so that nothing may have been refused.
    assert history.refused or rows_max < 250
    log.store.close()
    verify(log.path)
