"""The gateway's copy of identities and keys, by which it decides; the log has the rows themselves.

A copy may be stale, so it never decides alone. What it allows is decided again where data is touched: every answer of consensus
and every refusal of a change says whether something changed after the copy (`authorized_metadata`). What it would refuse is
refused only after it was read anew. Only rows that changed are read; for another cluster, all of them.

100,000 models would take hundreds of megabytes, so the rows are kept in a compact form, and a principal is made when it is first
asked for.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
from pydantic import TypeAdapter

from services.gateway.access.principal import Principal
from services.gateway.ports import Metadata
from shared.background_tasks import BackgroundTasks
from shared.contracts.access import (
    AccessChanges,
    AccessKey,
    Identity,
    IdentityLimits,
    ListAccessChanges,
    Scope,
    SealedRow,
)
from shared.errors import InternalError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)

REFRESH_DISTANCE_S: Final = 0.02
"""Between two reads of what changed: whoever sends made-up keys has the log asked fifty times a second, not at his own pace."""

_WALKS_MAX: Final = 3
_PRINCIPALS_MAX: Final = 4096
_NO_SCOPES: Final = b"[]"
_SCOPES: Final = TypeAdapter(list[Scope])
_LIMITS: Final = TypeAdapter(IdentityLimits)
_NOTHING_KNOWN: Final = -1


class KeyEntry(msgspec.Struct, frozen=True, gc=False):
    """As `AccessKey`."""

    id: str
    identity: str
    slot: int
    secret: SealedRow
    is_active: bool
    expires_ns: int | None
    last_used_hour: int | None


class IdentityEntry(msgspec.Struct, frozen=True, gc=False):
    """As `Identity`; `scopes` and `limits` are JSON."""

    id: str
    name: str
    is_root: bool
    is_active: bool
    scopes: bytes
    limits: bytes


class KeyTable:
    """The rows as of one read of the log. Invariant: they are those of the cluster that answered last, at `access_index`.

    Attributes:
        access_index: of the newest change that is in the copy; -1 while nothing is known.
        realm: which secrets are sealed for; None while that is not known, or none was named yet.
        edition: another number whenever a row may have become another one.
    """

    def __init__(
        self, metadata: Metadata, tasks: BackgroundTasks, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`metadata` is asked for nobody in particular: it must not be one that asks for a principal."""
        self._metadata = metadata
        self._tasks = tasks
        self._monotonic_s = monotonic_s
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[TrivetError | None] | None = None
        self._began_s = -REFRESH_DISTANCE_S
        self._identities: dict[str, IdentityEntry] = {}
        self._keys: dict[str, KeyEntry] = {}
        self._principals: dict[str, Principal] = {}
        self._heard_index = _NOTHING_KNOWN
        self.access_index = _NOTHING_KNOWN
        self.realm: str | None = None
        self.edition = 0
        self.confirmed_s: float | None = None
        """Monotonic: when the log was last asked, and had nothing newer than the copy."""

    def __len__(self) -> int:
        """Keys."""
        return len(self._keys)

    @property
    def is_behind(self) -> bool:
        """The log is known to have changes that the copy has not."""
        return self.access_index == _NOTHING_KNOWN or self.access_index < self._heard_index

    def heard(self, access_index: int, asked_s: float) -> None:
        """A read that was asked at `asked_s` says that the newest change is this one."""
        self._heard_index = max(self._heard_index, access_index)
        if access_index == self.access_index and (self.confirmed_s is None or asked_s > self.confirmed_s):
            self.confirmed_s = asked_s

    def find(self, key_id: str) -> KeyEntry | None:
        """The key of that id; it may be disabled or expired."""
        return self._keys.get(key_id)

    def keys(self) -> Iterable[KeyEntry]:
        """All of them."""
        return self._keys.values()

    def principal(self, key: KeyEntry) -> Principal | None:
        """Whom the key proves; None where key or identity is disabled. Its expiry is for the caller to look at."""
        if (principal := self._principals.get(key.id)) is not None:
            return principal
        identity = self._identities.get(key.identity)
        if identity is None or not identity.is_active or not key.is_active:
            return None
        principal = Principal(
            id=identity.id,
            name=identity.name,
            is_root=identity.is_root,
            scopes=tuple(_SCOPES.validate_json(identity.scopes)),
            limits=_LIMITS.validate_json(identity.limits),
            key=key.id,
        )
        if len(self._principals) >= _PRINCIPALS_MAX:
            self._principals.clear()
        self._principals[key.id] = principal
        return principal

    def forget(self) -> None:
        """Begin anew: for another cluster."""
        self._replace({}, {})
        self.realm = None
        self.access_index = self._heard_index = _NOTHING_KNOWN
        self.confirmed_s = None

    async def refresh(self) -> None:
        """Returns when the copy is as the log was at an instant after this call. Concurrent calls share a read.

        Raises:
            TrivetError: as a metadata read; the copy is as it was.
        """
        if (flight := self._waiting) is None:
            flight = self._waiting = self._tasks.start("access rows", self._fly())
        if (error := await asyncio.shield(flight)) is not None:
            raise error

    async def _fly(self) -> TrivetError | None:
        """An error is a value: it belongs to those who wait."""
        async with self._lock:
            await asyncio.sleep(max(0.0, self._began_s + REFRESH_DISTANCE_S - self._monotonic_s()))
            self._began_s = self._monotonic_s()
            self._waiting = None  # who comes from here on may know of a change that this walk does not see
            try:
                await self._walk()
            except TrivetError as error:
                return error
        return None

    async def _walk(self) -> None:
        for _ in range(_WALKS_MAX):
            edition, asked_s = self.edition, self._monotonic_s()
            changes = _Changes(self._identities, self._keys)
            after = max(0, self.access_index)
            answer = await self._page(after, walk=None)
            changes.add(answer)
            while answer.next_after is not None:
                answer = await self._page(answer.next_after, walk=answer.walk)
                changes.add(answer)
            if self.edition == edition:
                self._take(changes, answer, asked_s)
                return
            # Consensus answered for another cluster meanwhile.
        raise UnavailableError("Consensus answers for one cluster and then for another.", definite=True)

    async def _page(self, after: int, *, walk: int | None) -> AccessChanges:
        answer, _ = await self._metadata.read(ListAccessChanges(after=after, walk=walk))
        if answer.next_after is not None and answer.next_after <= after and not answer.is_full:
            raise InternalError("The pages of what changed do not go on.")
        return answer

    def _take(self, changes: _Changes, last: AccessChanges, asked_s: float) -> None:
        if changes.has_any:
            self._replace(changes.identities, changes.keys)
        self.realm = last.realm
        # What was heard of meanwhile may be another cluster's; who heard of it looks at the copy again.
        self.access_index = self._heard_index = last.access_index
        self.confirmed_s = asked_s

    def _replace(self, identities: dict[str, IdentityEntry], keys: dict[str, KeyEntry]) -> None:
        self._identities, self._keys = identities, keys
        self._principals.clear()
        self.edition += 1


