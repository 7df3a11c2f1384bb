"""What is forgotten, when, in which portions, and what must outlive it."""

import random
from pathlib import Path

import pytest

from services.consensus.metadata import history, retention
from services.consensus.metadata.entries import GARBAGE_VERSION
from services.consensus.metadata.verification import verify
from shared.contracts.metadata import CreateBucket, DeleteBucket, DeleteFile, GetFile, ListFiles, PassTime
from shared.errors import CursorExpiredError
from tests.chance import draw_seed
from tests.unit.consensus.metadata.builders import CHUNK_SIZE_BYTES, Log, content, publish, referring_versions, stamp

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


def pass_time(log: Log, elapsed_ms: int, *, cursors_s: int = 900, tombstones_s: int = 86_400) -> dict:
    """Time passes, and everything that is then old enough is forgotten; the last result."""
    while True:
        command = PassTime(
            elapsed_ms=elapsed_ms, cursor_retention_s=cursors_s, tombstone_retention_s=tombstones_s, stamp=stamp()
        )
        result = log.apply(command, retain_s=0)
        elapsed_ms = 0
        if not result["has_more"]:
            return result


def rows(log: Log, table: str) -> int:
    [[count]] = log.store._reader.database.execute(f"SELECT count(*) FROM {table}")
    return count


def delete(log: Log, key: str) -> int:
    return log.apply(DeleteFile(bucket="default", key=key, stamp=stamp()))["version"]


def version_of(log: Log, key: str) -> tuple[int, int]:
    answer = log.ask(GetFile(bucket="default", key=key))
    return answer.version, answer.horizon


def test_a_list_can_be_pinned_until_its_retention_ends(log):
    """Fifteen minutes after the index was passed, and not a tick earlier, the cursor is too old."""
    log.apply(publish("a"))
    pinned = ListFiles(bucket="default", at_index=log.store.last_applied)
    log.apply(publish("a", etag="etag-2"))
    pass_time(log, 1)  # the first moment that knows of both
    pass_time(log, 15 * MINUTE_MS - 1)
    assert [file.etag for file in log.ask(pinned).files] == ["etag-1"]
    horizon = pass_time(log, 1)["horizon"]
    with pytest.raises(CursorExpiredError) as refused:
        log.ask(pinned)
    assert refused.value.facts == {"horizon": horizon}
    assert rows(log, "past") == 0
    assert [file.etag for file in log.ask(ListFiles(bucket="default", at_index=horizon)).files] == ["etag-2"]


def test_the_deletion_of_a_key_is_known_for_a_day(log):
    """Its 404 carries the version of the deletion; afterwards the horizon says what cannot be known any more."""
    log.apply(publish("a"))
    deleted = delete(log, "a")
    pass_time(log, 1)
    pass_time(log, DAY_MS - 1)
    assert version_of(log, "a") == (deleted, 0)
    pass_time(log, 1)
    version, horizon = version_of(log, "a")
    assert version == 0
    assert horizon >= deleted
    assert rows(log, "tombstones") == 0


