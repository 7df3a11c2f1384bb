"""What is done to access keys without any access key: by whoever has the sealing key and the keys of a gateway."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.gateway.access.bootstrap import ROOT_NAME, init_access
from services.gateway.access.sealing import Sealer, UnsealError
from services.gateway.ports import Metadata
from services.gateway.settings import GatewaySettings
from shared.access_keys import PlainKey, draw_credential
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM, AccessKey, CreateIdentity, CreateKey, ListAccessChanges, UpdateKey
from shared.contracts.time import TimeSource
from shared.peer_calls.http_client import PeerClient
from shared.timekeeping.time_client import TimeClient


@dataclass(frozen=True, slots=True)
class Recovered:
    """A root identity that was made just now, and its key."""

    identity: str
    key: PlainKey


@dataclass(slots=True)
class Resealed:
    """How many secrets were sealed under the new sealing key, now or before; and ids of keys whose secret no line opens."""

    sealed: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list)


async def recover_root(settings: GatewaySettings) -> Recovered:
    """A new root identity with a key. Raises TrivetError."""
    async with _consensus(settings) as (metadata, clock):
        return await make_root(metadata, clock, Sealer(settings.read_sealing_keys()))


async def make_root(metadata: Metadata, clock: TimeSource, sealer: Sealer) -> Recovered:
    """A new one: what the lost one has, five keys or none, stands in no way."""
    realm, identity, key = await init_access(metadata, clock), secrets.token_hex(32), PlainKey.parse(draw_credential())
    name = f"{ROOT_NAME} (recovered)"
    creation = CreateIdentity(identity=identity, name=name, is_root=True, stamp=clock.stamp())
    await metadata.propose(creation, requester=BY_SYSTEM)
    sealed = sealer.seal(realm, key.id, 0, key.secret)
    first = CreateKey(key=key.id, identity=identity, slot=0, secret=sealed, stamp=clock.stamp())
    await metadata.propose(first, requester=BY_SYSTEM)
    return Recovered(identity, key)


async def reseal(settings: GatewaySettings) -> Resealed:
    """Seal every secret under the first sealing key. Doing it again goes on. Raises TrivetError."""
    async with _consensus(settings) as (metadata, clock):
        return await reseal_all(metadata, clock, Sealer(settings.read_sealing_keys()))


async def reseal_all(metadata: Metadata, clock: TimeSource, sealer: Sealer) -> Resealed:
    """See `reseal`."""
    done = Resealed()
    realm, keys = await _all_keys(metadata)
    for key in keys:
        if sealer.is_current(key):
            done.current += 1
            continue
        try:
            secret = sealer.unseal(realm, key)
        except UnsealError:
            done.unreadable.append(key.id)
            continue
        sealed = sealer.seal(realm, key.id, key.slot, secret)
        await metadata.propose(UpdateKey(key=key.id, secret=sealed, stamp=clock.stamp()), requester=BY_SYSTEM)
        done.sealed += 1
    return done


async def _all_keys(metadata: Metadata) -> tuple[str, list[AccessKey]]:
    """The realm and every key, as they are when the last page is read."""
    keys: dict[str, AccessKey] = {}
    page, _ = await metadata.read(ListAccessChanges())
    while True:
        if page.is_full:
            keys = {}
        keys |= {key.id: key for key in page.keys}
        for gone in page.deleted:
            keys.pop(gone, None)
        if page.next_after is None:
            return page.realm or "", list(keys.values())
        page, _ = await metadata.read(ListAccessChanges(after=page.next_after, walk=page.walk))


@asynccontextmanager
async def _consensus(settings: GatewaySettings) -> AsyncIterator[tuple[Metadata, TimeSource]]:
    async with (
        PeerClient(settings.read_peer_keys()) as client,
        TimeClient(settings.clock_urls, client, node_id=settings.node_id, hlc_path=None) as clock,
        ConsensusClient(settings.consensus_urls, client, deadline_s=settings.consensus_deadline_s) as metadata,
    ):
        _, context = await metadata.read(ListAccessChanges(limit=1))
        clock.seed(context.hlc)
        yield metadata, clock
