"""Uploads by parts against a whole cluster: in parallel, through two gateways, and with what is killed in between."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.units import KIB, MIB
from tests.credentials import bearer_line
from tests.integration.second_gateway import SecondGateway
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PART = 5 * MIB
KEY = "film"


def until_answered(ask: Callable[[], httpx.Response | None], what: str) -> httpx.Response:
    """The first answer that `ask` gives."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        if (answer := ask()) is not None:
            answers.append(answer)
        return bool(answers)

    block_until(is_answered, what, within_s=60)
    return answers[0]


def begin(client: httpx.Client, bucket: str, **fields: Any) -> str:
    """The id of a new upload, once the cluster takes such entries."""

    def begun() -> httpx.Response | None:
        answer = client.post("/v1/uploads", json={"bucket": bucket, "key": KEY, **fields})
        return None if answer.json().get("code") == "upgrade_unfinished" else answer

    answer = until_answered(begun, "an upload begins")
    assert answer.status_code == 201, answer.text
    return str(answer.json()["upload_id"])


def put_part(client: httpx.Client, upload: str, number: int, body: bytes) -> dict[str, Any]:
    answer = client.put(f"/v1/uploads/{upload}/parts/{number}", content=body)
    assert answer.status_code == 200, answer.text
    stored: dict[str, Any] = answer.json()
    assert (stored["number"], stored["size_bytes"]) == (number, len(body))
    assert stored["etag"] == blake3(body).hexdigest() == answer.headers["etag"].strip('"')
    return stored


def listed(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"parts": [{"number": part["number"], "etag": part["etag"]} for part in parts]}


