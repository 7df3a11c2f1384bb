"""Whether a change is decided by what is still so: `apply` refuses what a gateway allowed by rows that changed since (C-176).

A gateway decides by its copy of identities, keys and documents of buckets, and says with the change by which access index it did.
While that is the state's own, nothing changed, and nothing is looked up. Otherwise the change is refused when its principal, its
key, or a bucket that it touches changed since: the gateway fetches what changed, decides again and makes a new attempt.

That a key expires is no change, and no clock decides here: the gateway refuses it before it proposes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from services.consensus.metadata.access_records import ACTIVE, AccessRecords
from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.upload_records import UploadRecords
from shared.contracts.access import ANONYMOUS, SYSTEM, Requester
from shared.contracts.metadata import AnyCommand
from shared.errors import AccessChangedError

_BUCKET_FIELDS: Final = ("bucket", "source_bucket")
"""Fields of commands that name a bucket; `upload` names one by what was begun in it."""


def check_requester(context: ApplyContext, requester: Requester, command: AnyCommand) -> None:
    """Nothing that allowed the change has changed, as of this entry.

    Raises:
        AccessChangedError: something has. The same entry again is refused again: indexes of changes only grow.
    """
    if requester.access_index == context.state.access_index or requester.principal == SYSTEM:
        return
    if requester.access_index > context.state.access_index:
        raise _changed(requester, "the state is another one than the gateway knows")
    if requester.principal != ANONYMOUS:
        _check_identity(AccessRecords(context.tables), requester)
    for incarnation in _buckets_of(context, command):
        # A bucket that was made since may follow one of the same name, whose documents allowed this.
        if max(incarnation, context.records.access_index(incarnation)) > requester.access_index:
            raise _changed(requester, "a bucket changed")


def _check_identity(records: AccessRecords, requester: Requester) -> None:
    identity = records.identity(requester.principal)
    if identity is None or identity.state != ACTIVE or identity.changed_index > requester.access_index:
        raise _changed(requester, "the identity changed")
    if requester.key is None:
        return
    key = records.key(requester.key)
    if (
        key is None
        or key.state != ACTIVE
        or key.changed_index > requester.access_index
        or key.identity != requester.principal
    ):
        raise _changed(requester, "the key changed")


def _buckets_of(context: ApplyContext, command: AnyCommand) -> Iterator[int]:
    """The incarnations of the buckets that a command touches, as far as they exist."""
    for field in _BUCKET_FIELDS:
        name = getattr(command, field, None)
        if name is not None and (bucket := context.bucket(name)) is not None:
            yield bucket.incarnation
    upload = getattr(command, "upload", None)
    if upload is not None and (row := UploadRecords(context.tables).upload(upload)) is not None:
        yield row.incarnation


def _changed(requester: Requester, reason: str) -> AccessChangedError:
    return AccessChangedError(
        f"Who may do what changed meanwhile: {reason}.",
        principal=requester.principal,
        access_index=requester.access_index,
    )
