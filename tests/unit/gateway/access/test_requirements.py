"""Every command and every query has a requirement: one that is added without it is refused, and this fails."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from services.gateway.access.context import AccessContext
from services.gateway.access.principal import NOBODY, WRITER, Principal
from services.gateway.access.requirements import COMMANDS, QUERIES
from shared.contracts.access import Action, Scope
from shared.contracts.metadata import AnyCommand, AnyQuery, GetFile, ListFiles
from shared.contracts.objects import CopyFile, DeleteFiles, FileToDelete, ListVersions
from shared.contracts.time import ClockState, Stamp
from shared.errors import AccessDeniedError, UnauthenticatedError

STAMP = Stamp(hlc=1, state=ClockState.LOGICAL)


def kinds(union: Any) -> set[type]:
    """The members of an annotated union."""
    return set(get_args(get_args(union)[0]))


def test_every_command_and_query_has_a_requirement() -> None:
    """And nothing else has one."""
    assert set(COMMANDS) == kinds(AnyCommand)
    assert set(QUERIES) == kinds(AnyQuery)


def somebody(*scopes: Scope) -> AccessContext:
    """Whoever may do that."""
    return AccessContext(Principal("a" * 64, "somebody", scopes=scopes))


def on(bucket: str, *actions: Action, prefix: str = "") -> Scope:
    return Scope(actions=list(actions), bucket=bucket, prefix=prefix)


DENIED_BELOW = Scope(actions=[Action.READ], bucket="photos", prefix="a/b/", effect="deny")


def copy(*, is_move: bool = False) -> CopyFile:
    return CopyFile(bucket="to", key="x", source_bucket="from", source_key="y", is_move=is_move, stamp=STAMP)


@pytest.mark.parametrize(
    ("scopes", "is_copied", "is_moved"),
    [
        ([on("to", Action.WRITE), on("from", Action.READ)], True, False),
        ([on("to", Action.WRITE), on("from", Action.READ, Action.DELETE)], True, True),
        ([on("to", Action.WRITE), on("from", Action.DELETE)], False, False),
        ([on("to", Action.READ, Action.DELETE), on("from", Action.READ, Action.DELETE)], False, False),
        ([on("to", Action.WRITE), on("from", Action.READ, prefix="z/")], False, False),
        ([on("to", Action.WRITE, Action.READ)], False, False),
    ],
)
def test_a_copy_reads_its_source_and_writes_its_target(scopes, is_copied, is_moved) -> None:
    """A rename deletes its source as well."""
    for is_move, is_allowed in ((False, is_copied), (True, is_moved)):
        if is_allowed:
            COMMANDS[CopyFile](somebody(*scopes), copy(is_move=is_move))
            continue
        with pytest.raises(AccessDeniedError):
            COMMANDS[CopyFile](somebody(*scopes), copy(is_move=is_move))


def test_a_batch_is_deleted_when_each_of_it_may_be() -> None:
    """One that may not be refuses all of them."""
    context = somebody(on("photos", Action.DELETE, prefix="mine/"))
    mine = [FileToDelete(key=f"mine/{number}") for number in range(3)]
    COMMANDS[DeleteFiles](context, DeleteFiles(bucket="photos", files=mine, stamp=STAMP))
    with pytest.raises(AccessDeniedError):
        COMMANDS[DeleteFiles](
            context, DeleteFiles(bucket="photos", files=[*mine, FileToDelete(key="yours/1")], stamp=STAMP)
        )


@pytest.mark.parametrize("operation", [Action.READ, Action.WRITE, Action.DELETE])
def test_a_file_is_looked_at_by_whoever_may_do_what_the_route_does(operation: Action) -> None:
    """A deletion may look at what it deletes, and a reader may not delete by looking."""
    query = GetFile(bucket="photos", key="cat")
    for action in (Action.READ, Action.WRITE, Action.DELETE):
        context = somebody(on("photos", action))
        context.operation = operation
        if action is operation:
            QUERIES[GetFile](context, query)
            continue
        with pytest.raises(AccessDeniedError):
            QUERIES[GetFile](context, query)


@pytest.mark.parametrize("other", [GetFile(bucket="photos", key="dog"), GetFile(bucket="pets", key="cat")])
def test_another_file_than_the_one_that_is_named_is_read(other: GetFile) -> None:
    """Whoever may write the target of a copy learns nothing of a source that it may not read."""
    for action in (Action.READ, Action.WRITE):
        context = somebody(on("*", action))
        context.operation, context.bucket, context.key = Action.WRITE, "photos", "cat"
        if action is Action.READ:
            QUERIES[GetFile](context, other)
            continue
        with pytest.raises(AccessDeniedError):
            QUERIES[GetFile](context, other)


@pytest.mark.parametrize("query", [ListFiles(bucket="photos", prefix="a/"), ListVersions(bucket="photos", key="a/1")])
def test_a_list_is_no_reading(query) -> None:
    """Names and contents are allowed apart."""
    QUERIES[type(query)](somebody(on("photos", Action.LIST, prefix="a/")), query)
    for context in (somebody(on("photos", Action.READ)), somebody(on("photos", Action.LIST, prefix="b/"))):
        with pytest.raises(AccessDeniedError):
            QUERIES[type(query)](context, query)


@pytest.mark.parametrize(
    ("scopes", "is_allowed"),
    [
        ([on("photos", Action.LIST, Action.READ)], True),
        ([on("photos", Action.LIST), on("photos", Action.READ, prefix="a/")], True),
        ([on("photos", Action.LIST)], False),
        ([on("photos", Action.LIST), on("photos", Action.READ, prefix="a/b/")], False),
        ([on("photos", Action.LIST, Action.READ), DENIED_BELOW], False),
    ],
)
def test_a_list_with_details_is_a_reading_of_all_that_it_may_show(scopes, is_allowed) -> None:
    """Digests and user metadata are what HEAD tells, to those who may read."""
    query = ListFiles(bucket="photos", prefix="a/", details=True)
    if is_allowed:
        QUERIES[ListFiles](somebody(*scopes), query)
    else:
        with pytest.raises(AccessDeniedError):
            QUERIES[ListFiles](somebody(*scopes), query)


def test_a_link_opens_nothing_but_what_it_is_for() -> None:
    """Whatever whoever made it may do beside."""
    context = AccessContext(
        Principal("a" * 64, "somebody", is_root=True), operation=Action.WRITE, bucket="to", key="x", is_by_link=True
    )
    context.require(Action.WRITE, "to", "x")
    for action, bucket, key in [(Action.READ, "to", "x"), (Action.WRITE, "to", "y"), (Action.WRITE, "from", "x")]:
        with pytest.raises(AccessDeniedError):
            context.require(action, bucket, key)
    with pytest.raises(AccessDeniedError):
        COMMANDS[CopyFile](context, copy())


def test_whoever_shows_no_credential_is_asked_for_one() -> None:
    """401 and not 403."""
    for context in (AccessContext(NOBODY),):
        with pytest.raises(UnauthenticatedError):
            QUERIES[GetFile](context, GetFile(bucket="photos", key="cat"))
        with pytest.raises(UnauthenticatedError):
            context.require_anybody()
    AccessContext(WRITER).require_anybody()
