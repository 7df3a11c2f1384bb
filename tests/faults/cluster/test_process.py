"""Processes killed, stopped, hung and drained under load (docs/faults.md, "Process").

Few repetitions here; all with `--repeat-full`.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from shared.units import KIB, MIB
from tests.faults.cluster.conftest import conclusive, require_p99, steady_of
from tests.faults.harness.canary import STALL_S
from tests.faults.harness.fault_cluster import GATEWAYS, MEMBERS, STORAGE
from tests.faults.harness.holders import digests_of, wait_for_holders
from tests.faults.workloads.steady import Steady, failed_share, percentile_s

pytestmark = [
    pytest.mark.faults,
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]


async def test_p1_a_killed_leader_is_replaced_and_nothing_is_lost(make_trial, repetitions) -> None:
    """SIGKILL of the leader under load: a write succeeds again within 8 s, in nearly all cases within 4."""
    kills = repetitions(3, 50)

    async def attempt() -> None:
        trial = make_trial()
        took: list[float] = []
        async with trial.load():
            for _ in range(kills):
                await trial.wait_for_answers(40)
                leader = await trial.leader()
                killed = time.monotonic()
                await trial.cluster.signal(leader, signal.SIGKILL)
                await trial.leader(other_than=leader)
                await trial.wait_for_answers(1)
                took.append(time.monotonic() - killed)
                trial.note(f"killed {leader}, another led and answered after {took[-1]:.2f} s")
                await trial.cluster.bring_back([leader])
        await trial.judge()
        trial.require_no_stall()
        assert max(took) <= 8.0, took
        assert sum(one > 4.0 for one in took) <= max(1, kills // 50), took

    await conclusive(attempt)


async def test_p2_a_killed_follower_costs_nobody_anything(make_trial) -> None:
    """No request fails after one retry, and the slowest hundredth is not much slower than before."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(30)
            before = time.monotonic()
            await trial.wait_for_answers(250)
            leader = await trial.leader()
            follower = next(name for name in MEMBERS if name != leader)
            killed = time.monotonic()
            await trial.cluster.signal(follower, signal.SIGKILL)
            await trial.wait_for_answers(250)
        await trial.judge()
        trial.require_no_stall()
        base_s, p99_s = (percentile_s(steady.between(*span), 0.99) for span in ((before, killed), (killed,)))
        print(f"p99 {base_s * 1e3:.0f} ms before, {p99_s * 1e3:.0f} ms after")
        assert failed_share(steady.between(killed)) == 0
        require_p99(trial, p99_s, base_s, times=2)

    await conclusive(attempt)


