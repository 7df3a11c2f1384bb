"""Links cut, slow, narrow, reset and half-open under load (docs/faults.md, "Network").

Few repetitions here; all with `--repeat-full`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from tests.faults.cluster.conftest import conclusive, steady_of
from tests.faults.harness.canary import STALL_S
from tests.faults.harness.fault_cluster import GATEWAYS, MEMBERS, REDIS, STORAGE
from tests.faults.harness.network import CUT, Weather
from tests.faults.harness.operator import Operator
from tests.faults.harness.trial import Trial
from tests.faults.workloads.steady import Steady, failed_share, percentile_s

pytestmark = [
    pytest.mark.faults,
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.asyncio(loop_scope="module"),
]


async def elections(trial: Trial) -> int:
    """The highest term that any member knows."""
    return max(status.term for status in (await trial.member_statuses()).values())


async def test_n1_a_leader_cut_from_the_majority_serves_nothing_stale(make_trial, repetitions) -> None:
    """Clients still reach it: it steps down by itself, another leads, and no answer is older than one before it."""

    async def attempt() -> None:
        trial = make_trial()
        took: list[float] = []
        async with trial.load():
            for _ in range(repetitions(3, 30)):
                await trial.wait_for_answers(40)
                leader = await trial.leader()
                cut = time.monotonic()
                trial.network.cut([leader], [name for name in MEMBERS if name != leader])
                await trial.leader(other_than=leader)
                await trial.wait_for_answers(20)
                while (await trial.member_statuses())[leader].role == "leader":
                    assert time.monotonic() - cut < 20, "the old leader still believes that it leads"
                    await asyncio.sleep(0.02)
                took.append(time.monotonic() - cut)
                trial.note(f"{leader} was cut off; another led and it knew so after {took[-1]:.2f} s")
                trial.network.heal()
                await trial.wait_for_answers(20)
        await trial.judge()

    await conclusive(attempt)


async def test_n1_a_gateway_that_only_reads_sees_what_another_one_wrote(make_trial) -> None:
    """Nothing tells it that its leader was cut off, as a refused write would; it must not be told what was."""
    trial = make_trial()
    async with trial.by_hand() as client:
        assert (await client.call(GATEWAYS[0], "PUT", "watched", body=b"before")).status == 201
        assert (await client.call(GATEWAYS[1], "GET", "watched")).body == b"before"
        leader = await trial.leader()
        trial.network.cut([leader], [name for name in MEMBERS if name != leader])
        ends = time.monotonic() + 30
        while (await client.call(GATEWAYS[0], "PUT", "watched", body=b"after")).status not in {200, 201}:
            assert time.monotonic() < ends, "no write was taken after the leader was cut off"
        for _ in range(20):
            read = await client.call(GATEWAYS[1], "GET", "watched")
            assert read.status == 503 or read.body == b"after", f"stale: {read}"
        trial.network.heal()
        await trial.converge()


async def test_n3_a_member_that_can_be_called_and_cannot_call_changes_nothing(make_trial) -> None:
    """One way only, for the leader, then for a follower: no stale answer, and progress within seconds."""

    async def attempt() -> None:
        trial = make_trial()
        async with trial.load():
            for is_leader in (True, False):
                await trial.wait_for_answers(30)
                leader = await trial.leader()
                victim = leader if is_leader else next(name for name in MEMBERS if name != leader)
                trial.network.set([victim], MEMBERS, CUT)
                began = time.monotonic()
                await trial.wait_for_answers(20)
                trial.note(f"{victim} could not call; 20 successes after {time.monotonic() - began:.2f} s")
                await asyncio.sleep(4)
                await trial.wait_for_answers(20)
                trial.network.heal()
        await trial.judge()

    await conclusive(attempt)


async def test_n5_a_gateway_cut_from_consensus_refuses_and_never_guesses(make_trial) -> None:
    """It cannot know what is current, so it says 503, also for what it has just served; the other gateway goes on."""

    async def attempt() -> None:
        trial = make_trial()
        async with trial.load():
            await trial.wait_for_answers(60)
            trial.network.cut([GATEWAYS[0]], MEMBERS)
            cut = time.monotonic()
            await asyncio.sleep(8)
            healed = time.monotonic()
            trial.network.heal()
            await trial.wait_for_answers(40)
        await trial.judge()
        trial.require_no_stall()
        answers = [one for one in trial.answers_between(cut, healed) if one.returned / 1e9 < healed]
        alone = [one for one in answers if one.gateway == GATEWAYS[0]]
        print(f"{len(alone)} answers of the lonely gateway, the slowest after {max(one.took_s for one in alone):.2f} s")
        assert alone
        assert {one.status for one in alone} == {503}
        assert max(one.took_s for one in alone) <= 2.0 + STALL_S
        assert sum(one.status < 500 for one in answers if one.gateway == GATEWAYS[1]) >= 5

    await conclusive(attempt)


async def test_n6_a_gateway_cut_from_storage_nodes_writes_as_long_as_a_quorum_is_left(make_trial) -> None:
    """Without one of four: no failures. Without three: 503 in time, certainly not done."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(40)
            trial.network.cut([GATEWAYS[0]], STORAGE[:1])
            one_cut = time.monotonic()
            await asyncio.sleep(8)
            trial.network.cut([GATEWAYS[0]], STORAGE[:3])
            three_cut = time.monotonic()
            await asyncio.sleep(8)
            healed = time.monotonic()
            trial.network.heal()
            await trial.wait_for_answers(40)
        await trial.judge()
        trial.require_no_stall()
        first = steady.between(one_cut, three_cut - 1)
        refused = [
            one for one in trial.answers_between(three_cut, healed) if one.gateway == GATEWAYS[0] and one.status == 503
        ]
        slowest_s = max(one.took_s for one in refused)
        print(f"one cut: {failed_share(first):.2%} failed; three: {len(refused)} refused, at most {slowest_s:.2f} s")
        assert failed_share(first) <= 0.01
        assert refused
        # A write that is under way when three nodes vanish tries each for its 4 s, within the deadline of small requests.
        assert slowest_s <= 10.0
        assert all(one.problem["definite"] for one in refused)

    await conclusive(attempt)


