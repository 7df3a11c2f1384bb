"""The consensus client against real HTTP servers that misbehave in every way a member can."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from blake3 import blake3

from shared.cluster_keys import derive_peer_keys
from shared.consensus_calls import batching, leader_tracker
from shared.consensus_calls import client as consensus_client
from shared.consensus_calls.batching import MAX_WAITING_BYTES
from shared.consensus_calls.client import ConsensusClient
from shared.consensus_calls.majority_watch import PATIENCE_S, STATUS_PATH
from shared.contracts.metadata import (
    CreateBucket,
    CreatedBucket,
    GetBucket,
    GetFile,
    ListBuckets,
)
from shared.contracts.time import ClockState, Stamp
from shared.errors import (
    BucketNotEmptyError,
    CursorExpiredError,
    DiskFullError,
    InternalError,
    LeaderUnavailableError,
    NotLeaderError,
    NotReadyError,
    OutcomeUnknownError,
    OverloadedError,
    PayloadTooLargeError,
    SignatureRejectedError,
    TrivetError,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import ANSWER_MAC_HEADER, AnswerFacts, VerifiedRequest
from shared.roles import Role
from tests.waiting import wait_until

ATTEMPT_TIMEOUT_S = 0.25
DEADLINE_S = 5.0

Reply = tuple[int, dict]
Behaviour = Callable[[str, list[dict]], Awaitable[Reply]]


class HangUpError(Exception):
    """Raised by a behaviour to close the connection without an answer."""


KEYS = derive_peer_keys("s" * 32, Role.GATEWAY)


async def answer_json(scope, send, status: int, answer: dict | bytes) -> None:
    kind = b"application/json" if status < 400 else b"application/problem+json"
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    mac = dict(scope["headers"])[b"authorization"].decode().rpartition("mac=")[2]
    facts = AnswerFacts(status, blake3(content).hexdigest())
    answer_mac = VerifiedRequest(KEYS.to(Role.CONSENSUS).signing, mac).answer_mac(facts).encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(content)).encode()),
        (ANSWER_MAC_HEADER.encode(), answer_mac),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Member:
    """A consensus member that does what it is told: `behaviour` gets the path and the batch, and gives the answer."""

    def __init__(self, member_id: str, behaviour: Behaviour) -> None:
        self.id = member_id
        self.behaviour = behaviour
        self.requests: list[list[dict]] = []
        self.status_answer: dict | list | None = {"reaches_majority": True}
        """To GET /v1/status; None hangs."""

        self.address = PeerAddress(member_id, "", Role.CONSENSUS)

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if scope["path"] == STATUS_PATH:
            if self.status_answer is None:
                await asyncio.Event().wait()
            await answer_json(scope, send, 200, self.status_answer)
            return
        fields = json.loads(body)
        batch = fields["proposals"] if scope["path"] == "/v1/proposals" else fields["queries"]
        self.requests.append(batch)
        try:
            status, answer = await self.behaviour(scope["path"], batch)
        except HangUpError:
            return
        await answer_json(scope, send, status, answer)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.address = PeerAddress(self.id, f"http://127.0.0.1:{listener.getsockname()[1]}", Role.CONSENSUS)
            config = uvicorn.Config(self, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=0)
            server = uvicorn.Server(config)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listener]))
                try:
                    yield
                finally:
                    server.should_exit = True


def problem(error: TrivetError) -> Reply:
    return error.status, error.to_problem()


def decided(count: int, log_index: int = 7) -> Reply:
    return 200, {
        "results": [
            {"log_index": log_index, "term": 3, "result": {"created": True, "incarnation": i}} for i in range(count)
        ]
    }


async def leads(path: str, batch: list[dict]) -> Reply:
    """Commit every proposal, answer every query with nothing found."""
    if path == "/v1/proposals":
        return decided(len(batch))
    results = [{"answer": _EMPTY_ANSWERS[query["kind"]]} for query in batch]
    return 200, {"log_index": 7, "term": 3, "epoch": 2, "hlc": 1, "results": results}


_EMPTY_ANSWERS = {
    "list_buckets": {"kind": "buckets", "buckets": []},
    "get_bucket": {"kind": "bucket", "bucket": None},
    "get_file": {"kind": "file", "has_bucket": False},
}


async def hangs(path: str, batch: list[dict]) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


async def hangs_up(path: str, batch: list[dict]) -> Reply:
    raise HangUpError


def follows(leader: Member | None = None) -> Behaviour:
    async def behaviour(path: str, batch: list[dict]) -> Reply:
        facts = {} if leader is None else {"leader_id": leader.id, "leader_url": leader.address.url}
        return problem(NotLeaderError("I do not lead.", **facts))

    return behaviour


@asynccontextmanager
async def cluster(*behaviours: Behaviour, **options) -> AsyncIterator[tuple[ConsensusClient, list[Member]]]:
    """Servers with these behaviours, and a client that knows them all."""
    async with AsyncExitStack() as stack:
        members = [Member(f"consensus-{at}", behaviour) for at, behaviour in enumerate(behaviours, 1)]
        for member in members:
            await stack.enter_async_context(member.serving())
        peer_client = await stack.enter_async_context(peers())
        addresses = options.pop("addresses", [member.address for member in members])
        client = ConsensusClient(
            addresses, peer_client, **{"attempt_timeout_s": ATTEMPT_TIMEOUT_S, "deadline_s": DEADLINE_S} | options
        )
        await stack.enter_async_context(client)
        yield client, members


def peers() -> PeerClient:
    return PeerClient(KEYS)


def command(bucket: str = "abc") -> CreateBucket:
    return CreateBucket(bucket=bucket, stamp=Stamp(hlc=1, state=ClockState.LOGICAL))


def closed_address(member_id: str) -> PeerAddress:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return PeerAddress(member_id, f"http://127.0.0.1:{unused.getsockname()[1]}", Role.CONSENSUS)


# --- finding the leader -------------------------------------------------------------------------------------------


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
        late = asyncio.ensure_future(client.propose(command("late"), deadline_s=0.5))
        await asyncio.sleep(0)
        warm.set()
        with pytest.raises(LeaderUnavailableError) as told:
            await late
        assert told.value.definite
        gate.set()
        await asyncio.gather(first, slow)
        await client.aclose()
        assert [len(batch) for batch in member.requests] == [1, 2, 1]


# --- no majority --------------------------------------------------------------------------------------------------


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


# --- batches ------------------------------------------------------------------------------------------------------


def gated(gate: asyncio.Event, then: Behaviour) -> Behaviour:
    async def behaviour(path: str, batch: list[dict]) -> Reply:
        await gate.wait()
        return await then(path, batch)

    return behaviour


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


# --- honest outcomes ----------------------------------------------------------------------------------------------


async def test_a_rejection_is_raised_with_its_facts_and_not_repeated():
    """What the state machine decided is final."""

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        rejection = BucketNotEmptyError("Not empty.", bucket="abc").to_problem()
        return 200, {"results": [{"log_index": 9, "term": 3, "problem": rejection}]}

    async with cluster(behaviour) as (client, [member]):
        with pytest.raises(BucketNotEmptyError) as rejected:
            await client.propose(command())
        assert rejected.value.facts == {"bucket": "abc"}
        assert rejected.value.definite
        assert len(member.requests) == 1


async def test_a_retryable_problem_that_stands_in_the_log_is_final():
    """The same request id would only be told the same again."""

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        return 200, {"results": [{"log_index": 9, "term": 3, "problem": NotReadyError("Not yet.").to_problem()}]}

    async with cluster(behaviour) as (client, [member]):
        with pytest.raises(NotReadyError):
            await client.propose(command())
        assert len(member.requests) == 1


async def test_a_leader_that_steps_down_in_mid_batch_is_left():
    """A single proposal that was not appended is sent again to the new leader."""
    async with cluster(leads, leads) as (client, members):

        async def steps_down(path: str, batch: list[dict]) -> Reply:
            error = NotLeaderError("I lead no more.", leader_id="consensus-2", leader_url=members[1].address.url)
            return 200, {"results": [{"log_index": 0, "term": 0, "problem": error.to_problem()}]}

        members[0].behaviour = steps_down
        assert (await client.propose(command())).log_index == 7
        assert [len(member.requests) for member in members] == [1, 1]


@pytest.fixture
def long_pauses(monkeypatch) -> None:
    """After the first round the client pauses beyond every deadline, so that the deadline never meets an attempt."""
    monkeypatch.setattr(leader_tracker, "_BACKOFF_BASE_S", 60.0)
    monkeypatch.setattr(leader_tracker, "_BACKOFF_LIMIT_S", 60.0)
    monkeypatch.setattr(batching.random, "uniform", lambda low, high: high)


async def test_nothing_sent_is_definite(long_pauses):
    """When no member takes a connection, the proposal certainly did not happen."""
    addresses = [closed_address("consensus-1"), closed_address("consensus-2")]
    async with peers() as peer_client, ConsensusClient(addresses, peer_client, deadline_s=0.4) as client:
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert failed.value.definite
        assert failed.value.retry_after_s == 1
        assert failed.value.facts == {"last_error": "peer_unreachable"}


async def test_who_has_to_find_out_why_no_leader_answered_finds_the_last_refusal(long_pauses):
    """A gateway's readiness says it when the secret was rotated in the wrong order; a client is told its code."""

    async def refuses(path: str, batch: list[dict]) -> Reply:
        return problem(SignatureRejectedError("not with this secret"))

    async with cluster(refuses, refuses, deadline_s=0.4) as (client, _):
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert isinstance(failed.value.__cause__, SignatureRejectedError)
        assert failed.value.__cause__.message == "not with this secret"
        assert "secret" not in failed.value.message


