"""Replicas that come back and bytes that go, on real processes: rows D17, O3, P8, R5 and V5, with seconds in place of a day."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from shared.units import KIB, MIB
from tests.faults.cluster.conftest import conclusive, require_p99, steady_of
from tests.faults.harness.fault_cluster import GATEWAYS, STORAGE, FaultCluster, running_cluster
from tests.faults.harness.holders import digests_of, holders, wait_for_holders
from tests.faults.harness.network import Network
from tests.faults.harness.operator import QUICK, Operator
from tests.faults.harness.trial import Trial, Workload
from tests.faults.workloads.steady import Steady, percentile_s

pytestmark = [
    pytest.mark.faults,
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]

RETENTION_S = 12
_GONE_WITHIN_S = RETENTION_S + 60
MakeTrial = Callable[..., Trial]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[FaultCluster, Network]]:
    """A cluster that collects garbage within seconds."""
    keeps = {"TRIVET_GC_GRACE_S": str(RETENTION_S), "TRIVET_MAX_DOWNLOAD_AGE_S": str(RETENTION_S)}
    overrides = QUICK | {"*": QUICK["*"] | keeps}
    seed = random.SystemRandom().randrange(1 << 32)
    async with running_cluster(tmp_path_factory.mktemp("garbage"), seed=seed, overrides=overrides) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def make_trial(running: tuple[FaultCluster, Network], seed: int) -> AsyncIterator[MakeTrial]:
    cluster, network = running
    await cluster.bring_back()
    made: list[Trial] = []

    def make(*workloads: Callable[..., Workload]) -> Trial:
        made.append(Trial(cluster, network, seed, workloads=workloads or None))
        return made[-1]

    yield make
    for trial in made:
        await trial.aclose()


async def _put(trial: Trial, key: str, body: bytes) -> None:
    reply = await trial.client.call(GATEWAYS[0], "PUT", key, body=body)
    assert reply.status in {200, 201}, reply


def _has_all(nodes: set[str]) -> bool:
    return len(nodes) == 3


def _has_none(nodes: set[str]) -> bool:
    return not nodes


async def test_d17_o3_a_wiped_disk_is_refilled_and_clients_hardly_notice(make_trial, repetitions, seed) -> None:
    """A node loses disk and Redis: after its return it holds again all that it should; p99 stays within the floor or 2x."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        operator, draw = Operator(trial.cluster), random.Random(seed)
        bodies = {f"d17-{number}": draw.randbytes(2 * MIB) for number in range(repetitions(20, 500))}
        bodies |= {f"d17-small-{number}": draw.randbytes(4 * KIB) for number in range(repetitions(200, 2000))}
        digests = [digest for body in bodies.values() for digest in digests_of(body)]
        async with trial.load():
            for key, body in bodies.items():
                await _put(trial, key, body)
            await wait_for_holders(trial.cluster, trial.peers, digests, _has_all, 60)
            before = time.monotonic()
            await trial.wait_for_answers(200)
            wiped = time.monotonic()
            await operator.wipe(STORAGE[1])
            await trial.cluster.bring_back([STORAGE[1], STORAGE[1].replace("storage", "redis")])
            back = time.monotonic()
            took_s = await wait_for_holders(trial.cluster, trial.peers, digests, _has_all, 120)
            await operator.wait_for_replicas()
            await trial.wait_for_answers(200)
            restored = time.monotonic()
        await trial.judge()
        trial.require_no_stall()
        steady = steady_of(trial)
        base_s, p99_s = (percentile_s(steady.between(*span), 0.99) for span in ((before, wiped), (back, restored)))
        print(
            f"{len(digests)} chunks, {took_s:.1f} s; p99 {base_s * 1e3:.0f} ms before, {p99_s * 1e3:.0f} ms meanwhile"
        )
        assert took_s <= 60
        require_p99(trial, p99_s, base_s, times=2)

    await conclusive(attempt)


