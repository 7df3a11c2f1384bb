"""The first root key: made once, by whichever gateway comes first, and never again."""

from __future__ import annotations

import pytest

from services.gateway.access.bootstrap import FirstRootKey, ensure_root_key, has_root_key, init_access, root_identity
from services.gateway.access.sealing import Sealer
from services.gateway.tools.offline import Resealed, reseal_all
from shared.access_keys import PlainKey, draw_credential
from shared.contracts.access import (
    AccessChanges,
    AccessKey,
    CreateIdentity,
    CreateKey,
    DeleteKey,
    Identity,
    InitAccess,
    ListAccessChanges,
    UpdateKey,
)
from shared.errors import LeaderUnavailableError

SEALER = Sealer(["k" * 43])
ROOT = PlainKey.parse("TV" + "R" * 18 + "." + "r" * 40)


@pytest.fixture(autouse=True)
async def upgraded(world) -> None:
    """Every member knows what an identity is."""
    await world.metadata.upgrade(world.clock)


async def rows(world) -> tuple[str | None, list[Identity], list[AccessKey]]:
    page, _ = await world.metadata.read(ListAccessChanges())
    return page.realm, page.identities, page.keys


async def test_the_first_key_is_that_of_the_file(world) -> None:
    """Of an identity that may do everything; its secret is sealed."""
    assert await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    realm, (identity,), (key,) = await rows(world)
    assert identity.is_root
    assert identity.id == root_identity(realm)
    assert (key.id, key.identity, key.slot) == (ROOT.id, identity.id, 0)
    assert SEALER.unseal(realm, key) == ROOT.secret
    assert SEALER.is_secret_of(key, ROOT.secret)


async def test_it_is_made_once(world) -> None:
    """By whichever gateway is first; one with another file changes nothing, nor does one that comes later."""
    assert await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    before = await rows(world)
    assert not await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    assert not await ensure_root_key(world.metadata, world.clock, SEALER, PlainKey.parse(draw_credential()))
    assert await rows(world) == before


async def test_a_root_key_that_was_replaced_does_not_come_back(world) -> None:
    """What was deleted, or disabled, is not made again at the next start."""
    await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    realm, (identity,), _ = await rows(world)
    other = PlainKey.parse(draw_credential())
    sealed = SEALER.seal(realm, other.id, 1, other.secret)
    stamp = world.clock.stamp()
    await world.metadata.propose(CreateKey(key=other.id, identity=identity.id, slot=1, secret=sealed, stamp=stamp))
    await world.metadata.propose(UpdateKey(key=ROOT.id, state="disabled", stamp=stamp))
    assert not await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    await world.metadata.propose(DeleteKey(key=ROOT.id, stamp=stamp))
    assert not await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)
    assert [key.id for key in (await rows(world))[2]] == [other.id]


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_start_that_broke_off_is_finished_by_the_next(world, steps) -> None:
    """After any of its steps."""
    failing = FailingAfter(world.metadata, steps)
    with pytest.raises(LeaderUnavailableError):
        await ensure_root_key(failing, world.clock, SEALER, ROOT)
    is_made = await has_root_key(world.metadata)
    assert is_made == (steps == 3)
    assert await ensure_root_key(world.metadata, world.clock, SEALER, ROOT) == (not is_made)
    assert [key.id for key in (await rows(world))[2]] == [ROOT.id]


class FailingAfter:
    """Metadata whose answers do not arrive from the nth change on."""

    def __init__(self, metadata, steps: int) -> None:
        self._metadata = metadata
        self._left = steps
        self.read = metadata.read

    async def propose(self, command, **facts):
        outcome = await self._metadata.propose(command, **facts)
        self._left -= 1
        if self._left == 0:
            raise LeaderUnavailableError("planted")
        return outcome


async def test_an_identity_of_another_name_does_not_hide_that_root_has_no_key(world) -> None:
    """Keys of others count for nothing."""
    realm = await init_access(world.metadata, world.clock)
    stamp, other = world.clock.stamp(), "b" * 64
    await world.metadata.propose(CreateIdentity(identity=other, name="camera", stamp=stamp))
    key = PlainKey.parse(draw_credential())
    sealed = SEALER.seal(realm, key.id, 0, key.secret)
    await world.metadata.propose(CreateKey(key=key.id, identity=other, slot=0, secret=sealed, stamp=stamp))
    assert await ensure_root_key(world.metadata, world.clock, SEALER, ROOT)


async def test_the_realm_that_was_named_first_counts(world) -> None:
    """Whoever comes later seals for it, too."""
    await world.metadata.propose(InitAccess(realm="0" * 32, stamp=world.clock.stamp()))
    assert await init_access(world.metadata, world.clock) == "0" * 32


@pytest.mark.virtual_time
async def test_a_gateway_tries_until_there_is_a_leader(world) -> None:
    """And is not ready before: nobody could show a key."""
    failing = FailingAfter(world.metadata, 1)
    first = FirstRootKey(failing, world.clock, SEALER, ROOT)
    assert first.reasons
    await first.ensure()
    assert first.reasons == []
    assert [key.id for key in (await rows(world))[2]] == [ROOT.id]


async def test_a_walk_that_begins_anew_forgets_the_key_that_is_gone() -> None:
    """Its deletion was forgotten in mid-walk: the page after says that everything comes again."""
    identity = "a" * 64
    root = Identity(id=identity, name="root", is_root=True, created_ns=1, changed_index=9)
    sealed = SEALER.seal("0" * 32, ROOT.id, 0, ROOT.secret)
    key = AccessKey(id=ROOT.id, identity=identity, slot=0, secret=sealed, created_ns=1, changed_index=3)
    pages = Pages(
        AccessChanges(realm="0" * 32, is_full=False, keys=[key], next_after=3, access_index=9),
        AccessChanges(realm="0" * 32, is_full=True, identities=[root], access_index=12),
    )
    assert not await has_root_key(pages)
    pages = Pages(*pages.sent)
    assert await reseal_all(pages, None, Sealer(["n" * 43, "k" * 43])) == Resealed()


class Pages:
    """Metadata that answers with these, and takes no change."""

    def __init__(self, *pages: AccessChanges) -> None:
        self.sent = pages
        self._left = list(pages)

    async def read(self, _query):
        return self._left.pop(0), None
