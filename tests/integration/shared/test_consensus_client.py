"""The client of consensus finds the leader over real sockets, and knows when there is none."""

import asyncio
from collections.abc import Awaitable

import pytest

from shared.consensus_calls.client import ConsensusClient
from shared.consensus_calls.majority_watch import PATIENCE_S
from shared.contracts.metadata import (
    CreatedBucket,
    ListBuckets,
)
from shared.errors import (
    LeaderUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    TrivetError,
)
from shared.peer_calls.http_client import PeerClient
from tests.integration.shared.scripted_members import (
    Reply,
    closed_address,
    cluster,
    command,
    decided,
    follows,
    gated,
    hangs,
    hangs_up,
    leads,
    peers,
    problem,
)
from tests.waiting import wait_until


async def test_a_redirect_leads_to_the_leader_and_is_remembered():
    """The member that a follower names is asked next, and first from then on."""
    async with cluster(leads, leads, leads) as (client, members):
        members[0].behaviour = follows(members[2])
        assert (await client.propose(command())).result == CreatedBucket(created=True, incarnation=0)
        await client.propose(command())
        assert [len(member.requests) for member in members] == [1, 0, 2]


async def test_without_a_hint_the_members_are_asked_in_turn():
    """Two followers that know no leader cost two requests."""
    async with cluster(follows(), follows(), leads) as (client, members):
        await client.propose(command())
        assert [len(member.requests) for member in members] == [1, 1, 1]


async def test_a_dead_member_is_passed_by():
    """A refused connection moves on to the next member at once."""
    async with cluster(leads) as (_, members), peers() as peer_client:
        addresses = [closed_address("consensus-9"), members[0].address]
        async with ConsensusClient(addresses, peer_client) as client:
            assert (await client.propose(command())).log_index == 7


async def test_a_hung_leader_is_left_and_its_proposal_keeps_its_request_id():
    """The next member gets the same proposal under the same id, although others still name the hung one."""
    async with cluster(hangs, leads, leads) as (client, members):
        members[1].behaviour = follows(members[0])
        assert (await client.propose(command(), request_id="once")).log_index == 7
        assert members[0].requests[0][0]["request_id"] == "once"
        assert members[2].requests[0][0]["request_id"] == "once"
        assert len(members[0].requests) == 1, "a suspected leader is not asked again on a follower's word"


async def test_a_new_leader_is_found_after_an_election():
    """While nobody leads the client keeps asking with pauses, and finds the leader when there is one."""
    async with cluster(follows(), follows(), follows()) as (client, members):
        task = asyncio.ensure_future(client.propose(command()))
        await wait_until(lambda: sum(len(member.requests) for member in members) >= 5)
        members[1].behaviour = leads
        assert (await task).log_index == 7


async def test_a_member_learnt_from_a_hint_is_called():
    """A leader that joined after this process started is found by its id and URL."""
    async with cluster(leads, leads) as (_, members), peers() as peer_client:
        members[0].behaviour = follows(members[1])
        async with ConsensusClient([members[0].address], peer_client) as client:
            assert (await client.propose(command())).log_index == 7
        assert len(members[1].requests) == 1


async def test_a_call_that_was_told_that_nothing_was_sent_is_not_sent_later():
    """Refused with its batch, it waits for its turn alone; its deadline passes before that turn."""
    warm, gate = asyncio.Event(), asyncio.Event()

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        if len(batch) > 1:
            return problem(PayloadTooLargeError("too large together"))
        bucket = batch[0]["command"]["bucket"]
        await {"warm": warm, "slow": gate}[bucket].wait()
        return decided(1)

    async with cluster(behaviour, attempt_timeout_s=30, deadline_s=30) as (client, [member]):
        first = asyncio.ensure_future(client.propose(command("warm")))
        await wait_until(lambda: len(member.requests) == 1)
        slow = asyncio.ensure_future(client.propose(command("slow")))
        late = asyncio.ensure_future(client.propose(command("late"), deadline_s=2.0))
        await asyncio.sleep(0)
        warm.set()
        with pytest.raises(LeaderUnavailableError) as told:
            await late
        assert told.value.definite
        gate.set()
        await asyncio.gather(first, slow)
        await client.aclose()
        assert [len(batch) for batch in member.requests] == [1, 2, 1]


