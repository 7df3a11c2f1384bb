"""The public port of a whole cluster as hostile and unlucky clients meet it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from services.gateway.ports import FileChunk
from shared.contracts.chunks import HasRequest, HasResponse
from shared.peer_calls.http_client import PeerClient
from shared.units import MIB
from tests.credentials import bearer_line
from tests.log_lines import records, whole_lines
from tests.waiting import block_until, wait_until

pytestmark = pytest.mark.cluster


def connect(cluster: Cluster) -> socket.socket:
    url = httpx.URL(cluster.gateway_url)
    return socket.create_connection((url.host, url.port), timeout=10)


def read_to_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(65536):
        received += piece
    return bytes(received)


def collect(answer: httpx.Response, received: bytearray) -> None:
    for piece in answer.iter_raw():
        received += piece


def test_a_refused_upload_is_answered_whole_and_the_connection_ends(cluster, bucket) -> None:
    """A client that goes on sending gets its answer, not a reset, and its gigabytes are not read."""
    with connect(cluster) as connection:
        fields = f'host: 127.0.0.1\r\n{bearer_line(cluster)}content-length: {1 << 31}\r\nif-match: "no"'
        connection.sendall(f"PUT /v1/files/{bucket}/k HTTP/1.1\r\n{fields}\r\n\r\n".encode() + bytes(2 * MIB))
        answer = read_to_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 412 ")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == "precondition_failed"


def test_a_refused_upload_that_waits_for_100_is_never_told_to_send(cluster, bucket) -> None:
    """`Expect: 100-continue` is answered with the refusal itself."""
    with connect(cluster) as connection:
        fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}content-length: 99\r\nexpect: 100-continue"
        connection.sendall(f"PUT /v1/files/{bucket}/../k HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"100 Continue" not in answer


def test_an_accepted_upload_that_waits_for_100_is_told_to_send(cluster, bucket, gateway) -> None:
    """And then stored."""
    with connect(cluster) as connection:
        fields = (
            f"host: 127.0.0.1\r\n{bearer_line(cluster)}content-length: 5\r\nexpect: 100-continue\r\nconnection: close"
        )
        connection.sendall(f"PUT /v1/files/{bucket}/k HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert read_to_end(connection).startswith(b"HTTP/1.1 201 ")
    assert gateway.get(f"/v1/files/{bucket}/k").content == b"hello"


async def test_bytes_lost_in_mid_stream_break_the_connection_off(cluster, bucket, gateway, seed) -> None:
    """The client sees an incomplete answer, and what it got is a right prefix. The same file stored again is whole."""
    chunks = [random.Random(seed + number).randbytes(MIB) for number in range(12)]
    assert gateway.put(f"/v1/files/{bucket}/k", content=b"".join(chunks)).status_code == 201
    lost = FileChunk.of(chunks[10]).digest
    async with PeerClient(cluster.keys) as client:
        peers = [cluster.peer(f"storage-{number}") for number in (1, 2, 3)]

        async def is_everywhere() -> bool:
            question = HasRequest(digests=[lost])
            path = "/v1/chunks/has"
            found = [await client.call(peer, "POST", path, HasResponse, body=question, timeout_s=10) for peer in peers]
            return all(answer.present for answer in found)

        # The last replica comes after the answer, and may come after a deletion.
        await wait_until(is_everywhere, "each node has the chunk", 30)
        for peer in peers:
            await client.request(peer, "DELETE", f"/v1/chunks/{lost}", timeout_s=10)
    received, log = bytearray(), cluster.layout.log_file("gateway-1")
    logged_bytes = log.stat().st_size
    url = f"{cluster.gateway_url}/v1/files/{bucket}/k"
    with httpx.stream("GET", url, headers=cluster.bearer, trust_env=False, timeout=30) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            collect(answer, received)
    assert bytes(received) == b"".join(chunks[:10])

    def broken_off() -> list[str]:
        found = records(log, from_byte=logged_bytes)
        return [line["code"] for line in found if line.get("path") == f"/v1/files/{bucket}/k"]

    await wait_until(broken_off, "the line is written")
    assert broken_off() == ["data_unavailable"], "no defect of ours, so one line"
    assert not any("exception" in line for line in records(log, from_byte=logged_bytes))
    problem = gateway.get(f"/v1/files/{bucket}/k", headers={"range": f"bytes={10 * MIB}-"})
    assert problem.status_code == 503
    assert problem.json()["code"] == "data_unavailable"
    # Other tests share the cluster, and some want it to be well.
    assert gateway.put(f"/v1/files/{bucket}/k", content=b"".join(chunks)).status_code == 200
    assert gateway.get(f"/v1/files/{bucket}/k").content == b"".join(chunks)


def test_a_large_file_goes_both_ways_in_little_memory(cluster, bucket, gateway, seed) -> None:
    """256 MiB in and out: the same digest, and the gateway never held more than 200 MiB."""
    block = random.Random(seed).randbytes(MIB)
    hasher = blake3()

    def body() -> Iterator[bytes]:
        for number in itertools.islice(itertools.count(), 256):
            piece = number.to_bytes(8) + block[8:]
            hasher.update(piece)
            yield piece

    stored = gateway.put(f"/v1/files/{bucket}/large", content=body())
    assert stored.status_code == 201, stored.text
    digest = hasher.hexdigest()
    assert stored.json()["digest"] == digest
    read = blake3()
    with gateway.stream("GET", f"/v1/files/{bucket}/large") as answer:
        assert answer.headers["content-length"] == str(256 * MIB)
        for piece in answer.iter_raw():
            read.update(piece)
    assert read.hexdigest() == digest
    process = psutil.Process(cluster.pid("gateway-1"))
    assert process.memory_info().rss < 200 * MIB


def test_one_range_and_conditions_over_http(bucket, gateway) -> None:
    """206 with its headers, 416 with the size, 304 and 412 by entity tag."""
    url = f"/v1/files/{bucket}/k"
    etag = gateway.put(url, content=b"0123456789").headers["etag"]
    part = gateway.get(url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    behind = gateway.get(url, headers={"range": "bytes=10-"})
    assert (behind.status_code, behind.headers["content-range"]) == (416, "bytes */10")
    same = gateway.get(url, headers={"if-none-match": etag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert gateway.put(url, content=b"x", headers={"if-none-match": "*"}).status_code == 412
    assert gateway.put(url, content=b"x", headers={"if-match": '"other"'}).status_code == 412
    assert gateway.delete(url, headers={"if-match": '"other"'}).status_code == 412
    assert gateway.put(url, content=b"y", headers={"if-match": etag}).status_code == 200
    assert gateway.delete(url, headers={"if-match": etag}).status_code == 412
    assert gateway.get(url).content == b"y"


def test_a_browser_form_stores_its_file_under_its_name(bucket, gateway, seed) -> None:
    """Streamed into chunks, with the type that the browser gave; a second file field is refused and stores nothing."""
    content = random.Random(seed).randbytes(2 * MIB + 3)
    stored = gateway.post(f"/v1/files/{bucket}", files={"file": ("dir/ä.bin", content, "image/x-test")})
    assert stored.status_code == 201, stored.text
    assert stored.json()["key"] == "dir/ä.bin"
    read = gateway.get(f"/v1/files/{bucket}/dir/%C3%A4.bin")
    assert (read.content, read.headers["content-type"]) == (content, "image/x-test")
    two = [("file", ("one", b"1")), ("file", ("two", b"2"))]
    assert gateway.post(f"/v1/files/{bucket}", files=two).status_code == 400
    assert gateway.post(f"/v1/files/{bucket}", files={"file": ("../up", b"x")}).status_code == 400
    assert gateway.post(f"/v1/files/{bucket}", json={}).status_code == 400
    assert [row["key"] for row in gateway.get(f"/v1/files/{bucket}").json()["files"]] == ["dir/ä.bin"]


def test_a_body_that_differs_from_its_digest_is_not_stored(bucket, gateway) -> None:
    """400 with a typed problem, and the old version stays."""
    url = f"/v1/files/{bucket}/k"
    good = {"content-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(b'old').digest()).decode()}:"}
    assert gateway.put(url, content=b"old", headers=good).status_code == 201
    refused = gateway.put(url, content=b"new", headers=good)
    assert (refused.status_code, refused.json()["code"]) == (400, "digest_mismatch")
    assert gateway.get(url).content == b"old"


def test_cluster_changes_need_the_key_of_an_administrator(cluster) -> None:
    """401 without one; with it a node is admitted and, as it never dialled in, removed."""
    with httpx.Client(base_url=cluster.operations_url("gateway-1"), trust_env=False, timeout=30) as operations:
        assert operations.post("/v1/cluster/nodes", json={"id": "storage-9"}).status_code == 401
        assert operations.delete("/v1/cluster/nodes/storage-1").status_code == 401
        headers = cluster.bearer
        assert operations.post("/v1/cluster/nodes", json={"id": "storage-9"}, headers=headers).status_code == 201
        assert operations.post("/v1/cluster/nodes", json={"id": "storage-9"}, headers=headers).status_code == 200
        assert operations.post("/v1/cluster/nodes", json={"ID": 9}, headers=headers).status_code == 400
        assert operations.post("/v1/cluster/nodes", content=b"[" * 100_000, headers=headers).status_code == 400
        assert operations.post("/v1/cluster/nodes", content=b" " * (MIB + 1), headers=headers).status_code == 413
        removed = operations.delete("/v1/cluster/nodes/storage-9", headers=headers)
        assert (removed.status_code, removed.json()) == (200, {"id": "storage-9", "chunks_at_risk": 0})
        assert operations.delete("/v1/cluster/nodes/storage-9", headers=headers).status_code == 404


def test_cluster_changes_are_not_on_the_public_port(cluster, gateway) -> None:
    """With the right key even: there is nothing at that path."""
    assert gateway.post("/v1/cluster/nodes", json={"id": "storage-9"}).status_code == 404
    assert gateway.delete("/v1/cluster/nodes/storage-1").status_code == 404
    assert {node["id"] for node in gateway.get("/v1/cluster").json()["nodes"]} >= {
        "storage-1",
        "storage-2",
        "storage-3",
    }


ADMINISTRATION = [
    ("POST", "/v1/cluster/nodes"),
    ("DELETE", "/v1/cluster/nodes/storage-1"),
    ("DELETE", "/v1/cluster/nodes/storage-1?lost=true"),
    ("DELETE", "/v1/cluster/nodes/storage-1/drain"),
    ("POST", "/v1/cluster/verify"),
    ("GET", "/v1/cluster/verify"),
    ("DELETE", "/v1/cluster/verify"),
    ("POST", "/v1/backups"),
    ("GET", "/v1/backups"),
    ("PUT", "/v1/backups/0123456789abcdef"),
    ("DELETE", "/v1/backups/0123456789abcdef"),
]


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
def test_administration_needs_a_key_and_its_own_port(cluster, gateway, method: str, path: str) -> None:
    """401 without one, before anything is read of the request; nothing of it is on the public port."""
    operations = cluster.operations_url("gateway-1")
    for headers in ({}, {"authorization": "Bearer wrong-token-of-sixteen"}):
        refused = httpx.request(method, operations + path, headers=headers, trust_env=False, timeout=30)
        assert (refused.status_code, refused.json()["definite"]) == (401, True)
    assert gateway.request(method, path).status_code == 404


def test_a_change_that_the_cluster_must_not_make_is_refused_and_nothing_is_half_done(cluster) -> None:
    """Draining below the number of replicas, an unknown node, a node that is not lost, a drain that is none."""
    url = cluster.operations_url("gateway-1")
    with httpx.Client(base_url=url, headers=cluster.bearer, trust_env=False, timeout=30) as operations:

        def states() -> dict[str, str]:
            return {node["id"]: node["state"] for node in operations.get("/v1/cluster").json()["nodes"]}

        before = states()
        for path, status, code in (
            ("/v1/cluster/nodes/storage-1", 409, "too_few_nodes"),
            ("/v1/cluster/nodes/storage-1?lost=true", 409, "node_not_lost"),
            ("/v1/cluster/nodes/storage-1?lost=maybe", 400, "invalid_request"),
            ("/v1/cluster/nodes/storage-1/drain", 409, "conflict"),
            ("/v1/cluster/nodes/storage-77", 404, "node_not_found"),
            ("/v1/cluster/nodes/storage-77?lost=true", 404, "node_not_found"),
            ("/v1/cluster/nodes/storage-77/drain", 404, "node_not_found"),
            ("/v1/cluster/nodes/%FF", 400, None),
            (f"/v1/backups/{'x' * 200}", 404, "backup_not_found"),
        ):
            refused = operations.delete(path)
            assert refused.status_code == status, (path, refused.text)
            assert code in {None, refused.json()["code"]}, path
            assert refused.json()["definite"], path
        assert states() == before


def test_a_backup_is_begun_listed_renewed_and_ended(cluster) -> None:
    """Over the operations port; a second end is 404, and a lease that no one may have is 400."""
    url = cluster.operations_url("gateway-1")
    with httpx.Client(base_url=url, headers=cluster.bearer, trust_env=False, timeout=30) as operations:
        begun = operations.post("/v1/backups", json={"owner": "a test", "lease_s": 600})
        assert begun.status_code == 201
        backup = begun.json()
        path = f"/v1/backups/{backup['id']}"
        listed = {found["id"]: found for found in operations.get("/v1/backups").json()["backups"]}
        assert (listed[backup["id"]]["owner"], listed[backup["id"]]["log_index"]) == ("a test", backup["log_index"])
        assert 0 < listed[backup["id"]]["expires_in_s"] <= 600
        assert operations.put(path, json={"lease_s": 1200}).json()["expires_in_s"] == 1200
        for body in ({"lease_s": 0}, {"lease_s": 10**9}, {"owner": "x"}):
            assert operations.put(path, json=body).status_code == 400, body
        for body in ({}, {"owner": ""}, {"owner": "x" * 257}, {"owner": "x", "lease_s": -1}):
            assert operations.post("/v1/backups", json=body).status_code == 400, body
        assert operations.delete(path).status_code == 204
        assert operations.delete(path).status_code == 404
        assert backup["id"] not in {found["id"] for found in operations.get("/v1/backups").json()["backups"]}


def test_a_refused_cluster_change_is_logged(cluster) -> None:
    """With its sender, so that guessing shows; never with what was sent as a token."""
    guess = f"guess-{uuid.uuid4().hex}"
    path = f"/v1/cluster/nodes/storage-{guess[-6:]}"
    url = f"{cluster.operations_url('gateway-1')}{path}"
    answer = httpx.delete(url, headers={"authorization": f"Bearer {guess}"}, trust_env=False, timeout=30)
    assert answer.status_code == 401
    log = cluster.layout.log_file("gateway-1")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(log) if f'"{path}"' in line]

    block_until(lines, "the refusal is written")
    denied = [line["row"] for line in lines() if line.get("row", {}).get("event") == "denied"]
    assert [(line["address"], line["code"]) for line in denied] == [("127.0.0.1", answer.json()["code"])], lines()
    assert guess not in log.read_text()
