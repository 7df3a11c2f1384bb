"""What an identity may use, through the door of gateways: how often it asks, and how much it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.contracts.access import Action, IdentityLimits, UpdateIdentity
from tests.unit.gateway.access.scene import Holder, Scene, may

pytestmark = pytest.mark.virtual_time

FILES = (Action.READ, Action.WRITE, Action.DELETE, Action.LIST)


async def limited(scene: Scene, **limits: int) -> Holder:
    holder = await scene.holder(may("default", *FILES))
    await scene.metadata.propose(
        UpdateIdentity(identity=holder.identity, limits=IdentityLimits(**limits), stamp=scene.clock.stamp())
    )
    return holder


async def untouched() -> AsyncIterator[bytes]:
    pytest.fail("the body is asked for")
    yield b""


async def test_a_greedy_identity_is_told_to_wait_and_another_is_served(scene, here) -> None:
    """Before its body is asked for, with the time to wait, after which it is served again."""
    greedy, modest = await limited(scene, requests_per_s=2), await scene.holder(may("default", *FILES))
    url = "/v1/files/default/a"
    for number in range(10):
        answer = await here.public.put(url, headers=greedy.headers, content=untouched() if number >= 2 else b"x")
        assert answer.status_code == (429 if number >= 2 else 200 if number else 201)
        assert (await here.public.get(url, headers=modest.headers)).status_code == 200
    assert answer.headers["retry-after"] == "1"
    problem = answer.json()
    assert (problem["code"], problem["definite"], problem["retry_after_s"]) == ("too_many_requests", True, 1)
    await asyncio.sleep(1)
    assert (await here.public.get(url, headers=greedy.headers)).status_code == 200


async def test_all_keys_of_an_identity_and_both_listeners_share_its_limit(scene, here) -> None:
    """A second key is no second helping."""
    first = await limited(scene, requests_per_s=1)
    second = await scene.another_key(first.identity)
    assert (await here.public.get("/v1/files/default", headers=first.headers)).status_code == 200
    assert (await here.public.get("/v1/files/default", headers=second.headers)).status_code == 429


async def test_a_stranger_uses_up_nothing_of_an_identity(scene, here) -> None:
    """Credentials that prove nothing are not counted for whoever they name."""
    holder = await limited(scene, requests_per_s=1)
    wrong = {"authorization": f"Bearer {holder.key}.{'0' * 40}"}
    for _ in range(5):
        assert (await here.public.get("/v1/files/default", headers=wrong)).status_code == 401
    assert (await here.public.get("/v1/files/default", headers=holder.headers)).status_code == 200


async def test_what_an_identity_may_not_do_counts_as_well(scene, here) -> None:
    """A refusal costs a read of the log."""
    holder = await limited(scene, requests_per_s=2)
    codes = [(await here.public.get("/v1/files/others/a", headers=holder.headers)).status_code for _ in range(4)]
    assert codes == [403, 403, 429, 429]


async def test_addresses_without_a_credential_have_limits_of_the_gateway(scene) -> None:
    """Where they may do anything at all."""
    async with scene.gateway(anonymous="read", anonymous_requests_per_s=2) as running:
        codes = [(await running.public.get("/v1/files/default")).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert (await running.public.get("/v1/files/default", headers=scene.root.headers)).status_code == 200


async def test_an_identity_keeps_no_more_than_its_quota_through_two_gateways(scene, here, there) -> None:
    """Whichever it asks; another identity has room in the same bucket, and a deletion makes room again."""
    holder, other = await limited(scene, quota_bytes=10, quota_files=2), await scene.holder(may("default", *FILES))
    answers = [
        await gateway.public.put(f"/v1/files/default/{name}", headers=holder.headers, content=content)
        for gateway, name, content in (
            (here, "a", b"12345678"),
            (there, "b", b"123"),
            (there, "c", b"12"),
            (here, "d", b""),
        )
    ]
    assert [answer.status_code for answer in answers] == [201, 403, 201, 403]
    facts = [(answer.json()["code"], answer.json()["of"], answer.json()["unit"]) for answer in answers[1::2]]
    assert facts == [("quota_exceeded", "identity", "bytes"), ("quota_exceeded", "identity", "files")]
    assert (await there.public.put("/v1/files/default/e", headers=other.headers, content=bytes(99))).status_code == 201
    assert (await here.public.delete("/v1/files/default/a", headers=other.headers)).status_code == 204
    assert (await there.public.put("/v1/files/default/d", headers=holder.headers, content=b"12")).status_code == 201


async def test_a_long_body_that_an_identity_has_no_room_for_is_not_asked_for(scene, here) -> None:
    """The gateway looks at the quota for itself: the identity itself may not."""
    holder = await limited(scene, quota_bytes=10_000)
    headers = holder.headers | {"content-length": "10001"}
    answer = await here.public.put("/v1/files/default/a", headers=headers, content=untouched())
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")


async def test_who_administers_a_bucket_sees_its_usage(scene, here) -> None:
    """And sets its quotas; whoever only writes files does neither."""
    admin, writer = await scene.holder(may("default", Action.BUCKET_ADMIN)), await limited(scene)
    await here.public.put("/v1/files/default/a", headers=writer.headers, content=b"12345")
    settings = "/v1/buckets/default/settings"
    assert (await here.public.get(settings, headers=writer.headers)).status_code == 403
    put = await here.public.put(settings, headers=admin.headers, json={"quota_bytes": 5})
    assert (put.status_code, put.json()["quota_bytes"], put.json()["usage"]) == (200, 5, None)
    got = (await here.public.get(settings, headers=admin.headers)).json()
    assert (got["quota_bytes"], got["quota_files"], got["usage"]) == (5, None, {"size_bytes": 5, "files": 1})
    assert (await here.public.put("/v1/files/default/b", headers=writer.headers, content=b"1")).status_code == 403