def test_parts_in_parallel_through_two_gateways(gateway, bucket, seed) -> None:
    """Any order, any gateway; the file is read by ranges over the borders of its parts."""
    source = random.Random(seed)
    bodies = [source.randbytes(size) for size in (PART + 1, PART, PART + MIB // 2, 77 * KIB)]
    upload = begin(gateway, bucket, content_type="video/mp4", user_metadata={"place": "Rome"}, tags={"stage": "draft"})
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda number: put_part(gateway, upload, number, bodies[number - 1]), [1, 2, 3, 4]))
    assert gateway.get(f"/v1/files/{bucket}/{KEY}").status_code == 404
    shown = gateway.get(f"/v1/uploads/{upload}").json()
    assert [part["number"] for part in shown["parts"]] == [1, 2, 3, 4]
    assert [row["upload_id"] for row in gateway.get("/v1/uploads", params={"bucket": bucket}).json()["uploads"]] == [
        upload
    ]
    completed = gateway.post(f"/v1/uploads/{upload}/complete", json=listed(*parts))
    assert completed.status_code == 201, completed.text
    receipt, body = completed.json(), b"".join(bodies)
    assert (receipt["size_bytes"], receipt["digest"], receipt["chunk_count"]) == (len(body), None, 6 + 5 + 6 + 1)
    again = gateway.post(f"/v1/uploads/{upload}/complete", json=listed(*parts))
    assert (again.status_code, again.json()["version"]) == (201, receipt["version"])
    read = gateway.get(f"/v1/files/{bucket}/{KEY}")
    assert read.content == body
    assert read.headers["content-type"] == "video/mp4"
    assert read.headers["x-trivet-meta-place"] == "Rome"
    assert read.headers["etag"] == f'"{receipt["etag"]}"'
    assert read.headers["x-trivet-content-id"] == receipt["content_id"]
    assert "x-trivet-digest" not in read.headers
    borders = [0, PART + 1, 2 * PART + 1, 3 * PART + 1 + MIB // 2, len(body)]
    spans = [(at + near, at + near + 2 * MIB) for at in borders for near in (-MIB, -1, 0, 1)]
    for start, stop in [(max(0, start), min(stop, len(body))) for start, stop in spans if start < len(body)]:
        part = gateway.get(f"/v1/files/{bucket}/{KEY}", headers={"range": f"bytes={start}-{stop - 1}"})
        assert part.status_code == 206
        assert part.content == body[start:stop], (start, stop)
    several = gateway.get(f"/v1/files/{bucket}/{KEY}", headers={"range": f"bytes=0-9,{PART - 3}-{PART + 7},-5"})
    assert several.status_code == 206
    for start, stop in ((0, 10), (PART - 3, PART + 8), (len(body) - 5, len(body))):
        assert body[start:stop] in several.content
    head = gateway.head(f"/v1/files/{bucket}/{KEY}", headers={"x-trivet-read-quorum": "2"})
    assert int(head.headers["x-trivet-replicas-confirmed"]) >= 2
    assert gateway.get(f"/v1/uploads/{upload}").status_code == 404
    assert gateway.get("/v1/uploads", params={"bucket": bucket}).json()["uploads"] == []


def test_a_gateway_killed_between_parts_and_in_the_middle_of_one(gateway, cluster, bucket, tmp_path, seed) -> None:
    """The others go on with what was acknowledged; the part that was under way is sent again."""
    body = random.Random(seed).randbytes(2 * PART)
    with SecondGateway(cluster, tmp_path / "gateway-3.log") as third:
        with httpx.Client(base_url=third.url, headers=cluster.bearer, timeout=30, trust_env=False) as client:
            upload = begin(client, bucket)
            first = put_part(client, upload, 1, body[:PART])
        with socket.create_connection(third.address, timeout=30) as connection:
            fields = f"Host: {third.address[0]}:{third.address[1]}\r\n{bearer_line(cluster)}"
            head = f"PUT /v1/uploads/{upload}/parts/2 HTTP/1.1\r\n{fields}"
            connection.sendall(head.encode() + f"Content-Length: {PART}\r\n\r\n".encode() + body[PART : PART + 2 * MIB])
            third.kill()
    shown = gateway.get(f"/v1/uploads/{upload}").json()
    assert [part["number"] for part in shown["parts"]] == [1]
    second = put_part(gateway, upload, 2, body[PART:])
    assert gateway.post(f"/v1/uploads/{upload}/complete", json=listed(first, second)).status_code == 201
    assert gateway.get(f"/v1/files/{bucket}/{KEY}").content == body


def test_bad_input_is_told_apart(gateway, bucket, seed) -> None:
    """Each with a code of its own; nothing is half done."""
    small = put_parts_of(gateway, begin(gateway, bucket), [b"a", b"b"])
    upload = small[0]
    wrong = [
        ({"parts": []}, 400, "invalid_request"),
        ({"parts": [{"number": 1, "etag": "x"}]}, 400, "invalid_part"),
        ({"parts": [{"number": 3, "etag": small[1][0]["etag"]}]}, 400, "invalid_part"),
        (listed(small[1][1], small[1][0]), 400, "invalid_part_order"),
        (listed(small[1][0], small[1][0]), 400, "invalid_part_order"),
        (listed(*small[1]), 400, "part_too_small"),
        ({"parts": [{"number": 0, "etag": "x"}]}, 400, "invalid_request"),
        ({"parts": [{"number": 10_001, "etag": "x"}]}, 400, "invalid_request"),
    ]
    for body, status, code in wrong:
        answer = gateway.post(f"/v1/uploads/{upload}/complete", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
    for number in ("0", "10001", "x", "-1", "1.5"):
        answer = gateway.put(f"/v1/uploads/{upload}/parts/{number}", content=b"x")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), number
    other = upload[:-1] + ("0" if upload[-1] != "0" else "1")
    for path in (other, "nonsense", "0" * 16 + "-" + "0" * 32):
        assert gateway.put(f"/v1/uploads/{path}/parts/1", content=b"x").json()["code"] == "upload_not_found"
        assert gateway.get(f"/v1/uploads/{path}").status_code == 404
    assert gateway.get(f"/v1/files/{bucket}/{KEY}").status_code == 404
    assert gateway.delete(f"/v1/uploads/{upload}").status_code == 204
    for call in (gateway.delete, gateway.get):
        assert call(f"/v1/uploads/{upload}").json()["code"] == "upload_not_found"
    assert gateway.post(f"/v1/uploads/{upload}/complete", json=listed(small[1][0])).json()["code"] == "upload_not_found"
    assert gateway.post("/v1/uploads", json={"bucket": "nowhere", "key": KEY}).json()["code"] == "bucket_not_found"


def put_parts_of(client: httpx.Client, upload: str, bodies: list[bytes]) -> tuple[str, list[dict[str, Any]]]:
    return upload, [put_part(client, upload, number, body) for number, body in enumerate(bodies, start=1)]


def test_a_large_body_is_a_file_like_any_other(gateway, cluster, bucket, tmp_path, seed) -> None:
    """Small chunks make it long: what one entry can name is passed, and neither its client nor its readers notice."""
    body = random.Random(seed).randbytes(2049 * 4 * KIB + 5)
    with (
        SecondGateway(cluster, tmp_path / "gateway-3.log", {"TRIVET_CHUNK_SIZE_BYTES": "4096"}) as third,
        httpx.Client(base_url=third.url, headers=cluster.bearer, timeout=120, trust_env=False) as client,
    ):
        begin(client, bucket)  # entries of parts may be proposed
        stored = client.put(f"/v1/files/{bucket}/{KEY}", content=body)
    assert stored.status_code == 201, stored.text
    assert (stored.json()["digest"], stored.json()["chunk_count"]) == (blake3(body).hexdigest(), 2050)
    assert gateway.get(f"/v1/files/{bucket}/{KEY}").content == body
    part = gateway.get(f"/v1/files/{bucket}/{KEY}", headers={"range": f"bytes={2048 * 4096 - 3}-{2048 * 4096 + 3}"})
    assert part.content == body[2048 * 4096 - 3 : 2048 * 4096 + 4]


STEPS = ("begin", "part 1", "part 2", "copy", "complete")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["gateway", "leader", "storage-1"])
def test_a_crash_at_every_step_of_an_upload(victim, cluster, gateway, bucket, seed, tmp_path) -> None:
    """Killed beside the step: it is repeated as a client would, by another gateway too, and the file is right in the end."""
    body = random.Random(seed).randbytes(2 * PART)
    assert gateway.put(f"/v1/files/{bucket}/source", content=body).status_code == 201
    for at in STEPS:
        with SecondGateway(cluster, tmp_path / f"{at}.log") as third:
            run = Run((third.url, cluster.gateway_url), cluster.bearer, bucket, f"film-{STEPS.index(at)}", body)
            for step in STEPS:
                crash = partial(kill, cluster, victim, third) if step == at else None
                run.take(step, crash)
            read = run.call("GET", f"/v1/files/{bucket}/{run.key}")
            assert read.content == body + body[5 : PART + 9], (at, victim)
        asyncio.run(cluster.start())


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["gateway", "leader", "storage-1"])
def test_a_crash_beside_an_abort(victim, cluster, gateway, bucket, seed, tmp_path) -> None:
    """Repeated under its key it is answered as the first time; nothing is left of the upload."""
    with SecondGateway(cluster, tmp_path / "gateway-3.log") as third:
        run = Run(
            (third.url, cluster.gateway_url), cluster.bearer, bucket, "never", random.Random(seed).randbytes(PART)
        )
        run.take("begin", None)
        run.take("part 1", None)
        run.take("abort", partial(kill, cluster, victim, third))
        assert run.call("GET", f"/v1/files/{bucket}/never").status_code == 404
        shown = run.call("GET", "/v1/uploads", params={"bucket": bucket})
        assert shown.json()["uploads"] == []


