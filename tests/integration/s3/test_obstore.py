"""obstore: the object_store of Rust behind Polars, DataFusion, delta-rs and Lance."""

from __future__ import annotations

import random
from datetime import timedelta

import httpx
import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import S3Store

from shared.units import MIB

pytestmark = pytest.mark.cluster


def open_store(server, bucket) -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.key,
        secret_access_key=server.secret,
        region=server.region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": server.attempts - 1},
    )


@pytest.fixture
def store(s3, bucket) -> S3Store:
    return open_store(s3, bucket)


def test_the_everyday_calls(store, seed) -> None:
    """Put, head, get, ranges, copy, rename, lists with folded prefixes, deletion of many."""
    body = random.Random(seed).randbytes(MIB + 9)
    store.put("a/b.bin", body, attributes={"Content-Type": "text/x-own", "note": "hello"})
    assert store.head("a/b.bin")["size"] == len(body)
    got = store.get("a/b.bin")
    assert (got.attributes["Content-Type"], got.attributes["note"]) == ("text/x-own", "hello")
    assert bytes(got.bytes()) == body
    pieces = store.get_ranges("a/b.bin", starts=[0, 1_000_000], ends=[5, 1_000_003])
    assert [bytes(piece) for piece in pieces] == [body[:5], body[1_000_000:1_000_003]]
    store.copy("a/b.bin", "c/d e+1%.bin")
    store.rename("c/d e+1%.bin", "c/f=g.bin")
    assert [entry["path"] for page in store.list() for entry in page] == ["a/b.bin", "c/f=g.bin"]
    folded = store.list_with_delimiter()
    assert (folded["common_prefixes"], folded["objects"]) == (["a", "c"], [])
    store.delete(["a/b.bin", "c/f=g.bin"])
    with pytest.raises(FileNotFoundError):
        store.head("a/b.bin")


def test_64_mib_go_up_by_parts(store, seed) -> None:
    """Parts side by side, in a size that fits nothing of the store's."""
    body = random.Random(seed).randbytes(64 * MIB)
    store.put("large", body, use_multipart=True, chunk_size=7_000_001, max_concurrency=8)
    assert store.head("large")["e_tag"].strip('"').endswith("-10")
    assert bytes(store.get("large").bytes()) == body
    start = 7_000_001 - 5
    assert bytes(store.get_range("large", start=start, length=10)) == body[start : start + 10]


def test_who_comes_second_is_told(store) -> None:
    """Creation and update by condition, on which table formats build their commits."""
    first = store.put("_log/0.json", b"0", mode="create")
    with pytest.raises(AlreadyExistsError):
        store.put("_log/0.json", b"other", mode="create")
    store.put("_log/0.json", b"1", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        store.put("_log/0.json", b"2", mode={"e_tag": first["e_tag"]})
    assert bytes(store.get("_log/0.json").bytes()) == b"1"


def test_presigned_links(store) -> None:
    """For a write and for a read."""
    put = obstore.sign(store, "PUT", "k", timedelta(minutes=1))
    assert httpx.put(put, content=b"sent", trust_env=False).status_code == 200
    assert httpx.get(obstore.sign(store, "GET", "k", timedelta(minutes=1)), trust_env=False).content == b"sent"


def test_a_wrong_key_and_a_wrong_bucket_are_errors(s3, bucket) -> None:
    """And nothing is stored."""
    with pytest.raises((BaseError, PermissionError)):
        open_store(s3.with_wrong_secret, bucket).put("k", b"x")
    with pytest.raises((NotFoundError, FileNotFoundError)):
        open_store(s3, "nobody-has-this").put("k", b"x")
    with pytest.raises(FileNotFoundError):
        open_store(s3, bucket).head("k")
