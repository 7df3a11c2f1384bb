"""Bad input (docs/faults.md, "Bad input"): a test for every row, with its injection and its figure.

B15 is tests/integration/gateway/test_rfc9110.py; B16 is test_api_model.py and tests/integration/specifications. The attacks
that take their time (B10, B11) are in test_slow_clients.py.
"""

from __future__ import annotations

import gzip
import itertools
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import httpx
import psutil
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.units import KIB, MIB
from tests.credentials import bearer_line

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

RSS_GROWTH_BYTES = 16 * MIB
CPU_S = 0.1


def send_raw(url: str, request: bytes) -> bytes:
    """Everything that is answered until the connection ends."""
    address = httpx.URL(url)
    received = bytearray()
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        # Refused before all of it was sent, as it should be.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@contextmanager
def cheap_for(cluster, *, cpu_s: float = CPU_S) -> Iterator[None]:
    """What happens inside costs the gateway neither time nor memory."""
    process = psutil.Process(cluster.pid("gateway-1"))
    rss, times = process.memory_info().rss, process.cpu_times()
    yield
    after = process.cpu_times()
    assert process.memory_info().rss - rss < RSS_GROWTH_BYTES
    used_s = after.user + after.system - times.user - times.system
    print(f"{used_s * 1000:.0f} ms of CPU")
    assert used_s <= cpu_s


# --- B1: names that try to leave --------------------------------------------------------------------------------------

UPS = [
    "..",
    "%2e%2e",
    "%2E%2E",
    ".%2e",
    "%252e%252e",
    "..%00",
    "%c0%ae%c0%ae",
    "%u002e%u002e",
    ".",
    "...",
    "%ff%fe",
    "..;",
]
SLASHES = ["/", "%2f", "%5c", "\\", "//", "%252f", "%c0%af", "/./"]
TAILS = ["etc/passwd", "default/stolen", "v1/buckets", "redis-1.conf", "cluster-secret"]


def hostile_names() -> list[str]:
    """400 of them: every way up with every slash, once and several times, and some that stand alone."""
    names = [
        f"{(up + slash) * depth}{tail}" for up, slash, tail in itertools.product(UPS, SLASHES, TAILS) for depth in (1,)
    ]
    names = names[: 400 - 20]
    names += [f"{(up + '/') * 8}etc/shadow" for up in UPS[:8]]
    names += [
        "/etc/passwd",
        "//etc/passwd",
        "%2fetc%2fpasswd",
        "C:%5cwindows",
        "%00",
        "a%00b",
        "~root",
        "a%0d%0aX-Evil:1",
    ]
    names += ["file:%2f%2f%2fetc%2fpasswd", "http:%2f%2f127.0.0.1%2f", "%", "%2"]
    return names


def test_b1_names_that_try_to_leave_stay_or_are_refused(cluster, gateway, gateway_urls, bucket) -> None:
    """Nothing outside the bucket changes, and nothing on any disk has a name that a client chose."""
    names = hostile_names()
    assert len(names) == 400
    before = gateway.get("/v1/files/default").json()["files"]
    kept: dict[str, bytes] = {}
    urls = itertools.cycle(gateway_urls)
    for number, name in enumerate(names):
        body = f"hostile {number}".encode()
        fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}connection: close\r\ncontent-length: {len(body)}"
        head = f"PUT /v1/files/{bucket}/{name} HTTP/1.1\r\n{fields}\r\n\r\n"
        answer = send_raw(next(urls), head.encode("latin-1") + body)
        assert status(answer) in {200, 201, 400}, (name, answer)
        if status(answer) != 400:
            kept[unquote_to_bytes(name).decode()] = body
    for key in kept:
        assert not {".", ".."} & set(key.split("/")), key
    listed = gateway.get(f"/v1/files/{bucket}").json()["files"]
    assert {row["key"] for row in listed} == kept.keys()
    for key, body in kept.items():
        assert gateway.get(f"/v1/files/{bucket}/{quote(key)}").content == body, key
    assert gateway.get("/v1/files/default").json()["files"] == before
    for path in cluster.layout.root.rglob("*"):
        assert not any(word in path.name for word in ("passwd", "stolen", "shadow", "hostile", "windows")), path