@pytest.mark.parametrize(
    "each_way", [Weather(delay_s=0.02, jitter_s=0.01), Weather(delay_s=0.0125, jitter_s=0.05)], ids=["50+-10", "75+-50"]
)
async def test_n9_ordinary_delay_elects_nobody(make_trial, repetitions, each_way) -> None:
    """Milliseconds of round trip more on every link between members: not one election."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        async with trial.load():
            await trial.wait_for_answers(40)
            trial.network.set(MEMBERS, MEMBERS, each_way)
            await asyncio.sleep(1)
            before = await elections(trial)
            await asyncio.sleep(repetitions(12, 600))
            after = await elections(trial)
        await trial.judge()
        trial.require_no_stall()
        assert after == before
        assert failed_share(steady_of(trial).attempted) == 0

    await conclusive(attempt)


async def test_n10_a_leader_behind_slow_links_is_replaced_once(make_trial, repetitions) -> None:
    """One second more on all its links to members: another leads within 30 s, with one election, and then all is quick."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        watched_s = repetitions(20, 60)
        async with trial.load():
            await trial.wait_for_answers(40)
            leader = await trial.leader()
            before = await elections(trial)
            slow = Weather(delay_s=0.5)
            trial.network.set([leader], MEMBERS, slow)
            trial.network.set(MEMBERS, [leader], slow)
            began = time.monotonic()
            now = await trial.leader(within_s=60, other_than=leader)
            moved = time.monotonic()
            await asyncio.sleep(watched_s)
            ended = time.monotonic()
            after = await elections(trial)
            assert await trial.leader() == now
            trial.network.heal()
            await trial.wait_for_answers(40)
        await trial.judge()
        trial.require_no_stall()
        slow_while, quick_while = steady.between(began, moved), steady.between(moved + 1, ended)
        print(
            f"terms {before} -> {after}, leader {leader} -> {now} after {moved - began:.1f} s; until then p99 "
            f"{percentile_s(slow_while, 0.99):.2f} s and {failed_share(slow_while):.1%} failed after one retry; from then on "
            f"{percentile_s(quick_while, 0.99):.2f} s and {failed_share(quick_while):.1%}"
        )
        assert moved - began <= 30
        assert after - before <= 1
        assert percentile_s(quick_while, 0.99) <= 3
        assert failed_share(quick_while) == 0

    await conclusive(attempt)


async def test_n11_a_narrow_link_to_one_node_slows_no_write(make_trial) -> None:
    """1 Mbit/s to one of four storage nodes: two others acknowledge."""

    async def attempt() -> None:
        trial = make_trial(lambda client, seed: Steady(client, seed, body_bytes=100_000, clients=4))
        steady = steady_of(trial)
        async with trial.load():
            await trial.wait_for_answers(20)
            before = time.monotonic()
            await trial.wait_for_answers(120)
            narrowed = time.monotonic()
            trial.network.set(GATEWAYS, STORAGE[:1], Weather(bytes_per_s=125_000))
            await trial.wait_for_answers(250)
        await trial.judge()
        trial.require_no_stall()
        base_s, p99_s = (
            percentile_s(steady.between(*span, writes_only=True), 0.99) for span in ((before, narrowed), (narrowed,))
        )
        print(f"PUT p99 {base_s * 1e3:.0f} ms before, {p99_s * 1e3:.0f} ms with a narrow link")
        assert failed_share(steady.between(narrowed)) == 0
        assert p99_s <= max(2 * base_s, 1.0)

    await conclusive(attempt)


