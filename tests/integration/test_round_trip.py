"""Files in and out of a whole cluster, over the public HTTP surface."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.units import KIB, MIB
from tests.credentials import bearer_line

pytestmark = pytest.mark.cluster


def random_bytes(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


@pytest.mark.parametrize("size_bytes", [0, 1, MIB - 1, MIB, MIB + 1, 20 * MIB])
def test_a_file_of_any_size_comes_back_byte_for_byte(gateway, bucket, seed, size_bytes) -> None:
    """GET and HEAD give what PUT took, and the receipt tells the truth about it."""
    body = random_bytes(seed, size_bytes)
    url = f"/v1/files/{bucket}/some/file.bin"
    stored = gateway.put(
        url, content=body, headers={"content-type": "application/x-test", "x-trivet-meta-colour": "red"}
    )
    assert stored.status_code == 201, stored.text
    receipt = stored.json()
    assert receipt["digest"] == blake3(body).hexdigest()
    assert receipt["size_bytes"] == size_bytes
    assert receipt["chunk_count"] == -(-size_bytes // MIB)
    assert receipt["durability"]["target"] == 3
    assert receipt["durability"]["acknowledged"] >= 2 or size_bytes == 0
    read = gateway.get(url)
    assert read.status_code == 200
    assert read.content == body
    head = gateway.head(url)
    assert head.status_code == 200
    for answer in (read, head):
        assert answer.headers["content-length"] == str(size_bytes)
        assert answer.headers["content-type"] == "application/x-test"
        assert answer.headers["etag"] == f'"{receipt["etag"]}"'
        assert answer.headers["x-trivet-version"] == str(receipt["version"])
        assert answer.headers["x-trivet-meta-colour"] == "red"


def test_a_body_of_unknown_length_is_taken(gateway, bucket, seed) -> None:
    """Chunked transfer encoding, in pieces that do not fit the chunk size."""
    body = random_bytes(seed, 3 * MIB + 17)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 77_777):
            yield body[start : start + 77_777]

    assert gateway.put(f"/v1/files/{bucket}/stream", content=pieces()).status_code == 201
    assert gateway.get(f"/v1/files/{bucket}/stream").content == body


def test_replacing_a_file_shows_the_new_one_and_grows_its_version(gateway, bucket, seed) -> None:
    """200 instead of 201; nothing of the old bytes is left to see, also when the new ones are fewer."""
    url = f"/v1/files/{bucket}/file"
    first = gateway.put(url, content=random_bytes(seed, 2 * MIB + 5))
    second = gateway.put(url, content=b"short")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["version"] > first.json()["version"]
    assert second.json()["etag"] != first.json()["etag"]
    assert gateway.get(url).content == b"short"


def test_a_deleted_file_is_gone_and_its_404_carries_the_index_of_the_deletion(gateway, bucket) -> None:
    """Deletes count as versions, so that readers can order what they saw."""
    url = f"/v1/files/{bucket}/file"
    version = gateway.put(url, content=b"x").json()["version"]
    assert gateway.delete(url).status_code == 204
    gone = gateway.get(url)
    assert gone.status_code == 404
    assert gone.json()["code"] == "file_not_found"
    assert int(gone.headers["x-trivet-version"]) > version
    assert gateway.delete(url).status_code == 404


def test_a_list_is_complete_in_utf8_order_over_all_pages(gateway, bucket) -> None:
    """Every key once, whatever the page size."""
    keys = [f"dir-{number % 3}/{number:02}" for number in range(12)] + ["a", "z", "ä", "😀", "B"]
    for key in keys:
        assert gateway.put(f"/v1/files/{bucket}/{quote(key)}", content=key.encode()).status_code == 201
    found: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 5} | ({"cursor": cursor} if cursor else {})
        page = gateway.get(f"/v1/files/{bucket}", params=parameters).json()
        assert len(page["files"]) <= 5
        found += [entry["key"] for entry in page["files"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == sorted(keys, key=str.encode)
    tree = gateway.get(f"/v1/files/{bucket}", params={"delimiter": "/"}).json()
    assert tree["prefixes"] == ["dir-0/", "dir-1/", "dir-2/"]
    assert [entry["key"] for entry in tree["files"]] == ["B", "a", "z", "ä", "😀"]
    below = gateway.get(f"/v1/files/{bucket}", params={"prefix": "dir-1/"}).json()
    assert [entry["key"] for entry in below["files"]] == ["dir-1/01", "dir-1/04", "dir-1/07", "dir-1/10"]


def test_a_bucket_is_deleted_only_when_it_is_empty(gateway, bucket) -> None:
    """And `default` never."""
    gateway.put(f"/v1/files/{bucket}/file", content=b"x")
    assert gateway.delete(f"/v1/buckets/{bucket}").status_code == 409
    gateway.delete(f"/v1/files/{bucket}/file")
    assert gateway.delete(f"/v1/buckets/{bucket}").status_code == 204
    assert gateway.put(f"/v1/files/{bucket}/file", content=b"x").status_code == 404
    assert gateway.delete("/v1/buckets/default").status_code == 409


@pytest.mark.parametrize("percent", [1, 50, 99])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_upload_that_breaks_off_changes_nothing(gateway, cluster, bucket, seed, percent, is_chunked) -> None:
    """No visible file where there was none, the old version where there was one."""
    old = random_bytes(seed, MIB + 3)
    version = gateway.put(f"/v1/files/{bucket}/old", content=old).json()["version"]
    body = random_bytes(seed + 1, 4 * MIB)
    for key in ("old", "new"):
        _break_off(cluster, f"/v1/files/{bucket}/{key}", body, percent, is_chunked=is_chunked)
    # A write after the broken ones is ordered after anything that they could still have published by mistake.
    assert gateway.put(f"/v1/files/{bucket}/after", content=b"x").status_code == 201
    kept = gateway.get(f"/v1/files/{bucket}/old")
    assert kept.content == old
    assert kept.headers["x-trivet-version"] == str(version)
    assert gateway.get(f"/v1/files/{bucket}/new").status_code == 404
    listed = gateway.get(f"/v1/files/{bucket}").json()["files"]
    assert [entry["key"] for entry in listed] == ["after", "old"]


def _break_off(cluster: Cluster, path: str, body: bytes, percent: int, *, is_chunked: bool) -> None:
    """Send a part of a PUT, wait until the gateway has taken it, and hang up."""
    framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {len(body)}"
    part = body[: len(body) * percent // 100]
    address = httpx.URL(cluster.gateway_url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        connection.sendall(
            f"PUT {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{bearer_line(cluster)}{framing}\r\n\r\n".encode()
        )
        if is_chunked:
            for start in range(0, len(part), 64 * KIB):
                piece = part[start : start + 64 * KIB]
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        else:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        # Reads until the gateway closes: it has seen the end by then, and whatever it does about it is done or refused.
        while connection.recv(4096):
            pass


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/{bucket}/a/../b",
        "/v1/files/{bucket}/%2e%2e/b",
        "/v1/files/{bucket}/a%00b",
        "/v1/files/{bucket}/%ff",
        "/v1/files/{bucket}/" + "k" * 1025,
        "/v1/files/UPPER/x",
        "/v1/files/..%2f..%2fetc/passwd",
    ],
)
def test_a_wrong_name_is_a_400_and_stores_nothing(cluster, gateway, bucket, path) -> None:
    """Sent raw, because clients tidy paths up before they send them."""
    address = httpx.URL(cluster.gateway_url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        fields = f"host: {address.host}\r\n{bearer_line(cluster)}connection: close\r\ncontent-length: 1"
        connection.sendall(f"PUT {path.format(bucket=bucket)} HTTP/1.1\r\n{fields}\r\n\r\nx".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ", 2)[1] == b"400", answer
    assert b"application/problem+json" in answer
    assert gateway.get(f"/v1/files/{bucket}").json()["files"] == []


def test_a_longest_key_is_taken(gateway, bucket) -> None:
    """The other side of the edge: 1024 bytes."""
    url = f"/v1/files/{bucket}/" + "k" * 1024
    assert gateway.put(url, content=b"x").status_code == 201
    assert gateway.get(url).content == b"x"


def test_docs_show_the_whole_surface_without_any_outside_request(gateway) -> None:
    """Page and assets come from the gateway, and every call of the contract is in the schema."""
    html = gateway.get("/docs").text
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", html)
    for path in re.findall(r"""(?:src|href)=["'](/[^"']+)""", html):
        assert gateway.get(path).status_code == 200, path
    paths = gateway.get("/openapi.json").json()["paths"]
    for path in ("/v1/buckets", "/v1/buckets/{bucket}", "/v1/files/{bucket}", "/v1/cluster", "/v1/time"):
        assert path in paths
    file = next(methods for path, methods in paths.items() if path.startswith("/v1/files/{bucket}/{key"))
    assert {"put", "get", "head", "delete"} <= set(file)
    # What makes Swagger UI offer to choose a file for the body.
    body = next(iter(file["put"]["requestBody"]["content"].values()))
    assert body["schema"]["format"] == "binary"


def test_the_cluster_page_names_leader_members_and_nodes(gateway) -> None:
    """What an operator asks first."""
    page = gateway.get("/v1/cluster").json()
    assert page["leader"] in {"consensus-1", "consensus-2", "consensus-3"}
    assert len(page["members"]) == 3
    assert {node["id"]: node["state"] for node in page["nodes"]} == {f"storage-{n}": "active" for n in (1, 2, 3)}
