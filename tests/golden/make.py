"""Writes what this version of Trivet leaves on a member's disk, for every later version to read.

`python -m tests.golden.make NAME` makes `tests/golden/NAME/`: run it once for a version whose formats changed, commit the folder,
never change it again. `tests/unit/consensus/persistence/test_golden_files.py` reads all of them.

    entries.json    one payload of every kind of command, in the order in which they are applied from an empty state
    member/         log (cut once), term and vote, disk ids and tables of a member that applied them
    backup/         a backup of those tables
    expected.json   what a reader must find
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from services.consensus.metadata.copy import write_copy
from services.consensus.metadata.entries import encode_proposal
from services.consensus.metadata.schema import CHECKED_TABLES
from services.consensus.metadata.store import MetadataStore
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.persistence.adapter import committed_entries
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.ports import Entry, EntryKind
from services.consensus.rescue.backup_files import METADATA_NAME, complete_backup
from shared.cluster_keys import seals_of_0_2_0
from shared.contracts.access import (
    Action,
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    IdentityLimits,
    InitAccess,
    ListAccessChanges,
    RecordKeyUse,
    Requester,
    Scope,
    SealedSecret,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.audit import ListAudit
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.cluster import ConsensusMember, NodeState
from shared.contracts.files import Durability, FileContent, Preconditions
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    AnyCommand,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    GetFile,
    InitCluster,
    ListFiles,
    PassTime,
    Proposal,
    RaiseEntryVersion,
    RecordRun,
    RemovalProof,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.objects import (
    BucketSettings,
    CopyFile,
    CountObjects,
    DeleteBucketDocument,
    DeleteFiles,
    FileToDelete,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.references import CondemnChunks
from shared.contracts.s3 import S3Attributes, S3UploadAttributes
from shared.contracts.time import ClockState, Stamp
from shared.contracts.uploads import AbortUpload, BeginUpload, CompleteUpload, CopyPart, ListUploads, PutPart
from shared.contracts.usage import GetUsage
from shared.units import MIB
from tests.unit.consensus.metadata.builders import content, publish, run, stamp

FOLDER = Path(__file__).parent
CUT_AT = 6
KEYS = seals_of_0_2_0("golden" * 6)
MEMBERS = tuple(ConsensusMember(id=f"consensus-{n}", url=f"http://h{n}:1", peer_address=f"h{n}:2") for n in (1, 2, 3))
RETENTIONS = {
    "cursor_retention_s": 900,
    "tombstone_retention_s": 86_400,
    "reference_retention_s": 1800,
    "condemned_retention_s": 3600,
}
AUDIT = {"audit_retention_s": 3600, "audit_limit_bytes": 1000}


def commands() -> list[tuple[AnyCommand, dict[str, Any]]]:
    """Every kind, so that every table has a row in the end; with the fields of their proposals."""
    synced = Stamp(
        earliest_ns=1_700_000_000_000_000_000, latest_ns=1_700_000_000_000_500_000, hlc=7 << 40, state=ClockState.SYNCED
    )
    before = [
        (InitCluster(cluster_id="golden-cluster", admitted_nodes=["storage-1", "storage-2"], stamp=stamp()), {}),
        (CreateBucket(bucket="photos", stamp=stamp(2)), {}),
        (
            publish("ä/b", incarnation=2, content=content(2500), stamp=synced, epoch=2),
            {"fingerprint": "f", "retain_s": 86_400},
        ),
        (publish("gone", bucket="photos", incarnation=3, epoch=2), {}),
        (DeleteFile(bucket="photos", key="gone", stamp=stamp(3)), {}),
        (publish("refused", incarnation=2, if_match=["*"], epoch=2), {}),
        (AdmitNode(node_id="storage-3", stamp=stamp()), {}),
        (UpdateNode(node_id="storage-3", url="http://s3", zone="z", capacity_bytes=5, stamp=stamp()), {}),
        (SetNodeState(node_id="storage-3", state=NodeState.DRAINING, stamp=stamp()), {}),
        (RemoveNode(node_id="storage-3", stamp=stamp()), {}),
        (DeleteBucket(bucket="photos", stamp=stamp()), {}),
        (AnnounceMember(member_id="consensus-1", entry_version=1, stamp=stamp()), {}),
        (RaiseEntryVersion(entry_version=1, stamp=stamp()), {}),
        (PassTime(elapsed_ms=1, cursor_retention_s=900, tombstone_retention_s=86_400, stamp=stamp()), {"retain_s": 0}),
        (publish("ä/b", incarnation=2, content=content(3500, fill=2), etag="etag-2", if_match=["etag-1"], epoch=2), {}),
        (PassTime(elapsed_ms=1, cursor_retention_s=900, tombstone_retention_s=86_400, stamp=stamp()), {"retain_s": 0}),
        (
            PassTime(elapsed_ms=900_000, cursor_retention_s=900, tombstone_retention_s=86_400, stamp=stamp()),
            {"retain_s": 0},
        ),
        (publish("ä/b", incarnation=2, content=content(1, fill=3), etag="etag-3", epoch=2), {}),
        (CreateBucket(bucket="videos", limit=100, stamp=stamp()), {}),
        (RecordRun(node_id="storage-1", run=run(redis_id="c" * 32), stamp=stamp()), {}),
        (RecordRun(node_id="storage-1", run=run(boot_id="e" * 32, counter=2), stamp=stamp()), {}),
        (publish("fenced", incarnation=2, epoch=6, fences={"storage-1": 1, "storage-2": 2}), {}),
        (RecordRun(node_id="storage-1", run=run(boot_id="f" * 32, disk_id="a" * 32), stamp=stamp()), {}),
        (publish("replaced", incarnation=2, epoch=6, fences={"storage-1": 1}), {"fingerprint": "f"}),
        (CreateBucket(bucket="music", stamp=stamp()), {}),
        (DeleteBucket(bucket="music", stamp=stamp()), {}),
        *_garbage_commands(),
    ]
    return [*before, *_object_commands(len(before)), *_paced_commands()]


def _paced_commands() -> list[tuple[AnyCommand, dict[str, Any]]]:
    """What came with entries of version 5."""
    return [
        (AnnounceMember(member_id="consensus-1", entry_version=5, stamp=stamp()), {}),
        (RaiseEntryVersion(entry_version=5, stamp=stamp()), {}),
        (PassTime(**RETENTIONS, **AUDIT, elapsed_ms=1, forgotten_max=64, stamp=stamp()), {"retain_s": 0}),
    ]


def _garbage_commands() -> list[tuple[AnyCommand, dict[str, Any]]]:
    """Those that came with entries of version 3; in the end every table of theirs has a row."""
    orphan = content(1, fill=7).chunk_digests
    return [
        (AnnounceMember(member_id="consensus-1", entry_version=3, stamp=stamp()), {}),
        (RaiseEntryVersion(entry_version=3, stamp=stamp()), {}),
        (AdmitNode(node_id="storage-4", stamp=stamp()), {}),
        (UpdateNode(node_id="storage-4", url="http://s4", zone="z", capacity_bytes=5, stamp=stamp()), {}),
        (SetNodeState(node_id="storage-4", state=NodeState.SUSPECT, seen=NodeState.ACTIVE, stamp=stamp()), {}),
        (SetNodeState(node_id="storage-4", state=NodeState.INACTIVE, seen=NodeState.ACTIVE, stamp=stamp()), {}),
        (CondemnChunks(digests=orphan, start_indexes=[9], stamp=stamp()), {}),
        (publish("too-early", incarnation=2, content=content(1, fill=7), start_index=9, epoch=9), {}),
        (PassTime(elapsed_ms=1, **RETENTIONS, stamp=stamp()), {"retain_s": 0}),
        (PassTime(elapsed_ms=3_600_000, **RETENTIONS, stamp=stamp()), {"retain_s": 0}),
        (publish("below-the-horizon", incarnation=2, content=content(1, fill=8), start_index=9, epoch=9), {}),
        (BeginBackup(backup_id="nightly", owner="ops", lease_s=86_400, stamp=stamp()), {}),
        (RenewBackup(backup_id="nightly", lease_s=172_800, stamp=stamp()), {}),
        (BeginBackup(backup_id="weekly", owner="ops", lease_s=86_400, stamp=stamp()), {}),
        (EndBackup(backup_id="weekly", stamp=stamp()), {}),
        (CondemnChunks(digests=orphan, start_indexes=[50], stamp=stamp()), {}),
        (publish("short", incarnation=2, content=content(1500, fill=9), start_index=44, epoch=9), {}),
        (DeleteFile(bucket="default", key="short", stamp=stamp()), {}),
        (PassTime(elapsed_ms=1, **RETENTIONS, stamp=stamp()), {"retain_s": 0}),
        (PassTime(elapsed_ms=900_000, **RETENTIONS, stamp=stamp()), {"retain_s": 0}),
        (publish("late", incarnation=2, content=content(1, fill=10), start_index=48, epoch=9), {}),
        (DeleteFile(bucket="default", key="late", stamp=stamp()), {}),
        (DrainNode(node_id="storage-4", min_left=3, stamp=stamp()), {}),
        (DrainNode(node_id="storage-4", stamp=stamp()), {}),
        (
            publish(
                "draining",
                incarnation=2,
                epoch=12,
                start_index=50,
                durability=Durability(target=3, acknowledged=1, nodes=["storage-4"]),
            ),
            {"fingerprint": "f", "attempt_id": "a1"},
        ),
        (RemoveNode(node_id="storage-4", stamp=stamp()), {}),
        (RemoveNode(node_id="storage-4", proof=RemovalProof(log_index=53, epoch=10, incarnation=8), stamp=stamp()), {}),
        (RemoveNode(node_id="storage-4", proof=RemovalProof(log_index=53, epoch=11, incarnation=8), stamp=stamp()), {}),
        (RemoveNode(node_id="storage-2", is_forced=True, stamp=stamp()), {}),
        (DrainNode(node_id="storage-1", stamp=stamp()), {}),
    ]


def _object_commands(before: int) -> list[tuple[AnyCommand, dict[str, Any]]]:
    """Those that came with entries of version 4; in the end every table of theirs has a row."""
    first = before + 3  # the membership and a no-op stand before them, and indexes begin at 1
    stored = {
        "incarnation": 2,
        "start_index": first,
        "epoch": 100,
        "durability": Durability(target=3, acknowledged=1, nodes=["storage-5"]),
    }
    part = {name: value for name, value in stored.items() if name != "incarnation"}
    large = FileContent(
        size_bytes=5 * MIB, chunk_size_bytes=MIB, chunk_digests=bytes(range(5 * DIGEST_BYTES)), digest="d5" * 32
    )
    nonces = ["1" * 32, "2" * 32, "3" * 32]
    settings = BucketSettings(versioning="enabled", superseded_retention_s=3600, quota_bytes=10**9, quota_files=100)
    suspended = BucketSettings(versioning="suspended", superseded_retention_s=7200)
    copied = {"bucket": "default", "source_bucket": "default", "stamp": stamp()}
    # The document that says who may do what of the bucket is the newest change of that.
    ann = Requester(
        principal="a" * 64, key="TV" + "A" * 18, access_index=first + 5, request="request-ä", address="192.0.2.7"
    )
    deleted = [
        FileToDelete(key="v/c"),
        FileToDelete(key="none"),
        FileToDelete(key="\0"),
        FileToDelete(key="ä/b", version=1),
    ]
    objects = [
        (AnnounceMember(member_id="consensus-1", entry_version=4, stamp=stamp()), {}),
        (RaiseEntryVersion(entry_version=4, stamp=stamp()), {}),
        (AdmitNode(node_id="storage-5", stamp=stamp()), {}),
        (UpdateNode(node_id="storage-5", url="http://s5", zone="z", capacity_bytes=5, stamp=stamp()), {}),
        (PutBucketSettings(bucket="default", settings=settings, stamp=stamp()), {}),
        (PutBucketDocument(bucket="default", kind_name="policy", body=b"{}\xff", stamp=stamp()), {}),
        (PutBucketDocument(bucket="default", kind_name="cors", body=b"", stamp=stamp()), {}),
        (DeleteBucketDocument(bucket="default", kind_name="cors", stamp=stamp()), {}),
        (publish("v/a", **stored, content=content(2500, fill=11), tags={"colour": "red"}), {"retain_s": 86_400}),
        (publish("v/a", **stored, content=content(1500, fill=12), etag="etag-2"), {}),
        (DeleteFile(bucket="default", key="v/a", stamp=stamp()), {}),
        (DeleteFile(bucket="default", key="v/a", version=first + 9, stamp=stamp()), {}),
        (DeleteFile(bucket="default", key="v/a", version=first + 10, stamp=stamp()), {"retain_s": 86_400}),
        (SetTags(bucket="default", key="v/a", tags={"colour": "blue"}, stamp=stamp()), {}),
        (CopyFile(key="v/b", source_key="v/a", content_type="image/png", **copied), {"retain_s": 86_400}),
        (CopyFile(key="v/c", source_key="v/b", is_move=True, **copied), {"requester": ann}),
        (CopyFile(key="v/c", source_key="v/c", **copied), {}),
        (DeleteFiles(bucket="default", files=deleted, stamp=stamp()), {"retain_s": 86_400, "requester": ann}),
        (PutBucketSettings(bucket="default", settings=suspended, stamp=stamp()), {}),
        (publish("v/d", **stored, content=content(1, fill=13)), {"requester": ann}),
        (publish("v/d", **stored, content=content(1, fill=14)), {}),
        (PutBucketSettings(bucket="default", settings=BucketSettings(), stamp=stamp()), {}),
        (_begin("parts", nonces[0]), {}),
        (PutPart(upload=first + 22, nonce=nonces[0], number=1, content=large, **part, stamp=stamp()), {}),
        (
            PutPart(
                upload=first + 22, nonce=nonces[0], number=2, content=content(1500, fill=15), **part, stamp=stamp()
            ),
            {},
        ),
        (
            CompleteUpload(upload=first + 22, nonce=nonces[0], parts=[(1, "d5" * 32), (2, "0f" * 32)], stamp=stamp()),
            {"retain_s": 86_400},
        ),
        (_begin("open", nonces[1]), {}),
        (
            CopyPart(
                upload=first + 26,
                nonce=nonces[1],
                number=7,
                source_bucket="default",
                source_key="parts",
                range_start=MIB + 5,
                range_end=3 * MIB,
                stamp=stamp(),
            ),
            {},
        ),
        (_begin("aborted", nonces[2]), {}),
        (
            AbortUpload(upload=first + 28, nonce=nonces[2], stamp=stamp()),
            {"requester": Requester(principal="anonymous")},
        ),
        (CopyFile(key="parts again", source_key="parts", user_metadata={"n": "1"}, **copied), {}),
    ]
    objects += _s3_commands(first + len(objects), stored, part, large)
    time_passes = PassTime(**RETENTIONS, **AUDIT, elapsed_ms=1, stamp=stamp())
    return [*objects, *_access_commands(first + len(objects)), (time_passes, {"retain_s": 0})]


def _s3_commands(
    first: int, stored: dict[str, Any], part: dict[str, Any], large: FileContent
) -> list[tuple[AnyCommand, dict[str, Any]]]:
    """What only S3 shows, of versions, parts and uploads, and keys that only S3 has."""
    s3 = S3Attributes(
        etag="5" * 32,
        checksums={"crc64nvme": "rosUhgp5mIg="},
        headers={"content-encoding": "gzip"},
        storage_class="STANDARD_IA",
    )
    of_upload = S3UploadAttributes(checksum="crc32c", headers={"expires": "never"}, storage_class="GLACIER")
    of_parts = S3Attributes(etag=f"{'6' * 32}-2", checksum_type="COMPOSITE", part_sizes=[(5 * MIB, 1), (1500, 1)])
    nonce = "4" * 32
    of_upload_4 = {"upload": first + 7, "nonce": nonce, "stamp": stamp()}
    copied = {"bucket": "default", "source_bucket": "default", "source_key": "s3/a", "stamp": stamp()}
    return [
        (publish("s3/a", **stored, content=content(1500, fill=16), s3=s3, stamp=stamp(5)), {"retain_s": 86_400}),
        (publish("s3/a", **stored, content=content(1500, fill=17), s3=s3, if_match=["5" * 32], stamp=stamp(5)), {}),
        (publish("s3/a", **stored, content=content(1, fill=18), if_match=["6" * 32]), {}),
        (CopyFile(key="s3/b", s3=S3Attributes(headers={"expires": "never"}), **copied), {"retain_s": 86_400}),
        (publish("../\x01", **stored, content=content(1, fill=19)), {}),
        (publish("\0", **stored, content=content(1, fill=20)), {}),
        (
            DeleteFile(
                bucket="default", key="../\x01", preconditions=Preconditions(if_match=["etag-1-0"]), stamp=stamp()
            ),
            {},
        ),
        (_begin("s3/parts", nonce, of_upload), {}),
        (PutPart(**of_upload_4, number=1, content=large, **part, s3=S3Attributes(etag="7" * 32)), {}),
        (CopyPart(**of_upload_4, number=2, source_bucket="default", source_key="s3/a"), {"retain_s": 86_400}),
        (CompleteUpload(**of_upload_4, parts=[(1, "7" * 32), (2, "5" * 32)], s3=of_parts), {"retain_s": 86_400}),
        (_begin("s3/open", "5" * 32, of_upload), {}),
        (
            PutPart(
                upload=first + 11,
                nonce="5" * 32,
                number=1,
                content=content(1, fill=21),
                **part,
                s3=S3Attributes(etag="8" * 32),
                stamp=stamp(),
            ),
            {},
        ),
    ]


def _access_commands(first: int) -> list[tuple[AnyCommand, dict[str, Any]]]:
    """Identities and keys, with deleted ones, and changes that name whom they are made for."""
    root, reader, gone = "1" * 64, "2" * 64, "3" * 64
    keys = ["TV" + letter * 18 for letter in "ABCD"]
    secret = SealedSecret(sealing_key="5ea11e4d", sealed=bytes(range(28)), bearer_mac=bytes(32))
    scope = Scope(actions=[Action.READ, Action.LIST], bucket="default", prefix="v/")
    limits = IdentityLimits(quota_bytes=10**9, requests_per_s=5)
    last_change = first + 14
    by_root = Requester(principal=root, key=keys[0], access_index=last_change, request="r1", address="10.0.0.1")
    # What was known then is older than everything about it.
    by_reader = Requester(principal=reader, access_index=1)
    return [
        (CreateIdentity(identity=root, name="too early", is_root=True, stamp=stamp()), {}),
        (InitAccess(realm="4e" * 16, stamp=stamp()), {}),
        (InitAccess(realm="5e" * 16, stamp=stamp()), {}),
        (CreateIdentity(identity=root, name="root", is_root=True, stamp=stamp()), {}),
        (CreateKey(key=keys[0], identity=root, slot=0, secret=secret, stamp=stamp()), {}),
        (CreateIdentity(identity=reader, name="rüdiger", scopes=[scope], limits=limits, stamp=stamp()), {}),
        (CreateKey(key=keys[1], identity=reader, slot=4, secret=secret, expires_ns=10**18, stamp=stamp()), {}),
        (CreateKey(key=keys[2], identity=reader, slot=4, secret=secret, stamp=stamp()), {}),
        (CreateKey(key=keys[2], identity=reader, slot=3, secret=secret, stamp=stamp()), {}),
        (UpdateIdentity(identity=reader, scopes=[scope, scope], stamp=stamp()), {}),
        (UpdateKey(key=keys[1], state="disabled", secret=secret, stamp=stamp()), {}),
        (CreateIdentity(identity=gone, name="gone", stamp=stamp()), {}),
        (CreateKey(key=keys[3], identity=gone, slot=0, secret=secret, stamp=stamp()), {}),
        (DeleteIdentity(identity=gone, stamp=stamp()), {}),
        (DeleteKey(key=keys[2], stamp=stamp()), {}),
        (DeleteKey(key=keys[0], stamp=stamp()), {}),
        (RecordKeyUse(keys=[keys[0], keys[2]], hour=480_000, stamp=stamp()), {}),
        (CreateBucket(bucket="of-root", stamp=stamp()), {"requester": by_root, "fingerprint": "f", "attempt_id": "a2"}),
        (
            SetTags(bucket="default", key="v/a", tags={}, stamp=stamp()),
            {"requester": by_reader, "fingerprint": "f", "attempt_id": "a3"},
        ),
    ]


def _begin(key: str, nonce: str, s3: S3UploadAttributes | None = None) -> BeginUpload:
    return BeginUpload(
        bucket="default", key=key, nonce=nonce, content_type="text/plain", tags={"n": key}, s3=s3, stamp=stamp()
    )


def entries() -> list[Entry]:
    """The log: the membership first, a no-op, then the commands."""
    payloads = [
        encode_proposal(Proposal(request_id=f"request-{number}", command=command, **fields))
        for number, (command, fields) in enumerate(commands())
    ]
    return [
        Entry(1, EntryKind.CONFIGURATION, Configuration("golden-cluster", MEMBERS).encode()),
        *(Entry(1, EntryKind.COMMAND, payload) for payload in payloads[:5]),
        Entry(2, EntryKind.NO_OP, b""),
        *(Entry(2, EntryKind.COMMAND, payload) for payload in payloads[5:]),
    ]


def describe(store: MetadataStore) -> dict[str, Any]:
    """What a reader finds in the tables."""
    queries = [
        GetFile(bucket="default", key="ä/b"),
        GetFile(bucket="photos", key="gone"),
        ListFiles(bucket="default"),
    ]
    answers = store.answer(queries, term=1)
    of_objects = [
        GetFile(bucket="default", key="v/a"),
        GetFile(bucket="default", key="parts again"),
        GetFile(bucket="default", key="s3/b"),
        GetFile(bucket="default", key="s3/parts"),
        GetFile(bucket="default", key="../\x01"),
        ListFiles(bucket="default", prefix="s3/"),
        ListVersions(bucket="default"),
        GetBucketSettings(bucket="default"),
        GetBucketDocument(bucket="default", kind_name="policy"),
        ListUploads(bucket="default"),
        CountObjects(),
        GetUsage(buckets=["default"]),
    ]
    of_access = [ListAccessChanges(), ListAccessChanges(after=store.last_applied)]
    return {
        "last_applied": store.last_applied,
        "state_hash": store.state_hash(),
        "answers": [result.model_dump(mode="json") for result in answers.results],
        "objects": [result.model_dump(mode="json") for result in store.answer(of_objects, term=1).results],
        "access": [result.model_dump(mode="json") for result in store.answer(of_access, term=1).results],
        "audit": store.answer([ListAudit()], term=1).results[0].model_dump(mode="json"),
        # How full a node is stands in no table: the leader adds it to its answers.
        "node_map": store.node_map().model_dump(mode="json", exclude={"nodes": {"__all__": {"used_bytes", "is_full"}}}),
        "announced": store.announced(),
    }


def make(folder: Path) -> None:
    """Write everything."""
    log = entries()
    member = folder / "member"
    log_store = SqliteLogStore(member)
    log_store.write(None, 1, log)
    log_store.cut(CUT_AT)
    log_store.close()
    hard_state = FileHardState(member)
    hard_state.update({"term": 3, "voted_for": "consensus-2"})
    DiskIdentities(member).learn({"consensus-2": "ab" * 16})
    store = MetadataStore.open(member / "metadata.sqlite")
    results = store.apply_batch(committed_entries(1, log))
    expected = describe(store) | {
        "log": {"base": CUT_AT, "last_index": len(log), "term": 3, "voted_for": "consensus-2"},
        "results": [None if result is None else result.model_dump(mode="json") for result in results],
    }
    store.close()
    (folder / "backup").mkdir()
    write_copy(member / "metadata.sqlite", folder / "backup" / METADATA_NAME)
    complete_backup(folder / "backup", KEYS)
    lines = [{"term": entry.term, "kind": entry.kind, "payload": entry.payload.hex()} for entry in log]
    (folder / "entries.json").write_text(json.dumps(lines, indent=1))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False))
    _assert_every_table_has_rows(member / "metadata.sqlite")


def _assert_every_table_has_rows(path: Path) -> None:
    connection, tables = sqlite3.connect(path), [*CHECKED_TABLES, "audit"]
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    connection.close()
    # What lives only between two slices of a long expiry cannot be left behind by whole entries.
    unfilled = {"doomed"}
    assert all(count for name, count in counts.items() if name not in unfilled), counts
    for leftover in path.parent.glob("*-wal"):
        assert leftover.stat().st_size == 0, leftover
        leftover.unlink()
    for leftover in path.parent.glob("*-shm"):
        leftover.unlink()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.make", description=__doc__)
    parser.add_argument("name", help="format-N")
    folder = FOLDER / parser.parse_args().name
    folder.mkdir()
    try:
        make(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


if __name__ == "__main__":
    main()
