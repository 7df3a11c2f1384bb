"""What a member answers its callers: unknown stays unknown, and the leader's settings stand in the entries."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from services.consensus.duties.membership import Membership
from services.consensus.metadata.entries import ATTEMPT_VERSION, BUCKET_LIMIT_VERSION, OBJECTS_VERSION, decode_proposal
from services.consensus.raft.configuration import Configuration
from services.consensus.service import ConsensusService
from shared.contracts.access import ANONYMOUS, Requester
from shared.contracts.cluster import AddMemberRequest, ConsensusMember
from shared.contracts.metadata import CreateBucket, Proposal, ProposalResult
from shared.errors import (
    InvalidRequestError,
    LeaderUnavailableError,
    OutcomeUnknownError,
    TrivetError,
    error_from_problem,
)
from tests.unit.consensus.metadata.builders import stamp

DEADLINE_S = 0.01
ONE = ConsensusMember(id="m1", url="http://m1", peer_address="m1:1")


class LeadingMember:
    """Appends everything; each entry is answered when the test says so, which may be never."""

    def __init__(self) -> None:
        self.id = "m1"
        self.configuration = Configuration("c", (ONE,))
        self.raft = SimpleNamespace(is_low_on_disk=False)
        self.payloads: list[bytes] = []
        self.waiting: list[asyncio.Future[Any]] = []
        self.barrier: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.may_answer_unproven = False

    def propose(self, payloads: list[bytes]) -> list[asyncio.Future[Any]]:
        self.payloads += payloads
        futures = [asyncio.get_running_loop().create_future() for _ in payloads]
        self.waiting += futures
        return futures

    def propose_configuration(self, _: Configuration) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    async def read_barrier(self) -> int:
        return await self.barrier


def service_over(member: LeadingMember, *, entry_version: int = 1, bucket_limit: int = 7) -> ConsensusService:
    store: Any = SimpleNamespace(summary=lambda: SimpleNamespace(entry_version=entry_version))
    unused: Any = None
    return ConsensusService(
        member,  # type: ignore[arg-type]
        store,
        unused,
        unused,
        connected_peers=list,
        cluster_id="c",
        deadline_s=DEADLINE_S,
        bucket_limit=bucket_limit,
        differing_members=list,
        fill_nodes=lambda _: lambda node: node,
    )


def create(name: str) -> Proposal:
    return Proposal(request_id=name, command=CreateBucket(bucket=name, stamp=stamp()))


def error_of(result: ProposalResult) -> TrivetError:
    assert result.problem is not None
    return error_from_problem(result.problem)


async def test_an_outcome_that_is_unknown_at_the_deadline_is_not_definite() -> None:
    """The entry is in the log and may yet be committed: a client that believed a refusal would do it twice."""
    (result,) = await service_over(LeadingMember()).propose([create("a-1")])
    error = error_of(result)
    assert isinstance(error, OutcomeUnknownError)
    assert not error.definite


async def test_of_a_batch_only_what_was_answered_is_known() -> None:
    """One entry applied, one never answered: a result and an unknown outcome, in the order of the batch."""
    member = LeadingMember()
    applied = ProposalResult(log_index=5, term=1, result={})
    proposing = asyncio.ensure_future(service_over(member).propose([create("a-1"), create("b-1")]))
    await asyncio.sleep(0)
    member.waiting[0].set_result(applied)
    first, second = await proposing
    assert first == applied
    assert not error_of(second).definite


@pytest.mark.parametrize("what", [RuntimeError("a defect"), None, {"not": "a result"}])
async def test_an_entry_that_ends_in_a_defect_is_not_definite(what: object) -> None:
    """It was appended, so it may have been applied."""
    member = LeadingMember()
    proposing = asyncio.ensure_future(service_over(member).propose([create("a-1")]))
    await asyncio.sleep(0)
    if isinstance(what, Exception):
        member.waiting[0].set_exception(what)
    else:
        member.waiting[0].set_result(what)
    (result,) = await proposing
    assert not error_of(result).definite


async def test_a_change_of_members_that_is_unknown_at_the_deadline_is_not_definite() -> None:
    """As for any other entry."""
    member, unused = LeadingMember(), SimpleNamespace(known={})
    member.barrier.set_result(1)
    membership = Membership(member, unused, unused, deadline_s=DEADLINE_S)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknownError) as unknown:
        await membership.add(AddMemberRequest(id="m2", url="http://m2", peer_address="m2:1"))
    assert not unknown.value.definite


async def test_a_read_that_is_not_proven_by_the_deadline_is_refused() -> None:
    """A read changes nothing, so its refusal is definite."""
    with pytest.raises(LeaderUnavailableError) as refusal:
        await service_over(LeadingMember()).read([])
    assert refusal.value.definite


class Reader:
    """Prepares an answer, or fails, when it is asked to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked = 0
        self._error = error

    def run(self, _: object) -> asyncio.Future[bytes]:
        self.asked += 1
        prepared: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._error is None:
            prepared.set_result(b"prepared")
        else:
            prepared.set_exception(self._error)
        return prepared


