"""`trivet.Client.operations`: what whoever runs the cluster does, without `await`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET, UnsetType

from trivet.background_loop import BackgroundLoop
from trivet.docstrings import document
from trivet.models import (
    Backup,
    Cluster,
    Identity,
    IdentityDetails,
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
from trivet.operations import AsyncOperations


class Operations:
    """See `AsyncOperations`."""

    def __init__(self, operations: AsyncOperations, loop: BackgroundLoop) -> None:
        self._async = operations
        self._loop = loop

    def readiness(self) -> Readiness:
        """See `AsyncOperations.readiness`."""
        return self._loop.run(self._async.readiness())

    def cluster(self) -> Cluster:
        """See `AsyncOperations.cluster`."""
        return self._loop.run(self._async.cluster())

    def add_node(self, node_id: str) -> NodeAdmitted:
        """See `AsyncOperations.add_node`."""
        return self._loop.run(self._async.add_node(node_id))

    def drain_node(self, node_id: str) -> NodeDraining | NodeRemoved:
        """See `AsyncOperations.drain_node`."""
        return self._loop.run(self._async.drain_node(node_id))

    def cancel_drain(self, node_id: str) -> None:
        """See `AsyncOperations.cancel_drain`."""
        self._loop.run(self._async.cancel_drain(node_id))

    def remove_lost_node(self, node_id: str) -> NodeRemoved:
        """See `AsyncOperations.remove_lost_node`."""
        return self._loop.run(self._async.remove_lost_node(node_id))

    def replace_node(self, node_id: str, new_node_id: str) -> NodeRemoved:
        """See `AsyncOperations.replace_node`."""
        return self._loop.run(self._async.replace_node(node_id, new_node_id))

    def start_verify(self) -> Verification:
        """See `AsyncOperations.start_verify`."""
        return self._loop.run(self._async.start_verify())

    def verification(self) -> Verification:
        """See `AsyncOperations.verification`."""
        return self._loop.run(self._async.verification())

    def cancel_verify(self) -> Verification:
        """See `AsyncOperations.cancel_verify`."""
        return self._loop.run(self._async.cancel_verify())

    def identities(self) -> Iterator[Identity]:
        """See `AsyncOperations.identities`."""
        return self._loop.rows(self._async.identities())

    def create_identity(
        self, name: str, scopes: Sequence[Scope] = (), *, is_root: bool = False, limits: Limits | None = None
    ) -> Identity:
        """See `AsyncOperations.create_identity`."""
        return self._loop.run(self._async.create_identity(name, scopes, is_root=is_root, limits=limits))

    def identity(self, identity_id: str) -> IdentityDetails:
        """See `AsyncOperations.identity`."""
        return self._loop.run(self._async.identity(identity_id))

    def change_identity(
        self,
        identity_id: str,
        *,
        name: str | None = None,
        state: str | None = None,
        scopes: Sequence[Scope] | None = None,
        limits: Limits | None = None,
    ) -> IdentityDetails:
        """See `AsyncOperations.change_identity`."""
        return self._loop.run(
            self._async.change_identity(identity_id, name=name, state=state, scopes=scopes, limits=limits)
        )

    def delete_identity(self, identity_id: str) -> None:
        """See `AsyncOperations.delete_identity`."""
        self._loop.run(self._async.delete_identity(identity_id))

    def keys(self, identity_id: str) -> list[KeyInfo]:
        """See `AsyncOperations.keys`."""
        return self._loop.run(self._async.keys(identity_id))

    def create_key(self, identity_id: str, *, expires: datetime | None = None) -> NewKey:
        """See `AsyncOperations.create_key`."""
        return self._loop.run(self._async.create_key(identity_id, expires=expires))

    def key(self, key_id: str) -> KeyInfo:
        """See `AsyncOperations.key`."""
        return self._loop.run(self._async.key(key_id))

    def change_key(
        self, key_id: str, *, state: str | None = None, expires: datetime | UnsetType | None = UNSET
    ) -> KeyInfo:
        """See `AsyncOperations.change_key`."""
        return self._loop.run(self._async.change_key(key_id, state=state, expires=expires))

    def delete_key(self, key_id: str) -> None:
        """See `AsyncOperations.delete_key`."""
        self._loop.run(self._async.delete_key(key_id))

    def backups(self) -> list[Backup]:
        """See `AsyncOperations.backups`."""
        return self._loop.run(self._async.backups())

    def begin_backup(self, owner: str, *, lease_s: int | None = None) -> Backup:
        """See `AsyncOperations.begin_backup`."""
        return self._loop.run(self._async.begin_backup(owner, lease_s=lease_s))

    def renew_backup(self, backup_id: str, *, lease_s: int | None = None) -> Backup:
        """See `AsyncOperations.renew_backup`."""
        return self._loop.run(self._async.renew_backup(backup_id, lease_s=lease_s))

    def end_backup(self, backup_id: str) -> None:
        """See `AsyncOperations.end_backup`."""
        self._loop.run(self._async.end_backup(backup_id))

    def audit(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """See `AsyncOperations.audit`."""
        return self._loop.iterate(self._async.audit(after))

    def verify_audit(self, after: int = 0) -> TrailVerification:
        """See `AsyncOperations.verify_audit`."""
        return self._loop.run(self._async.verify_audit(after))


document(Operations, AsyncOperations)
