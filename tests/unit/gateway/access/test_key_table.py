"""The gateway's copy of who may do what: as new as it is asked to be, small, and of one cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway.access.key_table import KeyTable
from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ReadContext
from shared.contracts.access import (
    AccessChanges,
    AccessKey,
    Action,
    Identity,
    IdentityLimits,
    ListAccessChanges,
    Scope,
    SealedRow,
)
from shared.errors import LeaderUnavailableError, UnavailableError
from tests.waiting import wait_until

REALM = "5" * 32


def identity(number: int, changed_index: int = 1, **changes: object) -> Identity:
    facts: dict[str, object] = {
        "id": f"{number:064x}",
        "name": f"identity {number}",
        "created_ns": 0,
        "changed_index": changed_index,
    }
    return Identity.model_validate(facts | changes)


def key(number: int, changed_index: int = 1, **changes: Any) -> AccessKey:
    facts: dict[str, Any] = {
        "id": f"TV{number:018d}",
        "identity": f"{number:064x}",
        "slot": 0,
        "secret": SealedRow("0" * 8, bytes(68), bytes(32)),
        "created_ns": 0,
        "changed_index": changed_index,
    }
    return AccessKey(**facts | changes)


class FakeLog:
    """`ports.Metadata` that answers with the pages that a test gives it."""

    def __init__(self) -> None:
        self.pages: list[AccessChanges] = []
        self.asked: list[ListAccessChanges] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_read = lambda: None

    async def read(self, query: ListAccessChanges, *, deadline_s: float | None = None) -> object:
        self.asked.append(query)
        await self.gate.wait()
        self.on_read()
        if self.is_away:
            raise LeaderUnavailableError("Nobody leads.", definite=True)
        page = self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]
        return page, ReadContext(1, 1, 1, 1, "c", page.access_index)


def page(access_index: int, *, is_full: bool = False, next_after: int | None = None, **rows: object) -> AccessChanges:
    return AccessChanges.model_validate(
        {"realm": REALM, "is_full": is_full, "next_after": next_after, "access_index": access_index, **rows}
    )


@pytest.fixture
async def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
async def table(log: FakeLog) -> AsyncIterator[KeyTable]:
    async with BackgroundTasks() as tasks:
        yield KeyTable(log, tasks)


async def test_only_what_changed_is_read_after_the_first_time(table: KeyTable, log: FakeLog) -> None:
    """All pages of a walk; then what changed after the copy, and what is gone is gone."""
    log.pages = [
        page(2, is_full=True, next_after=1, walk=2, identities=[identity(1)], keys=[key(1)]),
        page(2, identities=[identity(2, 2)], keys=[key(2, 2)]),
    ]
    await table.refresh()
    assert (len(table), table.access_index, table.realm) == (2, 2, REALM)
    log.pages = [page(3, keys=[key(2, 3, state="disabled")], deleted=[key(1).id])]
    await table.refresh()
    assert [(query.after, query.walk) for query in log.asked] == [(0, None), (1, 2), (2, None)]
    assert table.find(key(1).id) is None
    disabled = table.find(key(2).id)
    assert disabled is not None
    assert not disabled.is_active
    assert table.principal(disabled) is None
    assert (table.access_index, table.is_behind) == (3, False)


async def test_a_key_proves_its_identity(table: KeyTable, log: FakeLog) -> None:
    """With scopes and limits as they are in the log, from the compact form of the rows; disabled, it is nobody."""
    scopes = [Scope(actions=[Action.READ], bucket="photos", prefix="a/"), Scope(actions=[Action.LIST], bucket="*")]
    limits = IdentityLimits(quota_bytes=7, requests_per_s=5)
    log.pages = [page(1, is_full=True, identities=[identity(1, scopes=scopes, limits=limits)], keys=[key(1)])]
    await table.refresh()
    found = table.find(key(1).id)
    assert found is not None
    principal = table.principal(found)
    assert principal is not None
    assert (principal.id, principal.key, principal.scopes) == (identity(1).id, key(1).id, tuple(scopes))
    assert (principal.limits, principal.is_root) == (limits, False)
    assert table.principal(found) is principal
    log.pages = [page(2, identities=[identity(1, 2, state="disabled")])]
    await table.refresh()
    assert table.principal(found) is None


async def test_everything_from_the_start_replaces_everything(table: KeyTable, log: FakeLog) -> None:
    """Where it is not known any more what was deleted since."""
    log.pages = [page(1, is_full=True, identities=[identity(1)], keys=[key(1)])]
    await table.refresh()
    edition = table.edition
    log.pages = [page(9, is_full=True, identities=[identity(2)], keys=[key(2)])]
    await table.refresh()
    assert table.find(key(1).id) is None
    assert table.find(key(2).id) is not None
    assert table.edition != edition


async def test_what_is_as_it_was_is_no_other_edition(table: KeyTable, log: FakeLog) -> None:
    """So that a request need not be decided again."""
    log.pages = [page(1, is_full=True, identities=[identity(1)], keys=[key(1)])]
    await table.refresh()
    edition = table.edition
    log.pages = [page(5)]
    await table.refresh()
    assert (table.edition, table.access_index) == (edition, 5)


async def test_a_refresh_begins_after_it_was_asked_for(table: KeyTable, log: FakeLog) -> None:
    """Who comes while a read is under way waits for the next one, which all of them share."""
    log.pages = [page(1, is_full=True)]
    log.gate.clear()
    first = asyncio.ensure_future(table.refresh())
    await wait_until(lambda: len(log.asked) == 1, "the first read")
    others = [asyncio.ensure_future(table.refresh()) for _ in range(50)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(log.asked) == 1
    log.gate.set()
    await asyncio.gather(first, *others)
    assert len(log.asked) == 2


async def test_a_failure_leaves_the_copy_and_ends_those_who_wait(table: KeyTable, log: FakeLog) -> None:
    """The next one tries again."""
    log.pages = [page(1, is_full=True, identities=[identity(1)], keys=[key(1)])]
    await table.refresh()
    log.is_away = True
    for outcome in await asyncio.gather(*(table.refresh() for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, LeaderUnavailableError)
    assert table.find(key(1).id) is not None
    log.is_away = False
    await table.refresh()


async def test_another_cluster_empties_the_copy(table: KeyTable, log: FakeLog) -> None:
    """Whatever its indexes are, everything is read again from the start."""
    log.pages = [page(7, is_full=True, identities=[identity(1)], keys=[key(1)])]
    await table.refresh()
    edition = table.edition
    table.forget()
    assert (table.find(key(1).id), table.realm, table.is_behind) == (None, None, True)
    assert table.edition != edition
    log.pages = [page(3, is_full=True, identities=[identity(2)], keys=[key(2)])]
    await table.refresh()
    assert log.asked[-1].after == 0
    assert (table.access_index, table.is_behind) == (3, False)


async def test_pages_of_two_clusters_are_not_joined(table: KeyTable, log: FakeLog) -> None:
    """When consensus answers for another one in mid-walk, the walk begins anew; for ever it does not."""
    log.pages = [page(7, is_full=True, next_after=1, identities=[identity(1)], keys=[key(1)]), page(7)]
    changes = iter([None, table.forget])

    def on_read() -> None:
        if (change := next(changes, None)) is not None:
            change()
            log.pages = [page(7), page(3, is_full=True, identities=[identity(2)], keys=[key(2)])]

    log.on_read = on_read
    await table.refresh()
    assert table.find(key(1).id) is None
    assert table.find(key(2).id) is not None
    log.pages, log.on_read = [page(3)], table.forget
    with pytest.raises(UnavailableError):
        await table.refresh()


async def test_what_other_reads_say_is_heard(table: KeyTable, log: FakeLog) -> None:
    """The copy is behind, or confirmed as of then."""
    log.pages = [page(4, is_full=True)]
    await table.refresh()
    assert table.confirmed_s is not None
    later_s = table.confirmed_s + 10
    table.heard(4, later_s)
    assert (table.confirmed_s, table.is_behind) == (later_s, False)
    table.heard(5, later_s + 10)
    assert (table.confirmed_s, table.is_behind) == (later_s, True)