def test_a_key_that_came_back_has_no_tombstone(log):
    """There is one for every absent key at most, and Last-Modified goes on from it."""
    log.apply(publish("a", stamp=stamp(100)))
    delete(log, "a")
    delete_again = log.propose(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert delete_again.problem["version"] == 3
    assert rows(log, "tombstones") == 1
    log.apply(publish("a", stamp=stamp(50)))
    assert rows(log, "tombstones") == 0
    assert log.ask(GetFile(bucket="default", key="a")).file.modified_ns == stamp(101).approximate_ns


def test_what_nothing_shows_any_more_gives_its_chunks_back(log):
    """The references of a superseded version stay as long as a list may show it, and no longer; a shared chunk stays."""
    log.apply(publish("a", content=content(2500, fill=1)), retain_s=0)
    log.apply(publish("b", content=content(2500, fill=1)), retain_s=0)
    log.apply(publish("a", content=content(2500, fill=2)), retain_s=0)
    shared = content(2500, fill=1).chunk_digests[:32]
    pass_time(log, 1)
    assert referring_versions(log.store, shared) == [2, 3]
    pass_time(log, 15 * MINUTE_MS)
    assert referring_versions(log.store, shared) == [3]
    assert (rows(log, "chunk_refs"), rows(log, "versions"), rows(log, "doomed")) == (6, 2, 0)


def test_a_remembered_request_keeps_its_version_and_nothing_else(log):
    """Its repeat is answered word for word after the version is gone from every list; then both go."""
    first = log.propose(publish("a"), request_id="once", retain_s=86_400)
    log.apply(publish("a", etag="etag-2"), retain_s=0)
    pass_time(log, 1)
    pass_time(log, 15 * MINUTE_MS)
    assert (rows(log, "past"), rows(log, "kept"), rows(log, "versions"), rows(log, "chunk_refs")) == (0, 1, 2, 1)
    assert log.propose(publish("a"), request_id="once") == first
    pass_time(log, DAY_MS - 15 * MINUTE_MS - 1)
    assert log.propose(publish("a"), request_id="once") == first
    pass_time(log, 1)
    assert (rows(log, "kept"), rows(log, "versions"), rows(log, "requests")) == (0, 1, 0)
    assert log.propose(publish("a"), request_id="once").log_index == log.store.last_applied


def test_a_present_version_outlives_its_request(log):
    """Forgetting a result takes nothing away that is there."""
    log.apply(publish("a"), request_id="once", retain_s=1)
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    assert rows(log, "requests") == 0
    assert log.ask(GetFile(bucket="default", key="a")).file.etag == "etag-1"


@pytest.mark.parametrize(
    ("asked_s", "kept_s"), [(1, 600), (600, 600), (601, 3600), (86_400, 86_400), (7 * 86_400, 7 * 86_400)]
)
def test_a_result_is_kept_at_least_as_long_as_asked_for(tmp_path, asked_s, kept_s):
    """Retentions are rounded up to a few."""
    log = Log(tmp_path / "m")
    first = log.propose(publish("a"), request_id="once", retain_s=asked_s)
    pass_time(log, 1)
    pass_time(log, kept_s * 1000 - 1)
    assert log.propose(publish("a"), request_id="once") == first
    pass_time(log, 1)
    assert log.propose(publish("a"), request_id="once") != first
    log.store.close()


def test_no_wall_clock_makes_anything_old(log):
    """Stamps a year ahead forget nothing: only time that a leader counted does."""
    first = log.propose(publish("a"), request_id="once")
    deleted = delete(log, "a")
    year = stamp(365 * 86_400)
    command = PassTime(elapsed_ms=1000, cursor_retention_s=900, tombstone_retention_s=900, stamp=year)
    assert log.apply(command, retain_s=0)["forgotten"] == 0
    assert log.propose(publish("a"), request_id="once") == first
    assert version_of(log, "a")[0] == deleted


def test_time_that_nobody_counted_has_not_passed(log):
    """A leader begins with 0: what passed while there was none makes nothing older, and nothing younger."""
    log.apply(publish("a"))
    log.apply(publish("a", etag="etag-2"))
    for _ in range(5):
        assert pass_time(log, 0)["lived_ms"] == 0
    assert pass_time(log, 15 * MINUTE_MS)["horizon"] == 0
    assert rows(log, "past") == 1


def test_the_horizon_never_goes_back(log):
    """A leader with a longer retention cannot promise what is forgotten already."""
    log.apply(publish("a"))
    pass_time(log, 1)
    horizon = pass_time(log, 15 * MINUTE_MS)["horizon"]
    assert horizon > 0
    assert pass_time(log, 1000, cursors_s=86_400)["horizon"] == horizon


def test_the_horizon_of_deletions_never_goes_back(log):
    """An absent key's version is 0 once its deletion was forgotten, and must not be said to be known again."""
    log.apply(publish("a"))
    delete(log, "a")
    pass_time(log, 1)
    pass_time(log, DAY_MS)
    _, horizon = version_of(log, "a")
    assert horizon > 0
    pass_time(log, 1000, tombstones_s=30 * 86_400)
    assert version_of(log, "a") == (0, horizon)


def test_the_clock_of_the_log_never_goes_back(log):
    """Whatever a leader proposes."""
    log.apply(publish("a"))
    lived_ms = pass_time(log, 1000)["lived_ms"]
    assert pass_time(log, -500)["lived_ms"] == lived_ms
    assert pass_time(log, 1)["lived_ms"] == lived_ms + 1


@pytest.mark.parametrize("seconds", [-5, 0, 1 << 62])
@pytest.mark.parametrize("elapsed_ms", [-5, 1 << 62])
def test_numbers_beyond_reason_stop_nobody(log, seconds, elapsed_ms):
    """An entry that no column could hold would stop every member at the same place."""
    for _ in range(3):
        command = PassTime(
            elapsed_ms=elapsed_ms, cursor_retention_s=seconds, tombstone_retention_s=seconds, stamp=stamp()
        )
        log.apply(command)


def test_one_entry_forgets_a_bounded_number_of_rows(tmp_path, monkeypatch):
    """A large expiry is cut into slices, chunk references of one large file included, and says when it is done."""
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 10)
    log = Log(tmp_path / "m")
    log.apply(publish("large", content=content(35_000)), retain_s=0)
    for number in range(12):
        log.apply(publish(f"{number}", content=content(0)), retain_s=600)
    delete(log, "large")
    for number in range(12):
        delete(log, f"{number}")
    log.apply(PassTime(elapsed_ms=1, cursor_retention_s=900, tombstone_retention_s=900, stamp=stamp()), retain_s=0)
    slices, elapsed_ms, left = 0, DAY_MS, None
    while left is None or left["has_more"]:
        before = sum(rows(log, table) for table in ("past", "tombstones", "requests", "chunk_refs", "versions"))
        command = PassTime(elapsed_ms=elapsed_ms, cursor_retention_s=900, tombstone_retention_s=900, stamp=stamp())
        left, elapsed_ms = log.apply(command, retain_s=0), 0
        after = sum(rows(log, table) for table in ("past", "tombstones", "requests", "chunk_refs", "versions"))
        # A row that goes may take its version's row with it.
        assert 0 <= before - after <= 20
        slices += 1
    assert slices >= (13 + 13 + 25 + 35) / 10
    for table in ("past", "tombstones", "requests", "chunk_refs", "versions", "doomed", "kept", "files"):
        assert rows(log, table) == 0, table
    log.store.close()
    verify(log.path)


