"""Small uploads through two gateways, one of which remembers a bucket that the other one has changed since."""

from __future__ import annotations

import random

import httpx
import pytest

from tests.chance import random_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def gateways(cluster, gateway_urls):
    with (
        httpx.Client(base_url=gateway_urls[0], headers=cluster.bearer, timeout=30, trust_env=False) as changing,
        httpx.Client(base_url=gateway_urls[1], headers=cluster.bearer, timeout=30, trust_env=False) as remembering,
    ):
        yield changing, remembering


@pytest.fixture
def name() -> str:
    return f"again-{random_bytes(4).hex()}"


def make(gateway: httpx.Client, name: str) -> int:
    answer = gateway.put(f"/v1/buckets/{name}")
    assert answer.status_code == 201
    return int(answer.json()["incarnation"])


def empty_and_delete(gateway: httpx.Client, name: str) -> None:
    for file in gateway.get(f"/v1/files/{name}").raise_for_status().json()["files"]:
        assert gateway.delete(f"/v1/files/{name}/{file['key']}").status_code == 204
    assert gateway.delete(f"/v1/buckets/{name}").status_code == 204


def test_a_bucket_made_again_between_two_small_uploads_takes_the_second(gateways, name, seed) -> None:
    """The file is in the new bucket and in its list, whole, and the file of the old bucket is nowhere."""
    changing, remembering = gateways
    draw, incarnations = random.Random(seed), [make(changing, name)]
    for round_ in range(5):
        before, after = draw.randbytes(4096), draw.randbytes(4096)
        assert remembering.put(f"/v1/files/{name}/before-{round_}", content=before).status_code == 201
        empty_and_delete(changing, name)
        incarnations.append(make(changing, name))
        receipt = remembering.put(f"/v1/files/{name}/after-{round_}", content=after)
        assert receipt.status_code == 201, receipt.text
        assert receipt.json()["version"] > incarnations[-1]
        for gateway in gateways:
            listed = gateway.get(f"/v1/files/{name}").json()["files"]
            assert [file["key"] for file in listed] == [f"after-{round_}"]
            assert gateway.get(f"/v1/files/{name}/after-{round_}").content == after
    assert incarnations == sorted(set(incarnations))
    empty_and_delete(changing, name)


def test_a_bucket_deleted_between_two_small_uploads_is_not_found_by_the_second(gateways, name) -> None:
    """404, definite; once it is there again, the next upload finds it."""
    changing, remembering = gateways
    make(changing, name)
    assert remembering.put(f"/v1/files/{name}/x", content=b"x").status_code == 201
    empty_and_delete(changing, name)
    refused = remembering.put(f"/v1/files/{name}/x", content=b"x")
    assert (refused.status_code, refused.json()["code"], refused.json()["definite"]) == (404, "bucket_not_found", True)
    make(changing, name)
    assert remembering.put(f"/v1/files/{name}/x", content=b"y").status_code == 201
    assert changing.get(f"/v1/files/{name}/x").content == b"y"
    empty_and_delete(changing, name)