async def test_only_refusals_are_definite(long_pauses):
    """Members that all say that they do not lead have appended nothing."""
    async with cluster(follows(), follows(), deadline_s=0.4) as (client, members):
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert failed.value.definite
        assert [len(member.requests) for member in members] == [1, 1]


@pytest.mark.parametrize("misbehaviour", [hangs, hangs_up], ids=["hangs", "hangs up"])
async def test_one_attempt_that_may_have_been_appended_makes_the_outcome_unknown(misbehaviour):
    """Refusals after a lost answer do not make it certain again."""
    async with cluster(misbehaviour, follows(), deadline_s=0.8) as (client, members):
        with pytest.raises(OutcomeUnknownError) as failed:
            await client.propose(command(), request_id="once")
        assert not failed.value.definite
        ids = {proposal["request_id"] for member in members for batch in member.requests for proposal in batch}
        assert ids == {"once"}
        assert members[1].requests


@pytest.mark.parametrize("misbehaviour", [hangs, hangs_up], ids=["hangs", "hangs up"])
async def test_a_refusal_before_the_log_does_not_undo_an_earlier_attempt(misbehaviour):
    """A new leader with a full disk knows nothing of what the old one may have appended."""

    async def is_full(path: str, batch: list[dict]) -> Reply:
        refused = {"log_index": 0, "term": 0, "problem": DiskFullError("The disk is full.").to_problem()}
        return 200, {"results": [refused] * len(batch)}

    async with cluster(misbehaviour, is_full) as (client, _):
        with pytest.raises(OutcomeUnknownError) as failed:
            await client.propose(command())
        assert failed.value.facts == {"last_error": "disk_full"}
    async with cluster(is_full) as (client, _):
        with pytest.raises(DiskFullError) as refused:
            await client.propose(command())
        assert refused.value.definite