async def test_r5_a_drained_node_gives_everything_away_and_one_that_is_added_takes_its_share(make_trial, seed) -> None:
    """Under load: the node leaves by itself once the others hold what it held; admitted again, empty, it is filled."""
    trial = make_trial()
    operator, draw = Operator(trial.cluster), random.Random(seed)
    victim = STORAGE[2]
    bodies = {f"r5-{number}": draw.randbytes(draw.choice([4 * KIB, MIB + 3])) for number in range(40)}
    digests = [digest for body in bodies.values() for digest in digests_of(body)]
    async with trial.load():
        for key, body in bodies.items():
            await _put(trial, key, body)
        answer = await operator.ask("DELETE", f"/v1/cluster/nodes/{victim}")
        assert answer.status_code == 202, answer.text
        trial.note(f"{victim} left after {await operator.wait_until_gone(victim):.1f} s")
        rest = set(STORAGE) - {victim}
        await wait_for_holders(trial.cluster, trial.peers, digests, lambda nodes: nodes >= rest, 60)
        await operator.wipe(victim)
        assert (await operator.ask("POST", "/v1/cluster/nodes", json={"id": victim})).status_code == 201
        await trial.cluster.bring_back([victim, victim.replace("storage", "redis")])
        await operator.wait_for_state(victim, "active")
        trial.note(f"filled after {await operator.wait_for_replicas():.1f} s")
        await wait_for_holders(trial.cluster, trial.peers, digests, _has_all, 60)
    await trial.judge()
    found = await holders(trial.cluster, trial.peers, digests)
    assert any(victim in nodes for nodes in found.values()), "the node that was added got nothing"


async def test_v5_the_chunks_of_a_deleted_file_stay_for_a_while_and_then_go_everywhere(make_trial, seed) -> None:
    """Not before the longer of grace and longest download, so that no reader loses them; within a minute after it."""
    trial = make_trial()
    body = random.Random(seed).randbytes(3 * MIB + 5)
    async with trial.by_hand() as client:
        await _put(trial, f"v5-{seed}", body)
        await wait_for_holders(trial.cluster, trial.peers, digests_of(body), _has_all, 60)
        deleted = time.monotonic()
        assert (await client.call(GATEWAYS[0], "DELETE", f"v5-{seed}")).status == 204
        first_gone = await wait_for_holders(
            trial.cluster, trial.peers, digests_of(body)[:1], lambda nodes: len(nodes) < 3, _GONE_WITHIN_S
        )
        assert first_gone >= RETENTION_S - 0.5, "a reader in mid-stream would have lost it"
        await wait_for_holders(trial.cluster, trial.peers, digests_of(body), _has_none, _GONE_WITHIN_S)
        print(f"all gone {time.monotonic() - deleted:.1f} s after the deletion")


async def test_v5_a_deletion_reaches_a_node_that_was_away(make_trial, seed) -> None:
    """It was down from the deletion until the others had forgotten the chunk: after its return it forgets it, too."""
    trial = make_trial()
    body, victim = random.Random(seed + 1).randbytes(MIB), STORAGE[0]
    async with trial.by_hand() as client:
        for number in range(20):  # one of them is on the node
            await _put(trial, f"away-{seed}-{number}", body + bytes([number]))
        digests = [digest for number in range(20) for digest in digests_of(body + bytes([number]))]
        await wait_for_holders(trial.cluster, trial.peers, digests, _has_all, 60)
        await trial.cluster.signal(victim, signal.SIGKILL)
        for number in range(20):
            assert (await client.call(GATEWAYS[0], "DELETE", f"away-{seed}-{number}")).status == 204
        await wait_for_holders(trial.cluster, trial.peers, digests, _has_none, _GONE_WITHIN_S)
        await trial.cluster.bring_back()
        took_s = await wait_for_holders(trial.cluster, trial.peers, digests, _has_none, 60)
        print(f"gone there, too, {took_s:.1f} s after its return")


async def test_p8_what_a_dead_gateway_left_is_collected(make_trial, repetitions, seed) -> None:
    """SIGKILL in mid-upload: chunks that no file refers to are gone everywhere after the grace period and a cycle."""
    trial = make_trial()
    draw = random.Random(seed)
    digests: list[str] = []
    async with trial.by_hand() as client:
        for number in range(repetitions(3, 20)):
            body = draw.randbytes(64 * MIB)
            sent = asyncio.ensure_future(client.call(GATEWAYS[1], "PUT", f"p8-orphan-{seed}-{number}", body=body))
            await wait_for_first_replica(trial, digests_of(body)[0])
            await trial.cluster.signal(GATEWAYS[1], signal.SIGKILL)
            await sent
            await trial.cluster.bring_back([GATEWAYS[1]])
            if (await client.call(GATEWAYS[0], "GET", f"p8-orphan-{seed}-{number}")).status == 404:
                digests += digests_of(body)
        assert digests, "every upload was complete before its gateway died"
        took_s = await wait_for_holders(trial.cluster, trial.peers, digests, _has_none, _GONE_WITHIN_S + 30)
        print(f"{len(digests)} chunks of uploads that never ended are gone after {took_s:.1f} s")


async def wait_for_first_replica(trial: Trial, digest: str) -> None:
    """The upload is under way."""
    await wait_for_holders(trial.cluster, trial.peers, [digest], bool, 30)
