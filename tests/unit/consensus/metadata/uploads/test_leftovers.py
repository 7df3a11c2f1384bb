"""What uploads and files of parts leave, and when it is gone."""

from __future__ import annotations

from services.consensus.metadata import retention
from shared.contracts.backups import BeginBackup, EndBackup
from shared.errors import ChunkCondemnedError, UploadNotFoundError
from tests.unit.consensus.metadata.builders import stamp
from tests.unit.consensus.metadata.upload_builders import (
    DAY_S,
    LEFTOVERS,
    UploadOf,
    count,
    delete,
    large_content,
    pass_time,
    put_large,
    read_pieces,
    refused,
    rows,
    shown_of,
)


def test_an_aborted_upload_keeps_its_chunks_for_a_while(log):
    """As everything that is removed for good does; then nothing is left of it, and its chunks are condemned."""
    upload = UploadOf.begin(log)
    upload.put(1, large_content(5))
    upload.put(2, large_content(5, fill=2))
    assert upload.abort() == {"aborted": True}
    refused(log, UploadNotFoundError, upload.abort)
    refused(log, UploadNotFoundError, upload.complete)
    refused(log, UploadNotFoundError, upload.put, 3, large_content(1))
    pass_time(log, 1)
    assert count(log, "chunk_refs") == 10
    pass_time(log, DAY_S)
    assert (rows(log), count(log, "condemned")) == (dict.fromkeys(LEFTOVERS, 0), 10)


def test_an_upload_expires_by_the_clock_of_the_log(log):
    """After its lifetime, not before; then it is aborted and goes as such. Without one it never does."""
    upload, other = UploadOf.begin(log, lifetime_s=100), UploadOf.begin(log, lifetime_s=None)
    upload.put(1, large_content(1))
    pass_time(log, 99)
    assert upload.ask().upload is not None
    pass_time(log, 1)
    assert upload.ask().upload is None
    refused(log, UploadNotFoundError, upload.complete)
    assert count(log, "chunk_refs") == 1
    pass_time(log, DAY_S)
    assert (count(log, "chunk_refs"), count(log, "uploads")) == (0, 1)
    pass_time(log, 1000 * DAY_S)
    assert other.ask().upload is not None


def test_a_part_may_keep_its_upload_alive_and_never_shortens_its_life(log):
    """So what a lost gateway leaves of a long body goes soon, and a body that goes on for days is not given up."""
    upload = UploadOf.begin(log, lifetime_s=100, is_internal=True)
    pass_time(log, 60)
    upload.put(1, large_content(1), keep_s=100)
    pass_time(log, 99)
    upload.put(2, large_content(1, fill=2), keep_s=1)
    pass_time(log, 1)
    assert upload.ask().upload is None, "the second part left it as it was"
    long, endless = UploadOf.begin(log, lifetime_s=100), UploadOf.begin(log, lifetime_s=None)
    long.put(1, large_content(1))
    endless.put(1, large_content(1), keep_s=1)
    pass_time(log, 100)
    assert (long.ask().upload is None, endless.ask().upload is None) == (True, False)


def test_nothing_is_left_of_a_deleted_file_of_parts(log):
    """Version, composition, manifests and references, in one entry or in many; its chunks are condemned."""
    put_large(log, "a", [large_content(5, fill=fill) for fill in range(1, 5)])
    delete(log)
    pass_time(log, 1)
    pass_time(log, DAY_S)
    left = rows(log)
    assert left.pop("uploads") == 1  # it answers for a week
    assert (left, count(log, "condemned")) == (dict.fromkeys(left, 0), 20)
    pass_time(log, 7 * DAY_S)
    assert rows(log) == dict.fromkeys(LEFTOVERS, 0)


def test_a_file_of_many_parts_goes_a_few_rows_at_a_time(log, monkeypatch):
    """So that no entry takes long; every slice leaves whole rows."""
    upload = UploadOf.begin(log)
    for number in range(1, 8):
        upload.put(number, large_content(5, fill=number))
    upload.complete([2, 3, 5])
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 3)
    pass_time(log, 1)
    entries = pass_time(log, DAY_S)
    assert entries > 10
    assert (count(log, "manifests"), count(log, "manifest_refs"), count(log, "parts")) == (3, 3, 0)
    delete(log)
    pass_time(log, 1)
    assert pass_time(log, DAY_S) > 5
    assert count(log, "condemned") == 35
    pass_time(log, 7 * DAY_S)
    assert rows(log) == dict.fromkeys(LEFTOVERS, 0)


def test_files_of_many_pieces_and_few_manifests_go_one_at_a_time(log, monkeypatch):
    """Their compositions are read to be dropped, and those of their parts, too."""
    put_large(log, "source", [large_content(5, fill=1)])
    for file in range(6):
        upload = UploadOf.begin(log, f"file-{file}")
        for number in range(1, 5):
            upload.copy(number, "source")
        upload.complete()
        delete(log, f"file-{file}")
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 8)
    monkeypatch.setattr(retention, "PIECES_PER_ROW", 1)
    monkeypatch.setattr(retention, "PART_BYTES_PER_ROW", 8)
    for seconds in (1, DAY_S, *[0] * 150):
        before = count(log, "compositions"), count(log, "parts")
        pass_time(log, seconds, entries=1)
        after = count(log, "compositions"), count(log, "parts")
        assert max(was - left for was, left in zip(before, after, strict=True)) <= 2
    assert (count(log, "compositions"), count(log, "parts")) == (1, 0)


def test_a_backup_pins_what_uploads_give_up(log):
    """Aborted, replaced, left out or deleted after it began: kept until it ends."""
    aborted, completed = UploadOf.begin(log, "aborted"), UploadOf.begin(log, "completed")
    aborted.put(1, large_content(5, fill=1))
    completed.put(1, large_content(5, fill=2))
    completed.put(1, large_content(5, fill=3))
    completed.put(2, large_content(5, fill=4))
    log.apply(BeginBackup(backup_id="nightly", owner="ops", lease_s=30 * DAY_S, stamp=stamp()), retain_s=0)
    aborted.abort()
    completed.put(2, large_content(5, fill=5))
    completed.put(3, large_content(5, fill=6))
    completed.complete([1])
    delete(log, "completed")
    pass_time(log, 1)
    pass_time(log, 2 * DAY_S)
    # The one that was replaced before it began was on its way already.
    assert (count(log, "chunk_refs"), count(log, "condemned")) == (25, 5)
    log.apply(EndBackup(backup_id="nightly", stamp=stamp()), retain_s=0)
    pass_time(log, DAY_S)
    assert (count(log, "chunk_refs"), count(log, "condemned")) == (0, 30)


def test_the_same_chunks_put_again_while_their_manifest_is_doomed_are_another_manifest(log, monkeypatch):
    """The doomed one loses its references and the new one has its own: the chunks are not condemned."""
    upload, part = UploadOf.begin(log, lifetime_s=None), large_content(8)
    upload.put(1, part)
    upload.put(1, large_content(1, fill=2))
    pass_time(log, 1)
    monkeypatch.setattr(retention, "FORGET_ROWS_MAX", 4)
    began = log.store.last_applied
    assert pass_time(log, DAY_S, entries=2) == 2
    assert count(log, "doomed") == 1
    assert 0 < count(log, "condemned") < 8
    refused(log, ChunkCondemnedError, upload.put, 2, part, start_index=began)
    upload.put(2, part)
    pass_time(log, 0)
    assert (count(log, "manifests"), count(log, "doomed")) == (2, 0)
    assert read_pieces(log, upload.complete([2])["version"]["version"]) == shown_of(part)
