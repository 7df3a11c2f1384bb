"""What whoever runs the cluster does: nodes, verify, identities, keys, backups, the audit trail. On the operations port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from trivet.caller import Caller, Request, decoded, whole
from trivet.calls import Rows, pages_of
from trivet.copy_calls import nothing
from trivet.errors import ConfigError, ProblemError, answer_invalid
from trivet.models import (
    Backup,
    Cluster,
    Identity,
    IdentityDetails,
    IdentityPage,
    KeyInfo,
    Limits,
    NewKey,
    NodeAdmitted,
    NodeDraining,
    NodeRemoved,
    Readiness,
    Scope,
    TrailVerification,
    Verification,
)
from trivet.targets import named_target, with_query
from trivet.transport import Answer

_NODES = "/v1/cluster/nodes"
_VERIFY = "/v1/cluster/verify"
_IDENTITIES = "/v1/identities"
_KEYS = "/v1/keys"
_BACKUPS = "/v1/backups"


class AsyncOperations:
    """`AsyncClient.operations`. Nearly all of it needs a key that may `cluster-admin`."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller_or_none = caller

    @property
    def _caller(self) -> Caller:
        if self._caller_or_none is None:
            raise ConfigError(
                "Where the operations port is was not said: set operations_url, or TRIVET_OPERATIONS_URL."
            )
        return self._caller_or_none

    async def readiness(self) -> Readiness:
        """Whether the gateway serves, and if not, why not. Needs no key."""
        try:
            answer = await self._caller.call(Request("GET", "/readyz", attempts=1), _json)
        except ProblemError as error:
            return Readiness(is_ready=False, answer=error.problem)
        return Readiness(is_ready=True, answer=answer)

    async def cluster(self) -> Cluster:
        """The members, the storage nodes, and what the cluster has to do without."""
        return await self._caller.model(Cluster, "GET", "/v1/cluster")

    async def add_node(self, node_id: str) -> NodeAdmitted:
        """Let a storage node in that dials in under this id."""
        return await self._caller.model(NodeAdmitted, "POST", _NODES, content={"id": node_id})

    async def drain_node(self, node_id: str) -> NodeDraining | NodeRemoved:
        """Have a node emptied; it leaves by itself then. The call again says how far it is, and is NotFound at the end.

        A node that was admitted and never dialled in holds nothing, and is removed at once.

        Raises:
            Conflict: too few nodes would be left, or another one drains.
        """
        text = await self._caller.call(Request("DELETE", named_target(_NODES, node_id)), whole)
        return (
            decoded(NodeDraining, text)
            if "draining_since" in decoded(dict[str, Any], text)
            else decoded(NodeRemoved, text)
        )

    async def cancel_drain(self, node_id: str) -> None:
        """Use a node again that was being emptied."""
        await self._caller.call(Request("DELETE", named_target(_NODES, node_id, "/drain")), nothing)

    async def remove_lost_node(self, node_id: str) -> NodeRemoved:
        """Remove a node that will never come back.

        Raises:
            Conflict: it is heard of, or no other node is live.
        """
        return await self._caller.model(NodeRemoved, "DELETE", named_target(_NODES, node_id, "?lost=true"))

    async def replace_node(self, node_id: str, new_node_id: str) -> NodeRemoved:
        """Let `new_node_id` in, and remove `node_id`, which will never come back. Conflict as of `remove_lost_node`."""
        target = named_target(_NODES, node_id, "/replace")
        return await self._caller.model(NodeRemoved, "POST", target, content={"id": new_node_id})

    async def start_verify(self) -> Verification:
        """Have every replica read and compared with the log.

        Raises:
            Conflict: that is under way.
        """
        return await self._caller.model(Verification, "POST", _VERIFY, is_repeatable=False)

    async def verification(self) -> Verification:
        """How far the verify is, and what it found."""
        return await self._caller.model(Verification, "GET", _VERIFY)

    async def cancel_verify(self) -> Verification:
        """Stop it; what was found is kept."""
        return await self._caller.model(Verification, "DELETE", _VERIFY)

    def identities(self) -> Rows[IdentityPage, Identity]:
        """All identities."""

        async def read(cursor: str | None) -> IdentityPage:
            return await self._caller.model(IdentityPage, "GET", with_query(_IDENTITIES, {"cursor": cursor}))

        return Rows(pages_of(read), lambda page: page.identities)

    async def create_identity(
        self, name: str, scopes: Sequence[Scope] = (), *, is_root: bool = False, limits: Limits | None = None
    ) -> Identity:
        """Make an identity, which may do what its scopes say. It has no key yet."""
        content = {"name": name, "is_root": is_root, "scopes": list(scopes), "limits": limits or Limits()}
        return await self._caller.model(Identity, "POST", _IDENTITIES, content=content, is_repeatable=False)

    async def identity(self, identity_id: str) -> IdentityDetails:
        """An identity with its keys and what it wrote."""
        return await self._caller.model(IdentityDetails, "GET", named_target(_IDENTITIES, identity_id))

    async def change_identity(
        self,
        identity_id: str,
        *,
        name: str | None = None,
        state: str | None = None,
        scopes: Sequence[Scope] | None = None,
        limits: Limits | None = None,
    ) -> IdentityDetails:
        """Replace what is named. `state` is active or disabled."""
        wanted = {"name": name, "state": state, "scopes": None if scopes is None else list(scopes), "limits": limits}
        return await self._caller.model(
            IdentityDetails, "PATCH", named_target(_IDENTITIES, identity_id), content=_named(wanted)
        )

    async def delete_identity(self, identity_id: str) -> None:
        """Delete an identity and its keys; what it stored stays."""
        await self._caller.call(Request("DELETE", named_target(_IDENTITIES, identity_id)), nothing)

    async def keys(self, identity_id: str) -> list[KeyInfo]:
        """The keys of an identity, five at most."""
        target = named_target(_IDENTITIES, identity_id, "/keys")
        return (await self._caller.model(_Keys, "GET", target)).keys

    async def create_key(self, identity_id: str, *, expires: datetime | None = None) -> NewKey:
        """Make a key. Its secret is in this answer and in no other, ever."""
        return await self._caller.model(
            NewKey,
            "POST",
            named_target(_IDENTITIES, identity_id, "/keys"),
            content={"expires": expires},
            is_repeatable=False,
        )

    async def key(self, key_id: str) -> KeyInfo:
        """A key, without its secret."""
        return await self._caller.model(KeyInfo, "GET", named_target(_KEYS, key_id))

    async def change_key(
        self, key_id: str, *, state: str | None = None, expires: datetime | UnsetType | None = UNSET
    ) -> KeyInfo:
        """Set when a key ends (None for never), or its state: active or disabled."""
        content: dict[str, Any] = _named({"state": state})
        if expires is not UNSET:
            content["expires"] = expires
        return await self._caller.model(KeyInfo, "PATCH", named_target(_KEYS, key_id), content=content)

    async def delete_key(self, key_id: str) -> None:
        """Delete a key; it opens nothing from now on."""
        await self._caller.call(Request("DELETE", named_target(_KEYS, key_id)), nothing)

    async def backups(self) -> list[Backup]:
        """The backups under way."""
        return (await self._caller.model(_Backups, "GET", _BACKUPS)).backups

    async def begin_backup(self, owner: str, *, lease_s: int | None = None) -> Backup:
        """Have every chunk kept that is referenced now, until `end_backup` or the lease runs out."""
        content = _named({"owner": owner, "lease_s": lease_s})
        return await self._caller.model(Backup, "POST", _BACKUPS, content=content, is_repeatable=False)

    async def renew_backup(self, backup_id: str, *, lease_s: int | None = None) -> Backup:
        """Have them kept for longer."""
        return await self._caller.model(
            Backup, "PUT", named_target(_BACKUPS, backup_id), content=_named({"lease_s": lease_s})
        )

    async def end_backup(self, backup_id: str) -> None:
        """Let them go."""
        await self._caller.call(Request("DELETE", named_target(_BACKUPS, backup_id)), nothing)

    async def audit(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """The rows of the audit trail behind the log index `after`, oldest first, as docs/operations.md describes them."""
        while True:
            _, *lines = await self._caller.call(Request("GET", with_query("/v1/audit", {"after": after})), _lines)
            if not lines:
                return
            for line in lines:
                yield line["row"]
            if (last := lines[-1]["row"]["index"]) <= after:
                raise answer_invalid("a place in the trail came again")
            after = last

    async def verify_audit(self, after: int = 0) -> TrailVerification:
        """Have the chain of the audit trail computed anew, from `after` on, as far as one call goes."""
        return await self._caller.model(TrailVerification, "GET", with_query("/v1/audit/verify", {"after": after}))


class _Keys(msgspec.Struct):
    keys: list[KeyInfo]


class _Backups(msgspec.Struct):
    backups: list[Backup]


def _named(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


async def _json(answer: Answer) -> dict[str, Any]:
    return decoded(dict[str, Any], await whole(answer))


async def _lines(answer: Answer) -> list[dict[str, Any]]:
    return [decoded(dict[str, Any], line) for line in (await whole(answer)).splitlines()]