class _Changes:
    """The pages of one walk on top of what was known before, which they leave as it is."""

    def __init__(self, identities: dict[str, IdentityEntry], keys: dict[str, KeyEntry]) -> None:
        self._before = (identities, keys)
        self.identities: dict[str, IdentityEntry] = {}
        self.keys: dict[str, KeyEntry] = {}
        self.has_any = False

    def add(self, page: AccessChanges) -> None:
        """The next page."""
        if page.is_full:
            self.identities, self.keys, self.has_any = {}, {}, True
        elif not self.has_any and (page.identities or page.keys or page.deleted):
            self.identities, self.keys, self.has_any = dict(self._before[0]), dict(self._before[1]), True
        for identity in page.identities:
            self.identities[identity.id] = _compact_identity(identity)
        for key in page.keys:
            self.keys[key.id] = self._compact_key(key)
        for deleted in page.deleted:
            self.identities.pop(deleted, None)
            self.keys.pop(deleted, None)

    def _compact_key(self, key: AccessKey) -> KeyEntry:
        identity = self.identities.get(key.identity)
        return KeyEntry(
            id=key.id,
            identity=key.identity if identity is None else identity.id,  # one text for all keys of an identity
            slot=key.slot,
            secret=SealedRow(sys.intern(key.secret.sealing_key), key.secret.sealed, key.secret.bearer_mac),
            is_active=key.state == "active",
            expires_ns=key.expires_ns,
            last_used_hour=key.last_used_hour,
        )


def _compact_identity(identity: Identity) -> IdentityEntry:
    return IdentityEntry(
        id=identity.id,
        name=identity.name,
        is_root=identity.is_root,
        is_active=identity.state == "active",
        scopes=_SCOPES.dump_json(identity.scopes) if identity.scopes else _NO_SCOPES,
        limits=_LIMITS.dump_json(identity.limits, exclude_none=True),
    )
