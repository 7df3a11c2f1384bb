"""Every call of the client against a real cluster."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

import trivet
from tests.chance import random_bytes
from trivet.bodies import PIECE_BYTES

pytestmark = pytest.mark.cluster
MIB = 1 << 20


@pytest.fixture(scope="module")
def store(well_cluster) -> Iterator[trivet.Client]:
    """A client with the root key."""
    client = trivet.Client(
        well_cluster.gateway_url,
        str(well_cluster.layout.root_key),
        operations_url=well_cluster.operations_url("gateway-1"),
    )
    with client:
        yield client


@pytest.fixture
def bucket(store: trivet.Client) -> str:
    """A bucket of this test alone."""
    name = f"client-{random.SystemRandom().randrange(1 << 40):010x}"
    assert store.create_bucket(name).created
    return name


def test_files_come_back_as_they_were_stored(store, bucket, tmp_path) -> None:
    """From every kind of source, whole and in parts, with what is kept beside them."""
    data = random_bytes(2 * PIECE_BYTES + 5)
    (tmp_path / "file").write_bytes(data)
    sources = {
        "bytes": data,
        "path": tmp_path / "file",
        "memory": io.BytesIO(data),
        "stream": (data[start : start + 100_000] for start in range(0, len(data), 100_000)),
        "what? 100 %/#ü": data,
    }
    for key, source in sources.items():
        receipt = store.put(bucket, key, source, content_type="image/png", user_metadata={"place": "Rome"})
        assert receipt.durability.acknowledged >= 2
        info = store.head(bucket, key)
        assert (info.size_bytes, info.etag, info.version) == (len(data), receipt.etag, receipt.version)
        assert (info.content_type, info.user_metadata, info.digest) == ("image/png", {"place": "Rome"}, receipt.digest)
        assert store.get(bucket, key) == data
    assert store.get(bucket, "bytes", start=10, end=20) == data[10:20]
    assert store.get(bucket, "bytes", start=-7) == data[-7:]
    assert store.get(bucket, "bytes", start=len(data) - 1) == data[-1:]
    with store.open(bucket, "bytes") as download:
        assert b"".join(download) == data
    with store.open(bucket, "bytes") as download:
        next(iter(download))  # the rest is not fetched
    assert store.head(bucket, "bytes", read_quorum=2).replicas_confirmed >= 2
    assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=1)
    store.put(bucket, "empty", b"")
    assert store.get(bucket, "empty") == b""


def test_refusals_are_typed(store, bucket) -> None:
    """By what is missing or does not hold; HEAD, whose answers have no body, says the same."""
    store.put(bucket, "a", b"first")
    for call in (store.get, store.head, store.delete):
        with pytest.raises(trivet.FileNotFound):
            call(bucket, "nothing")
        with pytest.raises(trivet.BucketNotFound):
            call("no-such-bucket", "a")
    with pytest.raises(trivet.PreconditionFailed):
        store.put(bucket, "a", b"second", if_none_match="*")
    with pytest.raises(trivet.PreconditionFailed) as caught:
        store.head(bucket, "a", if_match="0" * 32)
    assert caught.value.code == "precondition_failed"
    with pytest.raises(trivet.RangeNotSatisfiable):
        store.get(bucket, "a", start=5)
    with pytest.raises(trivet.BadRequest):
        store.put(bucket, "a/../b", b"")
    with pytest.raises(trivet.Conflict):
        store.delete_bucket(bucket)
    with trivet.Client(store.url) as nobody, pytest.raises(trivet.Unauthorized, match="TRIVET_KEY"):
        nobody.get(bucket, "a")
    assert store.get(bucket, "a") == b"first"


def test_a_refused_upload_of_many_bytes_is_told_as_it_is(store, bucket) -> None:
    """Though the gateway answers before it has taken them."""
    store.put(bucket, "a", b"first")
    with pytest.raises(trivet.PreconditionFailed):
        store.put(bucket, "a", bytes(16 * MIB), if_none_match="*")


def test_a_repeat_under_one_key_happens_once(store, bucket) -> None:
    """As a later process would repeat it."""
    receipts = [store.put(bucket, "order", b"x", idempotency_key=f"order-{bucket}") for _ in range(2)]
    assert receipts[0] == receipts[1]
    with pytest.raises(trivet.BadRequest, match="idempotency_key_reused"):
        store.put(bucket, "order", b"y", idempotency_key=f"order-{bucket}")


def test_lists_go_through_all_pages(store, bucket) -> None:
    """By the order of their bytes, with prefixes in their places."""
    keys = ["a", "b/1", "b/2", "c", "ü", "z"]
    for key in keys:
        store.put(bucket, key, key.encode())
    assert [row.key for row in store.list(bucket)] == sorted(keys, key=str.encode)
    rows = [row.prefix if isinstance(row, trivet.Prefix) else row.key for row in store.list(bucket, delimiter="/")]
    assert rows == ["a", "b/", "c", "z", "ü"]
    assert [row.key for row in store.list(bucket, "b/")] == ["b/1", "b/2"]
    assert [row.key for page in store.list_pages(bucket, limit=1) for row in page.files] == sorted(keys, key=str.encode)
    assert next(iter(store.list(bucket, details=True))).digest is not None
    assert bucket in [each.name for each in store.buckets()]
    deleted = store.delete_many(bucket, [*keys, "nothing"])
    assert [row.problem for row in deleted.results] == [None] * 7
    assert list(store.list(bucket)) == []
    store.delete_bucket(bucket)


def test_versions_are_kept_restored_and_removed(store, bucket) -> None:
    """In a bucket that is told to."""
    assert store.set_bucket_settings(bucket, versioning="enabled", superseded_retention_s=3600).versioning == "enabled"
    settings = store.set_bucket_settings(bucket, quota_files=10)
    assert (settings.versioning, settings.superseded_retention_s, settings.quota_files) == ("enabled", 3600, 10)
    first = store.put(bucket, "plan", b"first").version
    second = store.put(bucket, "plan", b"second").version
    marker = store.delete(bucket, "plan")
    assert marker.is_marker
    with pytest.raises(trivet.FileNotFound):
        store.get(bucket, "plan")
    assert store.get(bucket, "plan", version=first) == b"first"
    rows = list(store.versions(bucket, key="plan"))
    assert [row.version for row in rows] == [marker.version, second, first]
    assert store.restore(bucket, "plan", first).source_version == first
    assert store.get(bucket, "plan") == b"first"
    store.delete(bucket, "plan", version=marker.version)
    assert store.delete_many(bucket, [("plan", second)]).results[0].removed_version == second
    assert [row.key for page in store.version_pages(bucket, limit=1) for row in page.versions] == ["plan", "plan"]


def test_copies_renames_and_tags(store, bucket) -> None:
    """Without a byte that moves."""
    etag = store.put(bucket, "cat", b"meow", user_metadata={"place": "Rome"}).etag
    assert store.copy(bucket, "cat", bucket, "tom", tags={"album": "rome"}).etag == etag
    assert store.tags(bucket, "tom").tags == {"album": "rome"}
    assert store.set_tags(bucket, "tom", {"stage": "draft"}).tags == {"stage": "draft"}
    store.delete_tags(bucket, "tom")
    assert store.tags(bucket, "tom").tags == {}
    with pytest.raises(trivet.PreconditionFailed):
        store.copy(bucket, "cat", bucket, "other", etag="0" * 32)
    store.rename(bucket, "tom", bucket, "jerry", if_none_match="*")
    store.copy(bucket, "cat", bucket, "cat", user_metadata={"place": "Ostia"}, content_type="image/webp")
    assert store.head(bucket, "cat").user_metadata == {"place": "Ostia"}
    assert [row.key for row in store.list(bucket)] == ["cat", "jerry"]


def test_an_upload_step_by_step(store, bucket) -> None:
    """Parts that are sent and copied, listed, completed twice over and aborted."""
    data = random_bytes(5 * MIB)
    store.put(bucket, "source", data)
    upload = store.begin_upload(bucket, "film", content_type="video/mp4", tags={"a": "b"}).upload_id
    parts = [store.put_part(upload, 9, b"the end"), store.copy_part(upload, 1, bucket, "source")]
    assert [part.number for part in store.upload(upload).parts] == [1, 9]
    assert [each.key for each in store.uploads(bucket)] == ["film"]
    receipt = store.complete_upload(upload, parts)
    assert store.complete_upload(upload, parts) == receipt
    assert (receipt.digest, store.get(bucket, "film")) == (None, data + b"the end")
    given_up = store.begin_upload(bucket, "never").upload_id
    store.abort_upload(given_up)
    with pytest.raises(trivet.UploadNotFound):
        store.put_part(given_up, 1, b"too late")


def test_links_need_no_key(store, bucket) -> None:
    """They are made offline, and good for what they were made for."""
    data = b"meow"
    put = store.link("PUT", bucket, "cat ü.txt", 60, {"Content-Type": "text/plain"})
    with httpx.Client(trust_env=False) as anybody:
        assert anybody.put(put.url, content=data, headers=put.headers).status_code == 201
        link = store.link("GET", bucket, "cat ü.txt", 60, version=store.head(bucket, "cat ü.txt").version)
        assert anybody.get(link.url).content == data
        assert anybody.delete(link.url).status_code == 401
    assert link.expires > datetime.now(UTC)


def test_operations(store, bucket) -> None:
    """Keys with scopes, and what the cluster says of itself."""
    operations = store.operations
    assert operations.readiness().is_ready
    assert len(operations.cluster().nodes) == len(store.cluster().nodes) >= 3
    identity = operations.create_identity("camera", [trivet.Scope(actions=["read"], bucket=bucket)])
    key = operations.create_key(identity.id, expires=datetime.now(UTC) + timedelta(days=1))
    store.put(bucket, "a", b"data")
    with trivet.Client(store.url, key.line) as camera:
        assert camera.identity().name == "camera"
        assert camera.get(bucket, "a") == b"data"
        with pytest.raises(trivet.Forbidden):
            camera.put(bucket, "a", b"other")
        assert operations.change_key(key.id, state="disabled").state == "disabled"
        with pytest.raises(trivet.Unauthorized):
            camera.get(bucket, "a")
    assert operations.change_key(key.id, expires=None).expires is None
    limits = trivet.Limits(quota_files=3)
    assert operations.change_identity(identity.id, name="lens", limits=limits).limits == limits
    assert [each.id for each in operations.keys(identity.id)] == [key.id]
    assert operations.key(key.id).identity == identity.id
    assert operations.identity(identity.id).name == "lens"
    assert "lens" in [each.name for each in operations.identities()]
    operations.delete_key(key.id)
    operations.delete_identity(identity.id)
    backup = operations.begin_backup("test", lease_s=60)
    assert operations.renew_backup(backup.id, lease_s=120).expires_in_s >= 60
    assert backup.id in [each.id for each in operations.backups()]
    operations.end_backup(backup.id)
    with pytest.raises(trivet.NotFound):
        operations.end_backup(backup.id)
    assert operations.verify_audit().is_whole
    assert {"create_identity", "publish_file"} <= {row["kind"] for row in operations.audit()}
    assert operations.verification().state in {"never", "running", "finished", "cancelled"}
    assert store.time().timestamp.hlc
    for refused in (operations.cancel_drain, operations.drain_node):
        with pytest.raises((trivet.NotFound, trivet.Conflict)):
            refused("storage-99")
    assert operations.add_node("storage-1").created is False
    with pytest.raises(trivet.Conflict):
        operations.remove_lost_node("storage-1")


async def test_many_calls_at_once(cluster, bucket) -> None:
    """In one event loop, over connections that are used again."""
    async with trivet.AsyncClient(cluster.gateway_url, str(cluster.layout.root_key)) as store:
        keys = [f"{number:02}" for number in range(20)]
        await asyncio.gather(*(store.put(bucket, key, key.encode()) for key in keys))
        assert [row.key async for row in store.list(bucket)] == keys
        assert await asyncio.gather(*(store.get(bucket, key) for key in keys)) == [key.encode() for key in keys]
        async with store.open(bucket, "07") as download:
            assert [chunk async for chunk in download] == [b"07"]
