"""Calls that share a request to a member: which ones, how many, and that each gets its own result."""

import asyncio
from dataclasses import replace

import pytest

from shared.consensus_calls import client as consensus_client
from shared.consensus_calls.batching import MAX_WAITING_BYTES
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.metadata import (
    CreatedBucket,
    GetBucket,
    GetFile,
    ListBuckets,
)
from shared.errors import (
    InternalError,
    OverloadedError,
    PayloadTooLargeError,
)
from tests.integration.shared.scripted_members import Reply, cluster, command, decided, gated, leads, problem
from tests.waiting import wait_until


@pytest.mark.parametrize("kind", ["propose", "read"])
async def test_calls_collect_while_a_batch_is_under_way(kind):
    """Fifty calls behind one that is under way share the second request, in order."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=5) as (client, [member]):
        calls = {
            "propose": lambda n: client.propose(command(f"bucket-{n}")),
            "read": lambda n: client.read(GetBucket(bucket=f"bucket-{n}")),
        }
        first = asyncio.ensure_future(calls[kind](0))
        await wait_until(lambda: len(member.requests) == 1)
        others = [asyncio.ensure_future(calls[kind](n)) for n in range(1, 51)]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 50)
        gate.set()
        await asyncio.gather(first, *others)
        assert [len(batch) for batch in member.requests] == [1, 50]
        names = [item["command"]["bucket"] if kind == "propose" else item["bucket"] for item in member.requests[1]]
        assert names == [f"bucket-{n}" for n in range(1, 51)]


async def test_every_caller_gets_its_own_result():
    """Results of one batch go to their callers by position."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=5) as (client, [member]):
        first = asyncio.ensure_future(client.propose(command()))
        await wait_until(lambda: len(member.requests) == 1)
        others = [asyncio.ensure_future(client.propose(command())) for _ in range(5)]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 5)
        gate.set()
        await first
        assert [(await other).result.incarnation for other in others] == [0, 1, 2, 3, 4]


async def test_an_answer_to_another_question_is_an_error_of_consensus():
    """Here and nowhere else; nothing was changed by it."""

    async def answers_another(path: str, batch: list[dict]) -> Reply:
        return await leads(path, [{"kind": "get_bucket"}])

    async with cluster(answers_another) as (client, _):
        with pytest.raises(InternalError) as caught:
            await client.read(ListBuckets())
        assert caught.value.definite


async def test_a_result_of_another_command_is_not_definite():
    """It was applied all the same."""

    async def results_of_another(path: str, batch: list[dict]) -> Reply:
        return 200, {"results": [{"log_index": 7, "term": 3, "result": {"ended": True}}]}

    async with cluster(results_of_another) as (client, _):
        with pytest.raises(InternalError) as caught:
            await client.propose(command())
        assert not caught.value.definite


async def test_fields_of_a_result_that_are_not_known_are_ignored():
    """A member of a later version may say more."""

    async def says_more(path: str, batch: list[dict]) -> Reply:
        result = {"created": True, "incarnation": 3, "colour": "red"}
        return 200, {"results": [{"log_index": 7, "term": 3, "result": result}]}

    async with cluster(says_more) as (client, _):
        assert (await client.propose(command())).result == CreatedBucket(created=True, incarnation=3)


async def test_reads_do_not_wait_for_proposals():
    """A proposal that is slow to commit does not hold up a read."""
    gate = asyncio.Event()

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        if path == "/v1/proposals":
            await gate.wait()
        return await leads(path, batch)

    async with cluster(behaviour, attempt_timeout_s=5) as (client, _):
        proposal = asyncio.ensure_future(client.propose(command()))
        answer, context = await client.read(ListBuckets())
        assert answer.buckets == []
        assert (context.log_index, context.term, context.epoch) == (7, 3, 2)
        assert not proposal.done()
        gate.set()
        await proposal


def gather_for(patch: pytest.MonkeyPatch, gather_s: float) -> None:
    """Clients made from now on let calls gather for so long."""
    for name in ("_PROPOSALS", "_READS"):
        patch.setattr(consensus_client, name, replace(getattr(consensus_client, name), gather_s=gather_s))