@pytest.mark.parametrize(("forgotten_max", "forgotten"), [(None, 251), (64, 64), (1, 1), (-5, 1), ((1 << 64) - 1, 403)])
def test_an_entry_forgets_as_much_as_it_says(tmp_path, forgotten_max, forgotten):
    """One of an older version as much as then; whatever it says stops nobody."""
    log = Log(tmp_path / "m", entry_version=5)
    for number in range(101):
        log.apply(publish(f"{number}", content=content(1, fill=number)), retain_s=0)
        delete(log, f"{number}")
    retentions = {"cursor_retention_s": 0, "tombstone_retention_s": 900, "reference_retention_s": 0}
    log.apply(PassTime(elapsed_ms=1, forgotten_max=1, **retentions, stamp=stamp()), retain_s=0)
    command = PassTime(elapsed_ms=1, forgotten_max=forgotten_max, **retentions, stamp=stamp())
    assert log.apply(command, retain_s=0)["forgotten"] == forgotten


def test_a_deleted_bucket_is_forgotten_with_its_lists(log):
    """As long as a list can be pinned to it, it is there."""
    made = log.apply(CreateBucket(bucket="photos", stamp=stamp()))["incarnation"]
    log.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    pass_time(log, 1)
    assert log.ask(ListFiles(bucket="photos", at_index=made)).has_bucket
    pass_time(log, 15 * MINUTE_MS)
    assert rows(log, "buckets") == 1


def test_the_moments_do_not_pile_up(log):
    """What is older than the longest retention needs one moment, not all."""
    for _ in range(30):
        pass_time(log, DAY_MS)
    assert rows(log, "moments") <= 9
    assert log.store._reader.database.one("SELECT max(lived_ms) FROM moments") == (30 * DAY_MS,)


