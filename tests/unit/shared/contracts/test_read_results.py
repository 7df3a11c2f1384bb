"""`shared.contracts.read_results`: the bytes are those of the models, in both directions."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest

from shared.contracts.access import (
    AccessChanges,
    AccessKey,
    Action,
    IdentitiesPage,
    Identity,
    IdentityAnswer,
    IdentityLimits,
    KeyAnswer,
    Scope,
    SealedRow,
)
from shared.contracts.backups import Backup, BackupsAnswer
from shared.contracts.cluster import ConsensusMember, NodeMap
from shared.contracts.files import FileVersion
from shared.contracts.metadata import (
    Answer,
    Bucket,
    BucketAnswer,
    BucketsAnswer,
    ClusterAnswer,
    FileAnswer,
    FileEntry,
    FilePage,
    ProposalResult,
    ReadResult,
    ReadResults,
    RequestAnswer,
)
from shared.contracts.objects import (
    BucketDocumentAnswer,
    BucketSettings,
    BucketSettingsAnswer,
    ObjectCounts,
    VersionEntry,
    VersionPage,
)
from shared.contracts.read_results import (
    _PARSERS,
    _ChangesFields,
    _PageFields,
    decode_read_results,
    encode_read_results,
)
from shared.contracts.references import CheckedReferences, ReferenceChanges, ReferencePage
from shared.contracts.s3 import S3UploadAttributes
from shared.contracts.uploads import PiecePage, Upload, UploadAnswer, UploadPage, UploadPart
from shared.contracts.usage import UsageAnswer, UsageOf
from shared.errors import CursorExpiredError
from tests.unit.consensus.metadata.builders import content, publish, stamp

FILE = FileVersion(
    **publish("a/é", content=content(2500)).model_dump(
        exclude={
            "kind",
            "incarnation",
            "start_index",
            "preconditions",
            "fences",
            "tags",
            "content",
            "durability",
            "stamp",
        }
    ),
    content=content(2500),
    durability=publish("a").durability,
    stamp=stamp(),
    version=1 << 60,
    term=3,
    modified_ns=5,
)
ROWS = [FileEntry('é"\\\n', 0, "e", 1, "text/plain", 1 << 62), FileEntry("z", 1 << 50, "", 2, "", -1)]
IDENTITY = Identity(
    id="a" * 64,
    name="é",
    scopes=[Scope(actions=[Action.READ], bucket="photos", prefix="é/")],
    created_ns=1 << 60,
    changed_index=1 << 60,
)
KEY = AccessKey(
    id="TV" + "0" * 18,
    identity="a" * 64,
    slot=4,
    secret=SealedRow("0000000f", b"\xff" * 68, b"\xfe" * 32),
    created_ns=1 << 60,
    changed_index=1 << 60,
)
ANSWERS: dict[str, Answer] = {
    "file": FileAnswer(has_bucket=True, incarnation=1, file=FILE, version=1 << 60, horizon=2),
    "no file": FileAnswer(has_bucket=False),
    "page": FilePage(has_bucket=True, files=ROWS, prefixes=["a/"], has_more=True, last_key="z", at_index=9),
    "empty page": FilePage(has_bucket=False),
    "bucket": BucketAnswer(bucket=Bucket(name="b", incarnation=1, created_ns=2)),
    "buckets": BucketsAnswer(buckets=[], has_more=True),
    "cluster": ClusterAnswer(
        cluster_id="c",
        leader_id=None,
        members=[ConsensusMember(id="m", url="http://m", peer_address="m:1")],
        node_map=NodeMap(epoch=1, nodes=[]),
    ),
    "references": ReferencePage(digests=bytes(range(64)), sizes=[1, 1 << 40], has_more=True),
    "reference changes": ReferenceChanges(
        added=b"\xff" * 32,
        added_sizes=[7],
        condemned=b"\xfe" * 64,
        condemned_indexes=[3, 4],
        is_referenced=[True, False],
        next_index=4,
        next_chunk=5,
        has_more=True,
        horizon=2,
        must_restart=False,
    ),
    "checked references": CheckedReferences(is_referenced=[True, False], aged_index=1 << 60),
    "backups": BackupsAnswer(backups=[Backup(backup_id="b", owner="o", log_index=1, expires_in_s=2)]),
    "bucket settings": BucketSettingsAnswer(settings=BucketSettings(versioning="enabled"), log_index=3, incarnation=2),
    "bucket document": BucketDocumentAnswer(has_bucket=True, body=b"\xff{}", log_index=3, incarnation=2),
    "versions": VersionPage(
        has_bucket=True,
        versions=[VersionEntry("é/k", 7, 3, True, False, False, 1 << 60, "e", "text/plain", 1 << 60)],
        prefixes=["é/"],
        has_more=True,
        last_key="é/k",
        last_version=7,
    ),
    "identity": IdentityAnswer(identity=IDENTITY, keys=[KEY], realm="5e" * 16),
    "no identity": IdentityAnswer(identity=None, realm=None),
    "access key": KeyAnswer(key=KEY),
    "identities": IdentitiesPage(identities=[IDENTITY], has_more=True),
    "access changes": AccessChanges(
        realm="5e" * 16,
        is_full=True,
        identities=[
            Identity(
                id="1" * 64,
                name="é",
                scopes=[Scope(actions=[Action.READ], bucket="*", prefix="a/")],
                limits=IdentityLimits(quota_files=1 << 60),
                created_ns=1,
                changed_index=1 << 60,
            )
        ],
        keys=[
            AccessKey(
                id="TV" + "A" * 18,
                identity="1" * 64,
                slot=4,
                # In base64 it has the characters by which the alphabets differ.
                secret=SealedRow("5ea11e4d", b"\xff\xfe>?" * 8, b"\xfb" * 32),
                state="disabled",
                created_ns=1 << 62,
                last_used_hour=3,
                changed_index=4,
            )
        ],
        deleted=["2" * 64],
        next_after=1 << 60,
        walk=3,
        access_index=1 << 61,
    ),
    "no access changes": AccessChanges(realm=None, is_full=False, access_index=0),
    "object counts": ObjectCounts(versions=1 << 60, next_position=b"\xff"),
    "usage": UsageAnswer(
        buckets={"b": UsageOf(size_bytes=1 << 60, files=2, quota_bytes=0)},
        identities={"1a" * 32: UsageOf(size_bytes=0, files=0, quota_files=5)},
    ),
    "pieces": PiecePage(size_bytes=0, pieces=[], next_offset=None),
    "no upload": UploadAnswer(upload=None),
    "upload": UploadAnswer(
        upload=Upload(
            upload=1 << 60,
            nonce="0" * 32,
            bucket="b",
            key="é/k",
            content_type="text/plain",
            user_metadata={"é": "1"},
            tags={},
            created_ns=1 << 60,
            expires_in_s=None,
            s3=S3UploadAttributes(checksum="crc32"),
        ),
        parts=[
            UploadPart(1, 1 << 60, 1 << 40, "e", 1 << 60),
            UploadPart(10_000, 2, 0, "e", 0, "0" * 32, {"crc32": "AAAAAA=="}),
        ],
        has_more=True,
    ),
    "uploads": UploadPage(has_bucket=True, prefixes=["é/"], has_more=True, last_key="é/"),
    "request": RequestAnswer(result=ProposalResult(log_index=1, term=1, result={"n": [1, None]}), fingerprint="f"),
}


def batch(*results: ReadResult) -> ReadResults:
    return ReadResults(log_index=7, term=2, epoch=3, hlc=(1 << 64) - 1, cluster_id='c-"1"', results=list(results))


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_is_written_and_read_as_its_models_do_it(answer) -> None:
    """So that callers and members of other versions understand it."""
    results = batch(ReadResult(answer=answer), ReadResult(problem=CursorExpiredError("Gone.", horizon=4).to_problem()))
    written = encode_read_results(results)
    assert json.loads(written) == json.loads(results.model_dump_json())
    assert ReadResults.model_validate_json(written) == results
    assert decode_read_results(written) == results
    assert decode_read_results(results.model_dump_json().encode()) == results


def test_fields_that_are_not_known_are_ignored() -> None:
    """A member of a version to come may say more, at every depth."""
    fields = json.loads(batch(*(ReadResult(answer=answer) for answer in ANSWERS.values())).model_dump_json())
    fields["tomorrow"] = 1
    for result in fields["results"]:
        result["tomorrow"] = result["answer"]["tomorrow"] = {"n": 1}
    fields["results"][0]["answer"]["file"]["content"]["tomorrow"] = 1
    fields["results"][2]["answer"]["files"][0]["tomorrow"] = 1
    assert [found.answer for found in decode_read_results(json.dumps(fields).encode()).results] == [*ANSWERS.values()]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_a_member_of_an_earlier_version_says_no_cluster_id(answer) -> None:
    """Then it is None, whatever was asked."""
    fields = json.loads(batch(ReadResult(answer=answer)).model_dump_json())
    del fields["cluster_id"]
    assert decode_read_results(json.dumps(fields).encode()).cluster_id is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"log_index":"x","term":1,"epoch":1,"hlc":1,"results":[]}',
        b'{"log_index":1,"term":1,"epoch":1,"hlc":1,"results":[{"answer":{"kind":"riddle"}}]}',
        b'{"log_index":1,"term":1,"epoch":1,"hlc":1,"results":[{"answer":{"has_bucket":true}}]}',
        b'{"log_index":1,"term":1,"epoch":1,"hlc":1,"results":[{"answer":{"kind":"file"}}]}',
        b'{"log_index":1,"term":1,"epoch":1,"hlc":1,"results":[{"answer":{"kind":"files"}}]}',
        b'{"log_index":1,"term":1,"epoch":1,"hlc":1,"results":[{"answer":{"kind":"files","has_bucket":true,"files":[{}]}}]}',
    ],
)
def test_what_is_no_answer_is_one_error(content) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ValueError):
        decode_read_results(content)


@pytest.mark.parametrize(
    ("decoded", "model"), [(_PageFields, FilePage), (_ChangesFields, AccessChanges)], ids=["files", "access changes"]
)
def test_a_page_is_read_with_every_field_of_its_model(decoded, model) -> None:
    """A field that is added to the one is added to the other, with the same default."""
    lists = {"files", "prefixes", "identities", "keys", "deleted"}
    fields = {field.name: field.default for field in msgspec.structs.fields(decoded)}
    expected = {
        name: msgspec.NODEFAULT if field.is_required() else field.default for name, field in model.model_fields.items()
    }
    assert fields.keys() == expected.keys() - {"kind"}
    assert {name: fields[name] for name in fields.keys() - lists} == {
        name: expected[name] for name in fields.keys() - lists
    }


def test_every_kind_of_answer_can_stand_beside_a_page() -> None:
    """A batch carries the questions of many callers: one page must not make the answers of the others unreadable."""
    assert _PARSERS.keys() == {kind.model_fields["kind"].default for kind in get_args(get_args(Answer)[0])}
