"""Through two gateways of a running cluster: what is revoked at one is refused by the very next request at the other."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from tests.chance import random_bytes
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SMALL = b"x" * 4096
ENDS_WITHIN_S = 30.0
"""A download looks again every five seconds, and the machine may be busy."""


class Keys:
    """Makes and revokes keys at the first gateway."""

    def __init__(self, operations: httpx.Client, bucket: str) -> None:
        self._operations = operations
        scope = {"actions": ["read", "write", "delete", "list"], "bucket": bucket}
        made = operations.post("/v1/identities", json={"name": f"of {bucket}", "scopes": [scope]})
        assert made.status_code == 201, made.text
        self._identity = made.json()["id"]

    def make(self) -> dict[str, str]:
        """A key; its id, and the header that shows it."""
        made = self._operations.post(f"/v1/identities/{self._identity}/keys", json={})
        assert made.status_code == 201, made.text
        key = made.json()
        return {"id": key["id"], "authorization": f"Bearer {key['id']}.{key['secret']}"}

    def revoke(self, key: dict[str, str]) -> None:
        answer = self._operations.delete(f"/v1/keys/{key['id']}")
        assert answer.status_code == 204, answer.text


@pytest.fixture
def keys(cluster, bucket):
    with httpx.Client(
        base_url=cluster.operations_url("gateway-1"), headers=cluster.bearer, timeout=30, trust_env=False
    ) as operations:
        yield Keys(operations, bucket)


def test_a_key_that_was_deleted_at_one_gateway_opens_nothing_at_the_other(
    cluster, second, keys, bucket, gateway
) -> None:
    """Whatever it is asked first, and however often it has answered the same before."""
    file = f"/v1/files/{bucket}/a"
    upload = gateway.post("/v1/uploads", json={"bucket": bucket, "key": "parts"}).json()["upload_id"]
    copy = {"source": {"bucket": bucket, "key": "a"}, "target": {"bucket": bucket, "key": "b"}}
    firsts: list[Callable[[httpx.Client], httpx.Response]] = [
        lambda client: client.get(file),
        lambda client: client.head(file),
        lambda client: client.put(file, content=SMALL),
        lambda client: client.put(f"/v1/files/{bucket}/large", content=bytes(3 << 20)),
        lambda client: client.delete(file),
        lambda client: client.put(f"/v1/uploads/{upload}/parts/1", content=SMALL),
        lambda client: client.post("/v1/copy", json=copy),
        lambda client: client.get(f"/v1/files/{bucket}"),
    ]
    for first in firsts:
        key = keys.make()
        with httpx.Client(
            base_url=second.url, headers={"authorization": key["authorization"]}, timeout=30, trust_env=False
        ) as client:
            # The record, the chunk, the bucket and the upload are in all of its caches.
            assert client.put(file, content=SMALL).status_code in {200, 201}
            assert client.put(f"/v1/uploads/{upload}/parts/2", content=SMALL).status_code in {200, 201}
            for _ in range(3):
                assert client.get(file).content == SMALL
            keys.revoke(key)
            refused = first(client)
            assert refused.status_code == 401, refused.text
        listed = gateway.get(f"/v1/files/{bucket}").json()["files"]
        assert [found["key"] for found in listed] == ["a"]


def test_a_download_ends_when_its_key_is_deleted(cluster, second, keys, bucket, gateway) -> None:
    """In mid-stream, at the other gateway."""
    body = random_bytes(1 << 20) * 64
    assert gateway.put(f"/v1/files/{bucket}/long", content=body).status_code == 201
    key = keys.make()
    with (
        httpx.Client(base_url=second.url, timeout=60, trust_env=False) as client,
        client.stream("GET", f"/v1/files/{bucket}/long", headers={"authorization": key["authorization"]}) as answer,
    ):
        pieces = answer.iter_bytes(64 << 10)
        received = len(next(pieces))
        keys.revoke(key)
        begun = 0.0

        def is_broken_off() -> bool:
            nonlocal received
            try:
                received += len(next(pieces))
            except httpx.RemoteProtocolError:
                return True
            assert received < len(body), "it was sent to its end"
            return False

        begun = block_until(is_broken_off, "the download is broken off", ENDS_WITHIN_S)
    assert begun < ENDS_WITHIN_S