# --- B3, B4, B5: sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size_bytes", "expected"), [(0, 400), (1, 201), (1024, 201), (1025, 400)])
@pytest.mark.parametrize("character", ["k", "ä", "😀"])
def test_b3_a_key_has_1_to_1024_bytes(gateway, bucket, size_bytes, expected, character) -> None:
    """Bytes and not characters; exactly."""
    width = len(character.encode())
    key = character * (size_bytes // width) + "k" * (size_bytes % width)
    assert gateway.put(f"/v1/files/{bucket}/{quote(key)}", content=b"x").status_code == expected
    read = gateway.get(f"/v1/files/{bucket}/{quote(key)}")
    assert read.status_code == (200 if expected == 201 else 400)


@pytest.mark.parametrize("key", ["../up", "a/./b", "line\nbreak", "\x7f"])
def test_b3_a_key_that_no_path_names_is_reached_by_the_calls_with_json(gateway, bucket, key) -> None:
    """Lists mark it; it is copied to, tagged with a copy, found among the versions, renamed and deleted. Paths refuse it."""
    body, names = b"content", {"bucket": bucket}
    assert gateway.put(f"/v1/files/{bucket}/plain", content=body).status_code == 201
    plain, unsafe = names | {"key": "plain"}, names | {"key": key}
    assert gateway.post("/v1/copy", json={"source": plain, "target": unsafe}).status_code == 201
    listed = gateway.get(f"/v1/files/{bucket}").json()["files"]
    assert {row["key"]: row["path_unsafe"] for row in listed} == {"plain": False, key: True}
    versions = gateway.get(f"/v1/versions/{bucket}", params={"key": key}).json()["versions"]
    assert [(row["key"], row["path_unsafe"]) for row in versions] == [(key, True)]
    assert gateway.get(f"/v1/files/{bucket}/{quote(key, safe='')}").status_code == 400
    moved = {"source": unsafe, "target": names | {"key": "moved"}}
    assert gateway.post("/v1/rename", json=moved).status_code == 201
    assert gateway.get(f"/v1/files/{bucket}/moved").content == body
    begun = gateway.post("/v1/uploads", json=unsafe).json()
    [upload] = gateway.get("/v1/uploads", params=names).json()["uploads"]
    assert (upload["upload_id"], upload["key"], upload["path_unsafe"]) == (begun["upload_id"], key, True)
    deleted = gateway.post("/v1/batch-delete", json=names | {"files": [{"key": key}, {"key": "plain"}]}).json()
    assert [row["problem"] for row in deleted["results"]] == [None, None]
    assert [row["key"] for row in gateway.get(f"/v1/files/{bucket}").json()["files"]] == ["moved"]


def test_b4_a_file_of_no_bytes_goes_round(gateway, bucket) -> None:
    """With the digest of nothing, and no range in it."""
    url = f"/v1/files/{bucket}/nothing"
    receipt = gateway.put(url, content=b"").json()
    assert (receipt["digest"], receipt["size_bytes"], receipt["chunk_count"]) == (blake3(b"").hexdigest(), 0, 0)
    read = gateway.get(url)
    assert (read.status_code, read.content, read.headers["content-length"]) == (200, b"", "0")
    assert gateway.get(url, headers={"range": "bytes=0-"}).status_code == 416


def send_and_compare(gateway: httpx.Client, url: str, seed: int, size_bytes: int) -> None:
    block = random.Random(seed).randbytes(MIB)
    sent, read = blake3(), blake3()

    def body() -> Iterator[bytes]:
        for start in range(0, size_bytes, MIB):
            piece = (start.to_bytes(8) + block[8:])[: size_bytes - start]
            sent.update(piece)
            yield piece

    receipt = gateway.put(url, content=body()).json()
    assert (receipt["digest"], receipt["size_bytes"]) == (sent.hexdigest(), size_bytes)
    with gateway.stream("GET", url) as answer:
        for piece in answer.iter_raw():
            read.update(piece)
    assert read.hexdigest() == sent.hexdigest()


def highest_rss(pid: int) -> int:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("size_bytes", [MIB - 1, MIB, MIB + 1, 5 * MIB])
def test_b5_sizes_around_a_chunk(gateway, bucket, seed, size_bytes) -> None:
    """Streamed in and out with the right hash."""
    send_and_compare(gateway, f"/v1/files/{bucket}/k", seed, size_bytes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_b5_five_gigabytes_in_200_mib(cluster, gateway, second, bucket, seed) -> None:
    """Neither gateway ever had more memory."""
    send_and_compare(gateway, f"/v1/files/{bucket}/k", seed, 5 * 1000 * MIB)
    peaks = [highest_rss(pid) for pid in (cluster.pid("gateway-1"), second.pid)]
    print(f"gateways had {peaks} bytes at most")
    assert max(peaks) <= 200 * MIB


# --- B6: uploads that do not keep their word --------------------------------------------------------------------------

BROKEN_BYTES = MIB + 100 * KIB
REPEATS = 100


def _broken_upload(cluster: Cluster, url: str, path: str, body: bytes, announced_bytes: int) -> bytes:
    """Send `body` whatever was announced; a client that has nothing more to say hangs up on its side."""
    address = httpx.URL(url)
    received = bytearray()
    with socket.create_connection((address.host, address.port), timeout=60) as connection:
        fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}content-length: {announced_bytes}"
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        connection.sendall(body)
        if len(body) < announced_bytes:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_b6_an_upload_that_breaks_off_leaves_nothing(cluster, gateway, gateway_urls, bucket, seed, percent) -> None:
    """100 of them: every body shorter than announced, at this part of it; absent, each one."""
    body = random.Random(seed).randbytes(BROKEN_BYTES)
    sent_bytes = BROKEN_BYTES * percent // 100

    def attempt(number: int) -> bytes:
        url = gateway_urls[number % 2]
        return _broken_upload(cluster, url, f"/v1/files/{bucket}/k{number}", body[:sent_bytes], BROKEN_BYTES)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, range(REPEATS)))
    assert not any(answer.startswith(b"HTTP/1.1 2") for answer in answers)
    assert gateway.put(f"/v1/files/{bucket}/after", content=b"x").status_code == 201
    assert [row["key"] for row in gateway.get(f"/v1/files/{bucket}").json()["files"]] == ["after"]


