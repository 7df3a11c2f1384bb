"""`services.consensus.callers`: every route, command and query is for those who need it, and for nobody else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from services.consensus import callers
from services.consensus.api import create_router
from services.consensus.callers import ASKERS, PROPOSERS, ROUTE_CALLERS, check_proposals, check_queries
from shared.contracts.access import ANONYMOUS, BY_SYSTEM, SYSTEM, Requester
from shared.contracts.calls import Command
from shared.contracts.metadata import AnyCommand, AnyQuery, Proposal
from shared.errors import ForbiddenError, InvalidRequestError
from shared.roles import Role
from tests.callers import routes_of

ANN = Requester(principal="a" * 64, key="TV" + "A" * 18, access_index=7)
ROLES = set(Role)
COMMANDS = get_args(get_args(AnyCommand)[0])
QUERIES = get_args(get_args(AnyQuery)[0])


def proposal_of(kind: type[Command[Any]], requester: Requester | None = None) -> Proposal:
    return Proposal.model_construct(command=kind.model_construct(), requester=requester)


def test_every_route_says_who_may_call_it() -> None:
    """And nothing is in the table that there is not."""
    assert routes_of(create_router(cast("Any", SimpleNamespace()))) == set(ROUTE_CALLERS.table)


def test_every_command_and_every_query_says_who_may_send_it() -> None:
    """A kind without a row would be refused to everybody."""
    assert set(PROPOSERS) == set(COMMANDS)
    assert set(ASKERS) == set(QUERIES)


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_is_taken_from_the_roles_of_its_row_alone(kind: type) -> None:
    """Of each role in turn, together with one that it may propose."""
    proposal = proposal_of(kind)
    for role in ROLES:
        if role in PROPOSERS[kind]:
            check_proposals(role, [proposal])
        else:
            with pytest.raises(ForbiddenError, match=proposal.command.kind):
                check_proposals(role, [proposal])


@pytest.mark.parametrize("kind", QUERIES)
def test_a_query_is_taken_from_the_roles_of_its_row_alone(kind: type) -> None:
    """Of each role in turn."""
    query = cast("Any", kind.model_construct())
    for role in ROLES:
        if role in ASKERS[kind]:
            check_queries(role, [query])
        else:
            with pytest.raises(ForbiddenError, match=query.kind):
                check_queries(role, [query])


def test_a_batch_with_one_forbidden_command_is_refused_as_a_whole() -> None:
    """Nothing of it is appended."""
    condemn, publish = map(proposal_of, (callers.CondemnChunks, callers.PublishFile))
    check_proposals(Role.STORAGE, [condemn, condemn])
    with pytest.raises(ForbiddenError):
        check_proposals(Role.STORAGE, [condemn, publish])


@pytest.mark.parametrize("requester", [BY_SYSTEM, Requester(principal=ANONYMOUS), ANN])
def test_a_gateway_alone_says_for_whom(requester: Requester) -> None:
    """The trail would name whoever another service names."""
    check_proposals(Role.GATEWAY, [proposal_of(callers.BeginBackup, requester)])
    kinds = {
        Role.STORAGE: callers.CondemnChunks,
        Role.CONSENSUS: callers.AnnounceMember,
        Role.OPERATOR: callers.BeginBackup,
    }
    for role, kind in kinds.items():
        check_proposals(role, [proposal_of(kind)])
        with pytest.raises(ForbiddenError, match="whom a change is made for"):
            check_proposals(role, [proposal_of(kind, requester)])


@pytest.mark.parametrize("principal", [ANONYMOUS, SYSTEM])
def test_who_has_no_key_names_none(principal: str) -> None:
    """The trail would say that a key was used which nobody showed."""
    requester = ANN.model_copy(update={"principal": principal})
    with pytest.raises(InvalidRequestError, match=principal):
        check_proposals(Role.GATEWAY, [proposal_of(callers.PublishFile, requester)])


def test_a_kind_that_is_in_no_table_is_refused() -> None:
    """Default deny, should the walk above ever miss one."""
    unknown = cast("Any", SimpleNamespace(command=SimpleNamespace(kind="unknown"), kind="unknown", requester=None))
    for role in ROLES:
        with pytest.raises(ForbiddenError):
            check_proposals(role, [unknown])
        with pytest.raises(ForbiddenError):
            check_queries(role, [unknown])


def test_heartbeats_are_sent_by_storage_nodes_and_members_are_changed_by_operators() -> None:
    """A gateway cannot keep a dead node alive, nor a node remove a member."""
    for path, role in (("/v1/nodes/storage-1/heartbeat", Role.STORAGE), ("/v1/cluster/init", Role.OPERATOR)):
        ROUTE_CALLERS.check(role, "POST", path)
        for other in ROLES - {role}:
            with pytest.raises(ForbiddenError):
                ROUTE_CALLERS.check(other, "POST", path)
    for other in ROLES - {Role.OPERATOR}:
        with pytest.raises(ForbiddenError):
            ROUTE_CALLERS.check(other, "DELETE", "/v1/members/consensus-1")
