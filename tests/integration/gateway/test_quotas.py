"""Quotas over a real cluster and two gateways: never exceeded, and long bodies are refused before they are sent."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from shared.units import MIB
from tests.credentials import bearer_line

pytestmark = pytest.mark.cluster

FILE_BYTES = 1000
ROOM = 12
TRIES = 60


def set_quota(gateway: httpx.Client, bucket: str, **quota: int) -> None:
    answer = gateway.put(f"/v1/buckets/{bucket}/settings", json=quota)
    assert answer.status_code == 200, answer.text


def usage(gateway: httpx.Client, bucket: str) -> dict[str, int]:
    found: dict[str, int] = gateway.get(f"/v1/buckets/{bucket}/settings").json()["usage"]
    return found


@pytest.mark.parametrize("quota", [{"quota_bytes": ROOM * FILE_BYTES + FILE_BYTES // 2}, {"quota_files": ROOM}])
def test_two_gateways_that_race_for_the_last_room_never_exceed_it(gateway, gateway_urls, bucket, quota) -> None:
    """Exactly as many files as there is room for are there in the end, each acknowledged; all others were told why not."""
    set_quota(gateway, bucket, **quota)

    def put(number: int) -> httpx.Response:
        return gateway.put(f"{gateway_urls[number % 2]}/v1/files/{bucket}/{number}", content=bytes(FILE_BYTES))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(put, range(TRIES)))
    refused = [answer.json() for answer in answers if answer.status_code == 403]
    stored = [number for number, answer in enumerate(answers) if answer.status_code == 201]
    assert (len(stored), len(refused)) == (ROOM, TRIES - ROOM)
    assert {(problem["code"], problem["of"], problem["definite"]) for problem in refused} == {
        ("quota_exceeded", "bucket", True)
    }
    listed = gateway.get(f"/v1/files/{bucket}").json()["files"]
    assert sorted(int(file["key"]) for file in listed) == stored
    assert usage(gateway, bucket) == {"size_bytes": ROOM * FILE_BYTES, "files": ROOM}


def test_a_deletion_makes_room_at_the_other_gateway(gateway, second, bucket) -> None:
    """At once: the next file that fits is taken."""
    set_quota(gateway, bucket, quota_bytes=FILE_BYTES)
    url = f"/v1/files/{bucket}"
    assert gateway.put(f"{url}/a", content=bytes(FILE_BYTES)).status_code == 201
    assert gateway.put(f"{second.url}{url}/b", content=b"x").status_code == 403
    assert gateway.delete(f"{second.url}{url}/a").status_code == 204
    assert gateway.put(f"{url}/b", content=bytes(FILE_BYTES)).status_code == 201


def test_a_repeat_of_what_was_refused_is_refused_again(gateway, second, bucket) -> None:
    """Under its Idempotency-Key, although there is room by now; a new request is taken."""
    set_quota(gateway, bucket, quota_bytes=1)
    url, key = f"/v1/files/{bucket}/a", {"idempotency-key": "once"}
    assert gateway.put(url, content=b"ab", headers=key).status_code == 403
    set_quota(gateway, bucket, quota_bytes=2)
    assert gateway.put(f"{second.url}{url}", content=b"ab", headers=key).json()["code"] == "quota_exceeded"
    assert gateway.put(url, content=b"ab").status_code == 201


@pytest.mark.parametrize("as_part", [False, True])
def test_a_long_body_without_room_is_refused_before_it_is_sent(cluster, gateway, bucket, as_part) -> None:
    """No `100 Continue`, not a byte taken; of a file that it would replace the room is counted, and then it is taken."""
    body = bytes(3 * MIB)
    set_quota(gateway, bucket, quota_bytes=4 * MIB)
    if as_part:
        begun = gateway.post("/v1/uploads", json={"bucket": bucket, "key": "a"}).json()
        path = f"/v1/uploads/{begun['upload_id']}/parts/"
        first, second_path, again = f"{path}1", f"{path}2", f"{path}1"
    else:
        first, second_path, again = (f"/v1/files/{bucket}/{name}" for name in ("a", "b", "a"))
    assert gateway.put(first, content=body).status_code in {200, 201}
    spec = cluster.plan.get("gateway-1")
    with socket.create_connection(("127.0.0.1", int(spec.environment["TRIVET_PORT"])), timeout=20) as connection:
        head = f"PUT {second_path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{bearer_line(cluster)}"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["code"], problem["limit"], problem["used"]) == ("quota_exceeded", 4 * MIB, 3 * MIB)
    assert gateway.put(again, content=body).status_code in {200, 201}
