"""Whom a task acts for is said, inherited by its own tasks, and never left over."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.access.context import AccessContext, acting_for, as_system, current_access
from services.gateway.access.principal import NOBODY
from shared.background_tasks import BackgroundTasks
from shared.contracts.access import SYSTEM
from shared.errors import InternalError


async def principal_id() -> str:
    """Of the running task."""
    return current_access().principal.id


async def test_without_a_context_nothing_may_be_done() -> None:
    """It is a defect, and fails closed."""
    with pytest.raises(InternalError):
        await principal_id()


async def test_the_tasks_of_a_request_act_for_its_principal() -> None:
    """Those of a group; the context ends with its block."""
    with acting_for(AccessContext(NOBODY)):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(principal_id())
        assert task.result() == NOBODY.id
        with as_system():
            assert await principal_id() == SYSTEM
        assert await principal_id() == NOBODY.id
    with pytest.raises(InternalError):
        await principal_id()


async def test_work_in_the_background_acts_for_nobody() -> None:
    """Even where a request starts it: it says itself that it is Trivet's own."""
    async with BackgroundTasks() as tasks:
        with acting_for(AccessContext(NOBODY)):
            task = tasks.start("work", principal_id())
        with pytest.raises(InternalError):
            await task


def test_a_change_names_whom_it_is_made_for() -> None:
    """By which key and rows, from where, and under which id in the logs."""
    context = AccessContext(NOBODY, address="192.0.2.7", request_id="request-1", access_index=5)
    requester = context.requester()
    assert requester.model_dump() == {
        "principal": "anonymous",
        "key": None,
        "access_index": 5,
        "request": "request-1",
        "address": "192.0.2.7",
    }
