"""Idempotency-Key over a real cluster and two gateways, one of which dies before its client hears the answer."""

from __future__ import annotations

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from shared.units import MIB
from tests.credentials import bearer_line
from tests.integration.second_gateway import SecondGateway
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

KEY = {"idempotency-key": "order-17"}


def test_a_repeat_gets_the_same_answer_from_either_gateway(gateway, gateway_urls, bucket, seed) -> None:
    """The receipt word for word, though the condition no longer holds; another body is 422 and changes nothing."""
    body = random.Random(seed).randbytes(MIB + 7)
    url, headers = f"/v1/files/{bucket}/k", KEY | {"if-none-match": "*"}
    first = gateway.put(url, content=body, headers=headers)
    assert first.status_code == 201
    for base in gateway_urls:
        repeated = gateway.put(f"{base}{url}", content=body, headers=headers)
        assert (repeated.status_code, repeated.json()) == (201, first.json())
        assert repeated.headers["x-trivet-version"] == first.headers["x-trivet-version"]
        other = gateway.put(f"{base}{url}", content=b"other", headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert gateway.get(url).content == body
    assert gateway.put(url, content=b"x", headers={"idempotency-key": "a b"}).status_code == 400


def test_every_change_takes_a_key(gateway, second, bucket) -> None:
    """Form, deletion and buckets: the repeat at the other gateway answers as the first time and changes nothing."""
    form = {"file": ("f.txt", b"x", "text/plain")}
    first = gateway.post(f"/v1/files/{bucket}", files=form, headers=KEY)
    again = gateway.post(f"{second.url}/v1/files/{bucket}", files=form, headers=KEY)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    url = f"/v1/files/{bucket}/f.txt"
    gone = gateway.delete(url, headers=KEY)
    stored = gateway.put(url, content=b"new")
    repeated = gateway.delete(f"{second.url}{url}", headers=KEY)
    assert (gone.status_code, repeated.status_code) == (204, 204)
    assert repeated.headers["x-trivet-version"] == gone.headers["x-trivet-version"]
    assert gateway.get(url).headers["x-trivet-version"] == str(stored.json()["version"])
    assert gateway.delete(url, headers=KEY | {"if-match": "*"}).status_code == 422
    made = gateway.put(f"/v1/buckets/{bucket}-b", headers=KEY)
    assert gateway.put(f"{second.url}/v1/buckets/{bucket}-b", headers=KEY).json() == made.json()
    assert made.json()["created"]
    deleted = [gateway.delete(f"{base}/v1/buckets/{bucket}-b", headers=KEY).status_code for base in ("", second.url)]
    assert deleted == [204, 204]


def test_a_retry_after_the_gateway_died_yields_one_version(cluster, gateway, bucket, seed, tmp_path) -> None:
    """Killed once the version is visible, before the client has read an answer: the retry returns that version."""
    body = random.Random(seed).randbytes(MIB)
    url = f"/v1/files/{bucket}/k"
    fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}idempotency-key: order-17\r\ncontent-length: {len(body)}"
    with (
        SecondGateway(cluster, tmp_path / "mortal.log") as mortal,
        socket.create_connection(mortal.address, timeout=10) as connection,
    ):
        connection.sendall(f"PUT {url} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
        block_until(lambda: gateway.head(url).status_code == 200, "the version is visible", 30)
        mortal.kill()
    version = gateway.head(url).headers["x-trivet-version"]
    retried = gateway.put(url, content=body, headers=KEY | {"content-type": "application/octet-stream"})
    assert retried.status_code == 201, retried.text
    assert str(retried.json()["version"]) == version
    assert gateway.head(url).headers["x-trivet-version"] == version


def test_concurrent_duplicates_yield_one_version(cluster, gateway, gateway_urls, bucket, seed) -> None:
    """At two gateways at once: everybody hears the same receipt, or 409 with Retry-After from the busy one."""
    body = random.Random(seed).randbytes(4 * MIB)
    url = f"/v1/files/{bucket}/k"
    barrier = threading.Barrier(6)

    def put(base: str) -> httpx.Response:
        with httpx.Client(headers=cluster.bearer, timeout=30, trust_env=False) as client:
            barrier.wait(30)
            return client.put(f"{base}{url}", content=body, headers=KEY)

    bases = [*gateway_urls] * 3
    with ThreadPoolExecutor(len(bases)) as pool:
        answers = list(pool.map(put, bases))
    stored = [answer.json() for answer in answers if answer.status_code == 201]
    assert stored
    assert all(receipt == stored[0] for receipt in stored)
    for answer in answers:
        assert answer.status_code in {201, 409}, answer.text
        if answer.status_code == 409:
            assert answer.json()["code"] == "request_in_progress"
            assert int(answer.headers["retry-after"]) >= 1
    assert gateway.head(url).headers["x-trivet-version"] == str(stored[0]["version"])