def service_with(reader: Reader, member: LeadingMember) -> ConsensusService:
    service = service_over(member)
    service._deadline_s = 5.0
    service._reader = reader  # type: ignore[assignment]
    service._clock = SimpleNamespace(stamp=lambda: SimpleNamespace(hlc=1))  # type: ignore[assignment]
    member.raft = SimpleNamespace(is_low_on_disk=False, storage=SimpleNamespace(term=1), get_leader=lambda: "m1")
    return service


@pytest.mark.parametrize("is_prepared", [True, False])
async def test_an_answer_is_prepared_early_and_given_after_the_proof(is_prepared: bool) -> None:
    """And only where nothing has to be applied first."""
    member, reader = LeadingMember(), Reader()
    member.may_answer_unproven = is_prepared
    reading = asyncio.ensure_future(service_with(reader, member).read([]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert reader.asked == int(is_prepared)
    assert not reading.done(), "leadership is not proven yet"
    member.barrier.set_result(1)
    assert await reading == b"prepared"
    assert reader.asked == 1


@pytest.mark.parametrize("error", [None, RuntimeError("a defect")])
async def test_an_answer_that_is_not_proven_is_never_given(error: Exception | None) -> None:
    """Another leader may have acknowledged what it lacks. An error in preparing it is no other answer."""
    member, reader = LeadingMember(), Reader(error)
    member.may_answer_unproven = True
    reading = asyncio.ensure_future(service_with(reader, member).read([]))
    await asyncio.sleep(0)
    member.barrier.set_exception(LeaderUnavailableError("This member stopped leading."))
    with pytest.raises(LeaderUnavailableError):
        await reading
    assert reader.asked == 1


@pytest.mark.parametrize(("entry_version", "limit"), [(BUCKET_LIMIT_VERSION, 7), (BUCKET_LIMIT_VERSION - 1, None)])
async def test_the_leader_sets_the_limit_on_buckets(entry_version: int, limit: int | None) -> None:
    """Its own setting, as soon as every member can apply it; what the proposer says does not count."""
    member = LeadingMember()
    service = service_over(member, entry_version=entry_version)
    proposal = Proposal(request_id="r", command=CreateBucket(bucket="a-1", limit=1_000_000, stamp=stamp()))
    await service.propose([proposal])
    command = decode_proposal(member.payloads[0]).command
    assert isinstance(command, CreateBucket)
    assert command.limit == limit


@pytest.mark.parametrize(("entry_version", "expected"), [(ATTEMPT_VERSION - 1, None), (ATTEMPT_VERSION, "a1")])
async def test_an_attempt_is_written_once_every_member_knows_attempts(entry_version, expected) -> None:
    """Until then every refusal is stored under the key, as members of the first version do it."""
    member = LeadingMember()
    proposal = create("a-1").model_copy(update={"fingerprint": "f1", "attempt_id": "a1"})
    await service_over(member, entry_version=entry_version).propose([proposal])
    (payload,) = member.payloads
    assert decode_proposal(payload).attempt_id == expected
    assert decode_proposal(payload).fingerprint == "f1"


@pytest.mark.parametrize(
    ("entry_version", "needs_requesters", "has_requester", "is_refused"),
    [
        (OBJECTS_VERSION, True, False, True),
        (OBJECTS_VERSION, True, True, False),
        (OBJECTS_VERSION, False, False, False),
        (OBJECTS_VERSION - 1, True, False, False),
    ],
)
async def test_a_gateway_says_for_whom_it_proposes(entry_version, needs_requesters, has_requester, is_refused) -> None:
    """Once entries may say it; else a change would be made that no key was asked for."""
    member = LeadingMember()
    requester = Requester(principal=ANONYMOUS) if has_requester else None
    proposal = create("a-1").model_copy(update={"requester": requester})
    service = service_over(member, entry_version=entry_version)
    (result,) = await service.propose([proposal], needs_requesters=needs_requesters)
    assert isinstance(error_of(result), InvalidRequestError) is is_refused
    assert len(member.payloads) == (0 if is_refused else 1)
