"""A realm, identities and keys in a running cluster, and whether they are the same in another one."""

from __future__ import annotations

import asyncio

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import (
    BY_SYSTEM,
    AccessChanges,
    Action,
    CreateIdentity,
    CreateKey,
    DeleteKey,
    InitAccess,
    ListAccessChanges,
    RecordKeyUse,
    Requester,
    Scope,
    UpdateIdentity,
)
from shared.contracts.metadata import CreateBucket
from shared.errors import AccessChangedError, UpgradeUnfinishedError
from tests.integration.consensus.scene import PROGRESS_WITHIN_S
from tests.unit.consensus.metadata.access_builders import REALM, ROOT, identity_id, key_id, secret
from tests.unit.consensus.metadata.builders import stamp


async def make_identities(consensus: ConsensusClient) -> None:
    """A root, and an identity that had two keys."""
    async with asyncio.timeout(PROGRESS_WITHIN_S):
        while True:
            try:
                await consensus.propose(InitAccess(realm=REALM, stamp=stamp()), requester=BY_SYSTEM)
                break
            except UpgradeUnfinishedError:
                await asyncio.sleep(0.1)
    scope = Scope(actions=[Action.READ], bucket="default", prefix="photos/")
    for command in (
        CreateIdentity(identity=ROOT, name="root", is_root=True, stamp=stamp()),
        CreateKey(key=key_id(0), identity=ROOT, slot=0, secret=secret(1), stamp=stamp()),
        CreateIdentity(identity=identity_id(1), name="reader", scopes=[scope], stamp=stamp()),
        CreateKey(key=key_id(1), identity=identity_id(1), slot=0, secret=secret(2), expires_ns=10**18, stamp=stamp()),
        CreateKey(key=key_id(2), identity=identity_id(1), slot=1, secret=secret(3), stamp=stamp()),
        DeleteKey(key=key_id(2), stamp=stamp()),
        RecordKeyUse(keys=[key_id(1)], hour=480_000, stamp=stamp()),
    ):
        await consensus.propose(command, requester=BY_SYSTEM, deadline_s=PROGRESS_WITHIN_S)


async def known_access(consensus: ConsensusClient) -> AccessChanges:
    """Everything that a gateway is told."""
    changes, context = await consensus.read(ListAccessChanges(), deadline_s=PROGRESS_WITHIN_S)
    assert changes.access_index == context.access_index > 0
    return changes


async def check_identities(consensus: ConsensusClient, before: AccessChanges) -> None:
    """They are those of `before`; changes for them are taken, and refused once something about them changes."""
    found = await known_access(consensus)
    assert found == before
    assert (found.realm, len(found.identities), len(found.keys), found.deleted) == (REALM, 2, 2, [key_id(2)])
    requester = Requester(principal=identity_id(1), key=key_id(1), access_index=found.access_index)
    await consensus.propose(CreateBucket(bucket="of-a-reader", stamp=stamp()), requester=requester)
    await consensus.propose(UpdateIdentity(identity=identity_id(1), scopes=[], stamp=stamp()), requester=BY_SYSTEM)
    try:
        await consensus.propose(CreateBucket(bucket="not-any-more", stamp=stamp()), requester=requester)
    except AccessChangedError:
        return
    raise AssertionError("a change was taken that an older table allowed")