@pytest.mark.parametrize("kind", ["propose", "read"])
async def test_calls_that_came_while_a_batch_was_under_way_wait_for_company(kind, monkeypatch):
    """Those that came then, and one that comes a moment after the answer, share a request."""
    gather_for(monkeypatch, 1.0)
    gate = asyncio.Event()

    def call(client: ConsensusClient) -> asyncio.Future:
        return asyncio.ensure_future(client.propose(command()) if kind == "propose" else client.read(ListBuckets()))

    async with cluster(gated(gate, leads), attempt_timeout_s=5) as (client, [member]):
        first = call(client)
        await wait_until(lambda: len(member.requests) == 1)
        others = [call(client), call(client)]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 2)
        gate.set()
        await first
        await asyncio.gather(*others, call(client))
        assert [len(batch) for batch in member.requests] == [1, 3]


async def test_a_lone_call_never_waits_for_company(monkeypatch):
    """One after the other, each finds nothing under way."""
    gather_for(monkeypatch, 3600)
    async with cluster(leads) as (client, [member]):
        for _ in range(3):
            await client.propose(command())
            await client.read(ListBuckets())
        assert [len(batch) for batch in member.requests] == [1] * 6


async def test_a_batch_is_bounded_in_bytes():
    """Large proposals are spread over several requests that a member still takes."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=5) as (client, [member]):
        first = asyncio.ensure_future(client.read(GetFile(bucket="abc", key="k")))
        await wait_until(lambda: len(member.requests) == 1)
        others = [asyncio.ensure_future(client.read(GetFile(bucket="abc", key="k" * 400_000))) for _ in range(5)]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 5)
        gate.set()
        await asyncio.gather(first, *others)
        assert [len(batch) for batch in member.requests] == [1, 2, 2, 1]


async def test_the_queue_is_bounded():
    """One call more than may wait is refused at once, and the others are served."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=5, max_waiting=2) as (client, [member]):
        calls = [asyncio.ensure_future(client.propose(command()))]
        await wait_until(lambda: len(member.requests) == 1)
        calls += [asyncio.ensure_future(client.propose(command())) for _ in range(2)]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 2)
        with pytest.raises(OverloadedError) as refused:
            await client.propose(command())
        assert refused.value.definite
        gate.set()
        await asyncio.gather(*calls)


async def test_waiting_bytes_are_bounded():
    """Few but very large calls do not fill memory."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=10) as (client, [member]):
        calls = [asyncio.ensure_future(client.read(GetFile(bucket="abc", key="k")))]
        await wait_until(lambda: len(member.requests) == 1)
        calls += [asyncio.ensure_future(client.read(GetFile(bucket="abc", key="k" * 900_000))) for _ in range(40)]
        await wait_until(lambda: any(call.done() for call in calls))
        refused = [call.exception() for call in calls if call.done()]
        assert {type(error) for error in refused} == {OverloadedError}
        assert len(refused) == 40 - MAX_WAITING_BYTES // 900_100
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_one_proposal_that_makes_a_member_refuse_the_batch_fails_alone():
    """Its neighbours are sent again without it."""
    gate = asyncio.Event()

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        await gate.wait()
        if any(proposal["command"]["bucket"] == "bad" for proposal in batch):
            return problem(PayloadTooLargeError("Too large."))
        return decided(len(batch))

    async with cluster(behaviour, attempt_timeout_s=5) as (client, [member]):
        first = asyncio.ensure_future(client.propose(command()))
        await wait_until(lambda: len(member.requests) == 1)
        others = [asyncio.ensure_future(client.propose(command(name))) for name in ("one", "bad", "two")]
        await wait_until(lambda: client.statistics()["calls_waiting"] == 3)
        gate.set()
        await first
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert isinstance(outcomes[1], PayloadTooLargeError)
        assert [outcomes[0].log_index, outcomes[2].log_index] == [7, 7]