async def test_n13_reset_and_half_open_connections_are_replaced(make_trial, repetitions) -> None:
    """RST on all connections of the gateways, then all of them half-open: no failure after a retry, and within 5 s new ones."""

    async def attempt() -> None:
        trial = make_trial(Steady)
        steady = steady_of(trial)
        half_opened: list[float] = []
        async with trial.load():
            for _ in range(repetitions(2, 10)):
                await trial.wait_for_answers(60)
                trial.note(f"{sum(trial.network.reset(g, s) for g in GATEWAYS for s in [*STORAGE, *MEMBERS])} reset")
                await trial.wait_for_answers(60)
                count = sum(trial.network.half_open(g, s) for g in GATEWAYS for s in STORAGE)
                half_opened.append(time.monotonic())
                await asyncio.sleep(6)
                trial.note(f"{count} half-open")
                await trial.wait_for_answers(60)
        await trial.judge()
        trial.require_no_stall()
        assert failed_share(steady.attempted) == 0
        for moment in half_opened:
            late = [one for one in steady.between(moment + 5, moment + 6) if one.took_s > 2]
            assert not late, f"dead connections are still used after 5 s: {late}"

    await conclusive(attempt)


@pytest.mark.parametrize("whose", ["everybody", "the leader"])
async def test_n13_half_open_links_between_members_are_replaced(make_trial, repetitions, whose) -> None:
    """All links between members, or those of the leader: every one is given up within 5 s, and writes go on."""

    async def attempt() -> None:
        trial = make_trial()
        ports = {member: trial.cluster.peer_port(member) for member in MEMBERS}
        evicted_s: list[float] = []
        async with trial.load():
            for _ in range(repetitions(2, 10)):
                await trial.wait_for_answers(40)
                leader = await trial.leader()
                ends = MEMBERS if whose == "everybody" else [leader]
                links = [
                    (one, other) for one in MEMBERS for other in MEMBERS if one != other and {one, other} & {*ends}
                ]
                count = sum(trial.network.half_open(*link, target_port=ports[link[1]]) for link in links)
                began = time.monotonic()
                assert count >= len(links)
                while trial.network.half_open_connections(ports.values()):
                    assert time.monotonic() - began < 30, "a half-open connection is kept"
                    await asyncio.sleep(0.02)
                evicted_s.append(time.monotonic() - began)
                # An election may have to follow.
                await trial.wait_for_answers(20, within_s=15)
                trial.note(
                    f"{count} half-open, leader {leader}: the last was given up after {evicted_s[-1]:.2f} s, "
                    f"20 successes after {time.monotonic() - began:.2f} s"
                )
        await trial.judge()
        trial.require_no_stall()
        assert max(evicted_s) <= 5

    await conclusive(attempt)


async def test_wrong_bits_on_the_way_are_found_before_anybody_is_served(make_trial) -> None:
    """V3 on links whose bytes have a digest or a key: gateways to nodes, nodes to their Redis, members to each other."""

    async def attempt() -> None:
        trial = make_trial()
        wrong = Weather(corrupts_one_in_bytes=100_000, corrupts_answers=True)
        async with trial.load():
            await trial.wait_for_answers(40)
            trial.network.set(GATEWAYS, STORAGE, wrong)
            trial.network.set(STORAGE, REDIS, wrong)
            await trial.wait_for_answers(150)
            trial.network.heal()
            trial.network.set(MEMBERS, MEMBERS, replace(wrong, corrupts_one_in_bytes=20_000))
            await trial.wait_for_answers(100)
            trial.network.heal()
        await trial.judge()
        assert trial.network.counts["corrupted bits"] > 20

    await conclusive(attempt)


async def test_n17_a_node_that_was_away_comes_back_by_itself(make_trial, repetitions) -> None:
    """Cut off, a storage node and a member alike, then healed: both take part again, and nobody was told to do anything."""

    async def attempt() -> None:
        trial = make_trial()
        async with trial.load():
            await trial.wait_for_answers(40)
            leader = await trial.leader()
            member = next(name for name in MEMBERS if name != leader)
            everybody = [*MEMBERS, *STORAGE, *GATEWAYS]
            for name in (member, STORAGE[3]):
                trial.network.cut([name], [other for other in everybody if other != name])
            await asyncio.sleep(repetitions(15, 200))
            trial.network.heal()
            healed = time.monotonic()
            rejoined_s = await trial.converged_under_load(member)
            while not trial.network.open_connections(GATEWAYS[0], STORAGE[3]):
                assert time.monotonic() - healed < 60, "no gateway uses the node again"
                await asyncio.sleep(0.05)
            trial.note(f"member level after {rejoined_s:.2f} s, node used after {time.monotonic() - healed:.2f} s")
            restored_s = await Operator(trial.cluster).wait_for_replicas()
            trial.note(f"it holds what it missed {restored_s:.2f} s later")
        await trial.judge()
        assert rejoined_s <= 60

    await conclusive(attempt)