async def wait_of(call: Awaitable[object], error: type[TrivetError]) -> float:
    """Seconds until `call` failed with `error`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(error):
        await call
    return loop.time() - began


@pytest.mark.parametrize(("kind", "error"), [("propose", OutcomeUnknownError), ("read", LeaderUnavailableError)])
async def test_without_an_answer_from_any_member_nobody_waits_for_the_deadline(kind, error):
    """All members hang: refused after the patience of a call, long before its deadline."""
    async with cluster(hangs, hangs, hangs, deadline_s=30) as (client, members):
        for member in members:
            member.status_answer = None
        call = client.propose(command()) if kind == "propose" else client.read(ListBuckets())
        assert PATIENCE_S <= await wait_of(call, error) < 10


async def test_members_that_reach_no_majority_say_so_and_nobody_waits():
    """Followers without a leader, cut off from each other."""
    async with cluster(follows(), follows(), deadline_s=30) as (client, members):
        for member in members:
            member.status_answer = {"reaches_majority": False}
        assert PATIENCE_S <= await wait_of(client.propose(command()), LeaderUnavailableError) < 10


@pytest.mark.parametrize("answer", [{"reaches_majority": True}, {}, []], ids=["true", "not said", "nonsense"])
async def test_an_election_is_waited_for_while_one_member_may_be_in_a_majority(answer):
    """One of three does not deny it: the call waits until there is a leader."""
    async with cluster(hangs_up, follows(), follows(), deadline_s=30) as (client, members):
        members[0].status_answer, members[1].status_answer = None, {"reaches_majority": False}
        members[2].status_answer = answer
        task = asyncio.ensure_future(client.propose(command()))
        await asyncio.sleep(PATIENCE_S + 1)
        assert not task.done()
        members[1].behaviour = leads
        assert (await task).log_index == 7


async def test_a_majority_that_is_back_is_used_at_once():
    """What was found lost before a call began is asked again for it."""
    async with cluster(hangs_up, hangs_up, deadline_s=30) as (client, members):
        for member in members:
            member.status_answer = None
        await wait_of(client.read(ListBuckets()), LeaderUnavailableError)
        for member in members:
            member.behaviour, member.status_answer = leads, {"reaches_majority": True}
        await client.read(ListBuckets())


async def test_a_caller_that_gives_up_takes_its_proposal_along():
    """A proposal that was cancelled while it waited is never sent."""
    gate = asyncio.Event()
    async with cluster(gated(gate, leads), attempt_timeout_s=5) as (client, [member]):
        first = asyncio.ensure_future(client.propose(command("first")))
        await wait_until(lambda: len(member.requests) == 1)
        gone = asyncio.ensure_future(client.propose(command("gone")))
        last = asyncio.ensure_future(client.propose(command("last")))
        await wait_until(lambda: client.statistics()["calls_waiting"] == 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        gate.set()
        await asyncio.gather(first, last)
        assert [item["command"]["bucket"] for batch in member.requests for item in batch] == ["first", "last"]


async def test_closing_ends_the_calls_that_wait_honestly():
    """What was sent is unknown, what was not is definite."""
    async with cluster(hangs, attempt_timeout_s=5) as (client, [member]):
        sent = asyncio.ensure_future(client.propose(command()))
        await wait_until(lambda: len(member.requests) == 1)
        waiting = asyncio.ensure_future(client.propose(command()))
        await wait_until(lambda: client.statistics()["calls_waiting"] == 1)
        await client.aclose()
        outcomes = await asyncio.gather(sent, waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError, LeaderUnavailableError]


def test_a_client_without_members_is_refused():
    """It could only ever time out."""
    with pytest.raises(ValueError):
        ConsensusClient([], PeerClient.__new__(PeerClient))
