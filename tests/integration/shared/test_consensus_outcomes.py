"""What the client of consensus says became of a call: done, certainly not done, or unknown."""

import asyncio
import time
from collections import Counter

import pytest

from shared.consensus_calls import batching, leader_tracker
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.metadata import (
    GetFile,
    ListBuckets,
)
from shared.errors import (
    BucketNotEmptyError,
    CursorExpiredError,
    DiskFullError,
    LeaderUnavailableError,
    NotLeaderError,
    NotReadyError,
    OutcomeUnknownError,
    OverloadedError,
    SignatureRejectedError,
)
from tests.integration.shared.scripted_members import (
    Reply,
    closed_address,
    cluster,
    command,
    decided,
    follows,
    hangs,
    hangs_up,
    leads,
    peers,
    problem,
)


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
    async with peers() as peer_client, ConsensusClient(addresses, peer_client, deadline_s=1.0) as client:
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert failed.value.definite
        assert failed.value.retry_after_s == 1
        assert failed.value.facts == {"last_error": "peer_unreachable"}


async def test_who_has_to_find_out_why_no_leader_answered_finds_the_last_refusal(long_pauses):
    """A gateway's readiness says it when the secret was rotated in the wrong order; a client is told its code."""

    async def refuses(path: str, batch: list[dict]) -> Reply:
        return problem(SignatureRejectedError("not with this secret"))

    async with cluster(refuses, refuses, deadline_s=1.0) as (client, _):
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert isinstance(failed.value.__cause__, SignatureRejectedError)
        assert failed.value.__cause__.message == "not with this secret"
        assert "secret" not in failed.value.message


async def test_only_refusals_are_definite(long_pauses):
    """Members that all say that they do not lead have appended nothing."""
    async with cluster(follows(), follows(), deadline_s=1.0) as (client, members):
        with pytest.raises(LeaderUnavailableError) as failed:
            await client.propose(command())
        assert failed.value.definite
        assert [len(member.requests) for member in members] == [1, 1]


@pytest.mark.parametrize("misbehaviour", [hangs, hangs_up], ids=["hangs", "hangs up"])
async def test_one_attempt_that_may_have_been_appended_makes_the_outcome_unknown(misbehaviour):
    """Refusals after a lost answer do not make it certain again."""
    async with cluster(misbehaviour, follows(), deadline_s=2.0) as (client, members):
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
            await client.propose(command(), deadline_s=0.5)


async def test_time_in_which_we_stood_still_is_not_counted():
    """A machine that was paused answers when it runs again, and not with an error at once."""
    seen: list[str] = []

    async def stands_still_once(path: str, batch: list[dict]) -> Reply:
        seen.append(path)
        if len(seen) == 1:
            time.sleep(2.0)  # noqa: ASYNC251  # all of this process
        return decided(len(batch))

    async with cluster(stands_still_once, deadline_s=1.0) as (client, _):
        assert (await client.propose(command())).log_index == 7


async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown():
    """It came from a member that may have appended the proposal."""

    async def behaviour(path: str, batch: list[dict]) -> Reply:
        return 200, {"results": []}

    async with cluster(behaviour, deadline_s=1.0) as (client, [member]):
        with pytest.raises(OutcomeUnknownError) as failed:
            await client.propose(command())
        assert failed.value.facts == {"last_error": "internal_error"}
        assert len(member.requests) < 40, "retries are paused"


async def test_a_read_that_fails_is_definite():
    """A read changes nothing, whatever became of its requests."""
    async with cluster(hangs, deadline_s=1.0) as (client, _):
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
