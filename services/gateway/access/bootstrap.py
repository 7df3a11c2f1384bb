"""Makes the first root key of a cluster, from a file that whoever runs it has made: there is no default one, ever.

Every gateway does this at its start, and any number of them at once: the realm is the first that was named, the identity's id
follows from the realm, and a key is made while no root identity has one. Afterwards the file counts no more: to lose it is to
lose that key, not the cluster (docs/security.md).
"""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Final

import structlog
from blake3 import blake3

from services.gateway.access.sealing import Sealer
from services.gateway.ports import Metadata
from shared.access_keys import PlainKey
from shared.backoff import Backoff
from shared.contracts.access import (
    BY_SYSTEM,
    AccessChanges,
    CreateIdentity,
    CreateKey,
    InitAccess,
    ListAccessChanges,
)
from shared.contracts.time import TimeSource
from shared.errors import IdentityExistsError, KeyExistsError, KeySlotTakenError, TrivetError

logger = structlog.get_logger(__name__)

ROOT_NAME: Final = "root"
_RETRY_BASE_S: Final = 0.25
_RETRY_LIMIT_S: Final = 5.0
_ROOT_CONTEXT: Final = "trivet 2026 root identity"


class FirstRootKey:
    """Sees to it that there is a root key. Invariant: `reasons` is empty from then on."""

    def __init__(self, metadata: Metadata, clock: TimeSource, sealer: Sealer, root: PlainKey) -> None:
        """`metadata` is asked for nobody in particular."""
        self._metadata = metadata
        self._clock = clock
        self._sealer = sealer
        self._root = root
        self.reasons = ["nobody knows yet whether there is a root key"]

    async def ensure(self) -> None:
        """Try until it is done."""
        backoff = Backoff(_RETRY_BASE_S, _RETRY_LIMIT_S, random.random)
        while True:
            try:
                await ensure_root_key(self._metadata, self._clock, self._sealer, self._root)
            except TrivetError as error:
                self.reasons = [f"root key: {error.message}"]
                await asyncio.sleep(backoff.failed())
            else:
                self.reasons = []
                return


def root_identity(realm: str) -> str:
    """The id of the identity that is made first."""
    return blake3(realm.encode(), derive_key_context=_ROOT_CONTEXT).hexdigest()


async def init_access(metadata: Metadata, clock: TimeSource) -> str:
    """The realm of the cluster; named now, if it had no name.

    Raises:
        TrivetError: as `Metadata.propose`; UpgradeUnfinishedError while a member does not know what an identity is.
    """
    command = InitAccess(realm=secrets.token_hex(16), stamp=clock.stamp())
    outcome = await metadata.propose(command, requester=BY_SYSTEM)
    return outcome.result.realm


async def ensure_root_key(metadata: Metadata, clock: TimeSource, sealer: Sealer, root: PlainKey) -> bool:
    """Make `root` the first key of the cluster's root, unless a root has one; whether it was made now.

    Raises:
        TrivetError: as `init_access`; what was done so far stays, and doing it again goes on from there.
    """
    realm = await init_access(metadata, clock)
    if await has_root_key(metadata):
        return False
    identity = root_identity(realm)
    creation = CreateIdentity(identity=identity, name=ROOT_NAME, is_root=True, stamp=clock.stamp())
    try:
        await metadata.propose(creation, requester=BY_SYSTEM)
    except IdentityExistsError:
        logger.info("the root identity is there and has no key yet")
    sealed = sealer.seal(realm, root.id, 0, root.secret)
    key = CreateKey(key=root.id, identity=identity, slot=0, secret=sealed, stamp=clock.stamp())
    try:
        await metadata.propose(key, requester=BY_SYSTEM)
    except (KeyExistsError, KeySlotTakenError):
        return False  # another gateway was faster
    logger.info("the first root key was made", key=root.id)
    return True


async def has_root_key(metadata: Metadata) -> bool:
    """Whether a root identity has a key, be it one that is disabled or expired."""
    roots: set[str] = set()
    owners: set[str] = set()
    after = 0
    walk: int | None = None
    while True:
        page: AccessChanges
        page, _ = await metadata.read(ListAccessChanges(after=after, walk=walk))
        if page.is_full:
            roots, owners = set(), set()
        roots |= {identity.id for identity in page.identities if identity.is_root}
        owners |= {key.identity for key in page.keys}
        if not roots.isdisjoint(owners):
            return True
        if page.next_after is None:
            return False
        after, walk = page.next_after, page.walk
