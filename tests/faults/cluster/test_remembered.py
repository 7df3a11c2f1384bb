"""What gateways remember, and what becomes of it: disks that are lost and buckets that are made again meanwhile."""

from __future__ import annotations

import random

import httpx
import pytest

from shared.units import KIB
from tests.faults.harness.fault_cluster import GATEWAYS, STORAGE
from tests.faults.harness.holders import digests_of, holders, wait_for_holders
from tests.faults.harness.operator import Operator

pytestmark = [
    pytest.mark.faults,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]

_FILES = 30
_VICTIM = STORAGE[1]


async def test_a_wiped_node_is_not_counted_for_what_it_confirmed_before(make_trial, seed) -> None:
    """Both gateways know who holds the files; one node comes back empty, and no read says of it that it has them."""
    trial = make_trial()
    draw = random.Random(seed)
    bodies = {f"wiped-{seed}-{number}": draw.randbytes(4 * KIB) for number in range(_FILES)}
    digests = {key: digests_of(body)[0] for key, body in bodies.items()}
    async with trial.by_hand() as client:
        for key, body in bodies.items():
            assert (await client.call(GATEWAYS[0], "PUT", key, body=body)).status == 201
        await wait_for_holders(trial.cluster, trial.peers, digests.values(), lambda nodes: len(nodes) == 3, 60)
        for key in bodies:
            for gateway in GATEWAYS:
                assert (await client.call(gateway, "GET", key)).status == 200
        await Operator(trial.cluster).wipe(_VICTIM)
        # It cannot pull what it lacks: only a reader that notices can give it a replica.
        trial.network.cut([_VICTIM], [name for name in STORAGE if name != _VICTIM])
        await trial.cluster.bring_back([_VICTIM, _VICTIM.replace("storage", "redis")])
        counts = []
        for number, (key, body) in enumerate(bodies.items()):
            reply = await client.call(GATEWAYS[number % 2], "GET", key)
            assert reply.status == 200, reply
            assert reply.body == body
            counts.append(int(reply.headers["x-trivet-replicas-confirmed"]))
            left = await holders(trial.cluster, trial.peers, [digests[key]])
            assert counts[-1] <= len(left[digests[key]]), f"{key} has {left}, and {counts[-1]} were confirmed"
        assert min(counts) < 3, "the node that was wiped should have held something"
        trial.network.heal()
        await wait_for_holders(trial.cluster, trial.peers, digests.values(), lambda nodes: len(nodes) == 3, 60)


async def test_a_bucket_that_is_made_again_is_not_taken_for_the_old_one(make_trial, seed) -> None:
    """Small files go into it without a read; its gateway remembers the old one, and every file is in the new one."""
    trial = make_trial()
    path = f"/v1/buckets/again-{seed}"
    first, second = (trial.cluster.url(gateway) for gateway in GATEWAYS)
    bearer = trial.cluster.bearer
    async with httpx.AsyncClient(headers=bearer, timeout=30, trust_env=False) as client:  # noqa: TID251 - as a client's own
        for number in range(10):
            file = f"/v1/files/again-{seed}/file-{number}"
            assert (await client.put(f"{second}{path}")).status_code == 201
            for _ in range(2):
                assert (await client.put(f"{first}{file}", content=b"body")).status_code in {200, 201}
            assert (await client.delete(f"{second}{file}")).status_code == 204
            assert (await client.delete(f"{second}{path}")).status_code == 204
            refused = await client.put(f"{first}{file}", content=b"there is no bucket")
            assert refused.status_code == 404, refused.text
            assert (await client.put(f"{second}{path}")).status_code == 201
            written = await client.put(f"{first}{file}", content=b"new")
            assert written.status_code == 201, written.text
            assert (await client.get(f"{second}{file}")).content == b"new"
            assert (await client.delete(f"{first}{file}")).status_code == 204
            assert (await client.delete(f"{first}{path}")).status_code == 204