async def test_p3_without_a_majority_of_members_everything_is_refused_in_time(make_trial) -> None:
    """Two of three are dead: 503 within 2 s, the last one says that it reaches no majority; writable when one returns."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        async with trial.load():
            await trial.wait_for_answers(40)
            for name in MEMBERS[:2]:
                await trial.cluster.signal(name, signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.sleep(8)
            back = time.monotonic()
            await asyncio.to_thread(trial.cluster.launch, MEMBERS[0])
            await trial.wait_for_answers(1)
            writable_s = time.monotonic() - back
        await trial.judge()
        trial.require_no_stall()
        refused = [
            one
            for one in trial.answers_between(killed - 0.2, back)
            if one.status != 200
            and killed < one.returned / 1e9 < back
            # What the two had taken part in may be answered after them.
            and not (one.status == 201 and one.returned / 1e9 - one.took_s < killed)
        ]
        slowest_s = max(one.took_s for one in refused)
        print(
            f"{len(refused)} refused, the slowest after {slowest_s:.2f} s; writable {writable_s:.2f} s after a return"
        )
        assert {one.status for one in refused} == {503}
        assert slowest_s <= 2.0 + STALL_S
        assert writable_s <= 10.0

    await conclusive(attempt)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_p6_a_storage_node_that_dies_during_an_upload_does_not_fail_it(
    make_trial, repetitions, seed, share
) -> None:
    """SIGKILL of each node in turn in mid-upload: the upload succeeds, its bytes are right, and each chunk gets N replicas."""
    draw = random.Random(seed)
    trial = make_trial()
    uploads = repetitions(2, 34)
    for number in range(uploads):
        victim = STORAGE[number % len(STORAGE)]
        body = draw.randbytes(4 * MIB + 123)

        async def stream(body: bytes = body, victim: str = victim) -> AsyncIterator[bytes]:
            cut = int(len(body) * share)
            yield body[:cut]
            await trial.cluster.signal(victim, signal.SIGKILL)
            yield body[cut:]

        url = f"{trial.cluster.gateway_url}/v1/files/default/p6-{seed}-{share}-{number}"
        async with aiohttp.ClientSession(
            headers=trial.cluster.bearer, timeout=aiohttp.ClientTimeout(total=60)
        ) as session:
            async with session.put(url, data=stream()) as answer:
                assert answer.status == 201, (victim, await answer.text())
            async with session.get(url) as answer:
                assert answer.status == 200
                assert await answer.read() == body
        await trial.cluster.bring_back()
        took_s = await wait_for_holders(
            trial.cluster, trial.peers, digests_of(body), lambda nodes: len(nodes) >= 3, within_s=60
        )
        print(f"{victim} died; three replicas of each chunk {took_s:.1f} s after its return")


async def test_p7_with_one_replica_left_reads_go_on_and_writes_are_refused(make_trial, seed) -> None:
    """Three of four nodes are dead, among them all but one holder: served and said so; 503 where a quorum was asked for."""
    trial = make_trial()
    key, body = f"p7-{seed}", random.Random(seed).randbytes(200 * KIB)
    async with trial.by_hand() as client:
        stored = await client.call(GATEWAYS[0], "PUT", key, body=body)
        assert stored.status == 201
        holder = stored_nodes(stored.body)[0]
        for name in STORAGE:
            if name != holder:
                await trial.cluster.signal(name, signal.SIGKILL)
        read = await client.call(GATEWAYS[0], "GET", key)
        assert (read.status, read.body) == (200, body)
        # Who does not ask for proof may be told of the replicas that the upload proved a moment ago, and how old that is.
        assert int(read.headers["x-trivet-replicas-confirmed"]) == 1 or "x-trivet-confirmation-age" in read.headers
        asked = await client.call(GATEWAYS[0], "GET", key, headers={"x-trivet-read-quorum": "1"})
        assert (asked.status, asked.headers["x-trivet-replicas-confirmed"]) == (200, "1")
        strict = await client.call(GATEWAYS[0], "GET", key, headers={"x-trivet-read-quorum": "2"})
        assert (strict.status, strict.problem["code"]) == (503, "quorum_not_reached")
        refused = await client.call(GATEWAYS[0], "PUT", f"{key}-more", body=body)
        took_s = (refused.returned - refused.called) / 1e9
        print(f"refused after {took_s:.2f} s: {refused.problem}")
        assert refused.status == 503
        assert (refused.problem["definite"], refused.problem["acknowledged"]) == (True, 1)
        assert took_s <= 6.0
        assert (await client.call(GATEWAYS[0], "GET", f"{key}-more")).status == 404
        await trial.heal()
        await trial.converge()
        assert (await client.call(GATEWAYS[1], "GET", key, headers={"x-trivet-read-quorum": "2"})).body == body


async def test_p8_a_gateway_that_dies_during_an_upload_leaves_all_or_nothing(make_trial, repetitions, seed) -> None:
    """SIGKILL of the gateway at a random moment; sent again under its key at the other one, it is one version."""
    draw = random.Random(seed)
    trial = make_trial()
    outcomes = []
    async with trial.by_hand() as client:
        for number in range(repetitions(5, 100)):
            key, body = f"p8-{seed}-{number}", draw.randbytes(draw.choice([1 * KIB, 2 * MIB]))
            headers = {"idempotency-key": key}
            sent = asyncio.ensure_future(client.call(GATEWAYS[1], "PUT", key, body=body, headers=headers))
            await asyncio.sleep(draw.uniform(0, 0.12))
            await trial.cluster.signal(GATEWAYS[1], signal.SIGKILL)
            first = await sent
            seen = await client.call(GATEWAYS[0], "GET", key)
            assert seen.status in {200, 404}
            assert seen.status == 404 or seen.body == body
            assert first.status != 201 or seen.status == 200
            again = await client.call(GATEWAYS[0], "PUT", key, body=body, headers=headers)
            assert again.status == 201
            if seen.status == 200:
                assert again.version == seen.version, "the same request under one key made a second version"
            third = await client.call(GATEWAYS[0], "PUT", key, body=body, headers=headers)
            assert (third.version, third.body) == (again.version, again.body)
            outcomes.append((first.status, seen.status))
            await trial.cluster.bring_back([GATEWAYS[1]])
        print(f"(answer to the first, what was there then): {outcomes}")


async def test_p10_a_hung_storage_node_slows_nobody_for_long(make_trial) -> None:
    """SIGSTOP: it accepts and never answers. No request fails; after it is suspected, the slowest are as before."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(30)
            before = time.monotonic()
            await trial.wait_for_answers(200)
            stopped = time.monotonic()
            await trial.cluster.signal(STORAGE[1], signal.SIGSTOP)
            await asyncio.sleep(5)
            suspected = time.monotonic()
            await trial.wait_for_answers(200)
            trial.cluster.resume(STORAGE[1])
        await trial.judge()
        trial.require_no_stall()
        spans = ((before, stopped), (stopped, suspected), (suspected,))
        base_s, first_s, p99_s = (percentile_s(steady.between(*span), 0.99) for span in spans)
        print(f"p99 {base_s * 1e3:.0f} ms before, {first_s * 1e3:.0f} in the first 5 s, {p99_s * 1e3:.0f} later")
        assert failed_share(steady.between(stopped), after_retry=False) == 0
        require_p99(trial, p99_s, base_s, times=3)

    await conclusive(attempt)