def kill(cluster: Cluster, victim: str, third: SecondGateway) -> None:
    if victim == "gateway":
        third.kill()
        return
    if victim == "leader":
        url = f"{cluster.gateway_url}/v1/cluster"
        victim = httpx.get(url, headers=cluster.bearer, timeout=30, trust_env=False).json()["leader"]
    cluster.kill(victim)


class Run:
    """An upload through gateways that may go away: each call is repeated until one of them has answered it for good."""

    def __init__(self, urls: tuple[str, ...], bearer: dict[str, str], bucket: str, key: str, body: bytes) -> None:
        self.key = key
        self._urls = urls
        self._bearer = bearer
        self._bucket = bucket
        self._body = body
        self._path = ""
        self._parts: list[dict[str, Any]] = []

    def take(self, step: str, crash: Callable[[], None] | None) -> None:
        """The step, with the crash beside its first attempt."""
        if crash is None:
            self._take(step)
            return
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(self._take, step)
            crash()
            taken.result()

    def _take(self, step: str) -> None:
        once = {"idempotency-key": f"{self.key}-{step}".replace(" ", "-")}
        match step:
            case "begin":
                wanted = {"bucket": self._bucket, "key": self.key}
                begun = self.call("POST", "/v1/uploads", json=wanted, headers=once).json()
                self._path = f"/v1/uploads/{begun['upload_id']}"
            case "copy":
                source = {"source": {"bucket": self._bucket, "key": "source"}, "range_start": 5, "range_end": PART + 9}
                self._parts.append(self.call("POST", f"{self._path}/parts/3/copy", json=source).json())
            case "abort":
                answer = self.call("DELETE", self._path, headers=once)
                assert answer.status_code == 204, answer.text
            case "complete":
                answer = self.call("POST", f"{self._path}/complete", json=listed(*self._parts), headers=once)
                assert answer.status_code == 201, answer.text
            case _:
                number = int(step[-1])
                body = self._body[(number - 1) * PART : number * PART]
                self._parts.append(self.call("PUT", f"{self._path}/parts/{number}", content=body).json())

    def call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        """Until it is answered for good, by whichever gateway."""
        request |= {"headers": self._bearer | (headers or {}), "timeout": 30, "trust_env": False}

        def answered() -> httpx.Response | None:
            for url in self._urls:
                try:
                    answer = httpx.request(method, url + path, **request)
                except httpx.TransportError:
                    continue
                is_repeated = answer.status_code == 409 and answer.json()["code"] == "request_in_progress"
                if answer.status_code < 500 and not is_repeated:
                    return answer
            return None

        return until_answered(answered, f"{method} {path}")