def test_b6_what_a_body_has_more_than_announced_is_no_part_of_the_file(
    cluster, gateway, gateway_urls, bucket, seed
) -> None:
    """100 of them: the file is what was announced, and the rest is refused as the request that it is not."""
    body = random.Random(seed).randbytes(2000)

    def attempt(number: int) -> bytes:
        url = gateway_urls[number % 2]
        return _broken_upload(cluster, url, f"/v1/files/{bucket}/k{number}", body, 1000)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(attempt, range(REPEATS)))
    for number, answer in enumerate(answers):
        assert answer.startswith(b"HTTP/1.1 201 "), answer
        assert answer.count(b"HTTP/1.1") <= 2
        assert gateway.get(f"/v1/files/{bucket}/k{number}").content == body[:1000]


# --- B9, B12: requests that are cheap to send and dear to take ----------------------------------------------------------

HEAD = b"GET /v1/time HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (HEAD + b"big: " + b"v" * MIB + b"\r\n\r\n", 431),
        (HEAD + b"big: " + b"v" * (8 * MIB) + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"h%d: v\r\n" % number for number in range(10_000)) + b"\r\n", 431),
        (b"GET /" + b"u" * (64 * KIB) + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 414),
    ],
    ids=["header of 1 MiB", "header of 8 MiB", "10,000 headers", "URL of 64 KiB"],
)
def test_b9_a_huge_head_is_refused_at_no_cost(cluster, request_bytes, expected) -> None:
    """The refusal itself arrives, also at a client that is still sending; ten times."""
    with cheap_for(cluster, cpu_s=10 * CPU_S):
        for _ in range(10):
            assert status(send_raw(cluster.gateway_url, request_bytes)) == expected


def test_b12_a_compressed_body_is_stored_as_it_is(cluster, bucket, gateway) -> None:
    """1 GiB of zeros in 1 MiB is 1 MiB: nothing of a client's is ever unpacked."""
    packed = gzip.compress(bytes(256 * MIB), 9)
    url = f"{cluster.gateway_url}/v1/files/{bucket}/bomb"
    with cheap_for(cluster):
        headers = cluster.bearer | {"content-encoding": "gzip"}
        stored = httpx.put(url, content=packed, headers=headers, trust_env=False, timeout=30)
    assert (stored.status_code, stored.json()["size_bytes"]) == (201, len(packed))
    assert gateway.get(f"/v1/files/{bucket}/bomb").content == packed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"id":"' + b"x" * 300_000 + b'"}', 413),
        (b'{"id":"' + b"x" * 100_000_000 + b'"}', 413),
    ],
    ids=["100,000 deep", "300 kB", "100 MB"],
)
def test_b12_json_is_bounded_in_depth_and_size(cluster, body, expected) -> None:
    """From an administrator even, and still cheap."""
    head = f"POST /v1/cluster/nodes HTTP/1.1\r\nhost: 127.0.0.1\r\n{bearer_line(cluster)}"
    with cheap_for(cluster):
        answer = send_raw(
            cluster.operations_url("gateway-1"),
            f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body,
        )
    assert status(answer) == expected


def test_b12_a_form_of_ten_thousand_parts_is_413(cluster, bucket, gateway) -> None:
    """What stands around the file is bounded, and so are its parts."""
    part = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n\r\n'
    body = part * 10_000 + b'--b\r\nContent-Disposition: form-data; name="file"; filename="k"\r\n\r\nx\r\n--b--\r\n'
    fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}content-type: multipart/form-data; boundary=b\r\n"
    head = f"POST /v1/files/{bucket} HTTP/1.1\r\n{fields}"
    with cheap_for(cluster):
        answer = send_raw(
            cluster.gateway_url, f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
    assert status(answer) == 413
    assert gateway.get(f"/v1/files/{bucket}").json()["files"] == []


def test_b12_ten_thousand_ranges_are_416(cluster, bucket, gateway) -> None:
    """In one header of 30 KB."""
    gateway.put(f"/v1/files/{bucket}/k", content=b"x" * 100)
    value = "bytes=" + ",".join(["0-"] * 10_000)
    with cheap_for(cluster):
        headers = cluster.bearer | {"range": value}
        answer = httpx.get(f"{cluster.gateway_url}/v1/files/{bucket}/k", headers=headers, trust_env=False, timeout=30)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */100")