async def test_p14_a_node_in_a_crash_loop_harms_nobody(make_trial, repetitions) -> None:
    """A storage node, then a follower, killed and started every 2 s: 99 % succeed and leadership changes at most once."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(40)
            leader = await trial.leader()
            terms = [one.term for one in (await trial.member_statuses()).values()]
            began = time.monotonic()
            for victim in (STORAGE[2], next(name for name in MEMBERS if name != leader)):
                for _ in range(repetitions(5, 30)):
                    await trial.cluster.signal(victim, signal.SIGKILL)
                    await asyncio.to_thread(trial.cluster.launch, victim)
                    await asyncio.sleep(2)
            ended = time.monotonic()
            after = [one.term for one in (await trial.member_statuses()).values()]
        await trial.judge()
        trial.require_no_stall()
        print(f"{failed_share(steady.between(began, ended)):.2%} failed; terms {terms} -> {after}")
        assert failed_share(steady.between(began, ended)) <= 0.01
        assert max(after) - max(terms) <= 1

    await conclusive(attempt)


async def test_p15_a_drained_gateway_finishes_what_it_began(make_trial, seed) -> None:
    """SIGTERM in the middle of slow uploads: each of them ends well, and the process within 30 s."""
    trial = make_trial()
    victim, draw = GATEWAYS[1], random.Random(seed)
    bodies = {f"p15-{seed}-{number}": draw.randbytes(2 * MIB) for number in range(8)}
    under_way = asyncio.Barrier(len(bodies) + 1)

    async def stream(body: bytes) -> AsyncIterator[bytes]:
        for place in range(0, len(body), 256 * KIB):
            if place == 512 * KIB:
                await under_way.wait()
            yield body[place : place + 256 * KIB]
            await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(headers=trial.cluster.bearer, timeout=aiohttp.ClientTimeout(total=60)) as session:

        async def upload(key: str, body: bytes) -> int:
            async with session.put(f"{trial.cluster.url(victim)}/v1/files/default/{key}", data=stream(body)) as answer:
                await answer.read()
                return answer.status

        uploads = [asyncio.ensure_future(upload(key, body)) for key, body in bodies.items()]
        await under_way.wait()
        told = time.monotonic()
        await trial.cluster.signal(victim, signal.SIGTERM)
        assert await asyncio.gather(*uploads) == [201] * len(bodies)
        left = await asyncio.to_thread(trial.cluster._processes.wait_until_ended, [victim], 30)
        print(f"ended {time.monotonic() - told:.2f} s after SIGTERM")
        assert not left
        for key, body in bodies.items():
            async with session.get(f"{trial.cluster.gateway_url}/v1/files/default/{key}") as answer:
                assert await answer.read() == body


async def test_p15_drained_members_and_nodes_are_not_noticed(make_trial) -> None:
    """SIGTERM of the leader and of a storage node under load: another leads within a second or so, and nothing fails."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(40)
            told = time.monotonic()
            leader = await trial.leader()
            await trial.cluster.signal(leader, signal.SIGTERM)
            await trial.leader(other_than=leader)
            moved_s = time.monotonic() - told
            await trial.cluster.signal(STORAGE[0], signal.SIGTERM)
            await trial.wait_for_answers(200)
            left = await asyncio.to_thread(trial.cluster._processes.wait_until_ended, [leader, STORAGE[0]], 30)
        await trial.judge()
        trial.require_no_stall()
        print(
            f"another led {moved_s:.2f} s after SIGTERM; {failed_share(steady.between(told), after_retry=False):.2%} failed"
        )
        assert not left
        assert failed_share(steady.between(told)) == 0
        assert moved_s <= 2.0

    await conclusive(attempt)


def stored_nodes(receipt: bytes) -> list[str]:
    """Who acknowledged."""
    nodes: list[str] = json.loads(receipt)["durability"]["nodes"]
    return nodes