async def test_a_deadline_in_mid_attempt_leaves_the_outcome_unknown():
    """The caller's deadline does not wait for the attempt's."""
    async with cluster(hangs, attempt_timeout_s=5) as (client, _):
        with pytest.raises(OutcomeUnknownError):
            await client.propose(command(), deadline_s=0.1)


async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown():
    """It came from a member that may have appended the proposal."""

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        return 200, {"results": []}

    async with cluster(behaviour, deadline_s=0.4) as (client, [member]):
        with pytest.raises(OutcomeUnknownError) as failed:
            await client.propose(command())
        assert failed.value.facts == {"last_error": "internal_error"}
        assert len(member.requests) < 40, "retries are paused"


async def test_a_read_that_fails_is_definite():
    """A read changes nothing, whatever became of its requests."""
    async with cluster(hangs, deadline_s=0.4) as (client, _):
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.read(ListBuckets())
        assert failed.value.definite


async def test_a_rejected_query_is_raised():
    """A problem in a read batch becomes its typed error."""

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        gone = CursorExpiredError("Gone.", horizon=5).to_problem()
        return 200, {"log_index": 7, "term": 3, "epoch": 2, "hlc": 1, "results": [{"problem": gone}]}

    async with cluster(behaviour) as (client, _):
        with pytest.raises(CursorExpiredError) as failed:
            await client.read(ListBuckets())
        assert failed.value.facts == {"horizon": 5}


async def test_reads_that_did_not_fit_into_an_answer_are_asked_again_at_once(long_pauses):
    """A member answers one query per batch and calls itself overloaded for the rest: nobody has to pause."""
    asked: Counter[str] = Counter()

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        asked.update(query["bucket"] for query in batch)
        full = {"problem": OverloadedError("The answer would be too long.").to_problem()}
        first = {"answer": {"kind": "file", "has_bucket": False, "version": int(batch[0]["bucket"][1:]), "horizon": 0}}
        return 200, {"log_index": 7, "term": 3, "epoch": 2, "hlc": 1, "results": [first, *([full] * (len(batch) - 1))]}

    async with cluster(behaviour) as (client, _):
        names = [f"b{number:03}" for number in range(5)]
        answers = await asyncio.gather(*(client.read(GetFile(bucket=name, key="k")) for name in names))
    assert [answer.version for answer, _ in answers] == list(range(5))
    assert asked["b000"] == 1, "who was answered is not asked for again"
    assert asked["b004"] > 1


async def test_an_overloaded_leader_is_kept_and_asked_less():
    """Overload is no reason to look for another leader; pauses lie between the attempts."""
    remaining = 3

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        nonlocal remaining
        remaining -= 1
        return problem(OverloadedError("Too much.")) if remaining >= 0 else decided(len(batch))

    async with cluster(behaviour, follows()) as (client, members):
        assert (await client.propose(command())).log_index == 7
        assert len(members[0].requests) == 4


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