def test_the_horizon_survives_a_copy(log, tmp_path):
    """A member that begins with a copy knows what is forgotten, and forgets what is next at the same entry."""
    from services.consensus.metadata.copy import write_copy
    from services.consensus.metadata.store import MetadataStore

    log.apply(publish("a"))
    log.apply(publish("a", etag="etag-2"))
    pass_time(log, 1)
    pass_time(log, 10 * MINUTE_MS)
    write_copy(log.path, tmp_path / "copy")
    copied = Log.__new__(Log)
    copied.path, copied.store = tmp_path / "copy", MetadataStore.open(tmp_path / "copy")
    assert pass_time(copied, 5 * MINUTE_MS) == pass_time(log, 5 * MINUTE_MS)
    assert copied.store.state_hash() == log.store.state_hash()
    copied.store.close()


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_rows_that_a_pinned_list_must_not_show_end_its_page_early(tmp_path, monkeypatch, limit):
    """A page walks over a bounded number of dead rows, and all pages together are still the whole list as of its index."""
    monkeypatch.setattr(history, "SCAN_ROWS_MAX", 7)
    seed = draw_seed()
    print(f"seed {seed}")
    chance = random.Random(seed)
    log, present = Log(tmp_path / "m"), {}
    for _ in range(150):
        key = f"{chance.choice('ab')}/{chance.randrange(30):02}"
        if key in present and chance.random() < 0.6:
            delete(log, key)
            del present[key]
        else:
            log.apply(publish(key))
            present[key] = log.store.last_applied
    at_index = log.store.last_applied
    for key in list(present)[::2]:
        log.apply(publish(key, etag="later"))
    for delimiter in (None, "/"):
        shown, prefixes, pages, query = [], [], 0, {"after_key": None, "after_prefix": None}
        while True:
            page = log.ask(ListFiles(bucket="default", limit=limit, at_index=at_index, delimiter=delimiter, **query))
            shown += [(file.key, file.version) for file in page.files]
            prefixes += page.prefixes
            pages += 1
            if not page.has_more:
                break
            query = {"after_key": page.last_key, "after_prefix": page.last_prefix}
        if delimiter is None:
            assert shown == sorted(present.items())
            assert pages > 150 / 7 / 4
        else:
            assert prefixes == sorted({key[:2] for key in present})
            assert shown == []
    log.store.close()


def test_versions_that_go_at_once_go_as_they_would_one_by_one(tmp_path, monkeypatch):
    """Files share chunks, some have more than one entry may drop, and some results are remembered: the same rows stay."""
    seed = draw_seed()
    at_once = states_after_random_deletions(tmp_path / "at-once.sqlite", seed)
    monkeypatch.setattr(retention.Sweep, "_plain_bodies", lambda *_: {})
    assert states_after_random_deletions(tmp_path / "one-by-one.sqlite", seed) == at_once


def states_after_random_deletions(path: Path, seed: int) -> list[tuple[int, bool]]:
    """The sum over all rows after every entry that forgets, and whether it left more."""
    log, chance = Log(path, entry_version=GARBAGE_VERSION), random.Random(seed)
    states = []
    for _ in range(600):
        key, action = f"k{chance.randrange(12)}", chance.random()
        if action < 0.6:
            digests = b"".join(
                chance.randrange(40).to_bytes(32) for _ in range(chance.choice([1, 2, 40, 50, 50, 50, 50, 300]))
            )
            made = content(CHUNK_SIZE_BYTES * (len(digests) // 32)).model_copy(update={"chunk_digests": digests})
            published = publish(key, content=made, start_index=log.store.last_applied)
            log.propose(published, retain_s=chance.choice([0, 600]))
        elif action < 0.9:
            log.propose(DeleteFile(bucket="default", key=key, stamp=stamp()), retain_s=chance.choice([0, 600]))
        else:
            command = PassTime(
                elapsed_ms=chance.choice([0, 1000, 60_000]),
                cursor_retention_s=30,
                tombstone_retention_s=300,
                reference_retention_s=chance.choice([0, 30]),
                condemned_retention_s=600,
                stamp=stamp(),
            )
            result = log.apply(command, retain_s=0)
            states.append((log.store.summary().content_sum, result["has_more"]))
    log.store.close()
    return states
