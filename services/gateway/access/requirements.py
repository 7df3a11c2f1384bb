"""What each command and each query needs to be allowed. Pure.

Decided by the very command or query that is sent, so that nothing that a route reads of a request can ask for one thing and do
another. A kind that stands in neither table is refused: whoever adds one says here what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from services.gateway.access.context import AccessContext
from services.gateway.access.policy import Coverage, Prefixes, listed, may_with_all, sees_bucket
from shared.contracts.access import (
    Action,
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    GetIdentity,
    GetKey,
    InitAccess,
    ListAccessChanges,
    ListIdentities,
    RecordKeyUse,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.audit import ListAudit
from shared.contracts.backups import BeginBackup, EndBackup, ListBackups, RenewBackup
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    GetBucket,
    GetCluster,
    GetFile,
    GetRequest,
    InitCluster,
    ListBuckets,
    ListFiles,
    PassTime,
    PublishFile,
    RaiseEntryVersion,
    RecordRun,
    RemoveNode,
    SetNodeState,
    UpdateNode,
)
from shared.contracts.objects import (
    CopyFile,
    CountObjects,
    DeleteBucketDocument,
    DeleteFiles,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.references import CheckReferences, CondemnChunks, ListReferenceChanges, ListReferences
from shared.contracts.uploads import (
    AbortUpload,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    GetUpload,
    ListPieces,
    ListUploads,
    PutPart,
)
from shared.contracts.usage import GetUsage
from shared.errors import AccessDeniedError


class Requirement(Protocol):
    """Of one kind of command or query."""

    def __call__(self, context: AccessContext, asked: Any) -> None:
        """Return when the context's principal may send `asked`. Raises AccessDeniedError, UnauthenticatedError."""


UploadCommand = PutPart | CopyPart | CompleteUpload | AbortUpload
"""They name an upload, and need the right to write the file that it will be: `authorized_metadata` finds out which one."""

_LISTS: Final[frozenset[type]] = frozenset({ListFiles, ListVersions, ListUploads})
_OF_FILES: Final = frozenset({Action.READ, Action.WRITE, Action.DELETE})


def _write(context: AccessContext, asked: PublishFile | BeginUpload) -> None:
    context.require(Action.WRITE, asked.bucket, asked.key)


def _set_tags(context: AccessContext, asked: SetTags) -> None:
    context.require(Action.WRITE, asked.bucket, asked.key, asked.version)


def _delete(context: AccessContext, asked: DeleteFile) -> None:
    context.require(Action.DELETE, asked.bucket, asked.key, asked.version)


def _delete_each(context: AccessContext, asked: DeleteFiles) -> None:
    for file in asked.files:
        context.require(Action.DELETE, asked.bucket, file.key, file.version)


def _copy(context: AccessContext, asked: CopyFile) -> None:
    context.require(Action.READ, asked.source_bucket, asked.source_key, asked.source_version)
    if asked.is_move:
        context.require(Action.DELETE, asked.source_bucket, asked.source_key, asked.source_version)
    context.require(Action.WRITE, asked.bucket, asked.key)


def _copy_part(context: AccessContext, asked: CopyPart) -> None:
    context.require(Action.READ, asked.source_bucket, asked.source_key, asked.source_version)


def _any_principal(context: AccessContext, asked: object) -> None:  # noqa: ARG001 as all of them
    context.require_anybody()


def _administer_bucket(context: AccessContext, asked: Any) -> None:
    context.require(Action.BUCKET_ADMIN, asked.bucket)


def _see_usage(context: AccessContext, asked: GetUsage) -> None:
    for bucket in asked.buckets:
        context.require(Action.BUCKET_ADMIN, bucket)
    if asked.identities:
        context.require(Action.CLUSTER_ADMIN, "")


def _administer_cluster(context: AccessContext, asked: object) -> None:  # noqa: ARG001 as all of them
    context.require(Action.CLUSTER_ADMIN, "")


def _never(context: AccessContext, asked: object) -> None:  # noqa: ARG001 as all of them
    """Other services send it, or the gateway for itself; no request does."""
    raise context.refusal(Action.CLUSTER_ADMIN)


def _read_file(context: AccessContext, asked: GetFile) -> None:
    """What the route does with the file that it names: a deletion may look at what it deletes. Another one is read."""
    is_another = context.key is not None and (asked.bucket, asked.key) != (context.bucket, context.key)
    action = Action.READ if is_another or context.operation not in _OF_FILES else context.operation
    context.require(action, asked.bucket, asked.key, asked.version)


def _see_bucket(context: AccessContext, asked: GetBucket) -> None:
    if not sees_bucket(context.principal, asked.bucket):
        raise context.refusal(Action.LIST, asked.bucket)


def _list(context: AccessContext, asked: ListUploads) -> None:
    _require_list(context, asked.bucket, asked.prefix)


def _list_files(context: AccessContext, asked: ListFiles) -> None:
    _require_list(context, asked.bucket, asked.prefix)
    # What a HEAD of each file would say; of files that the list leaves out it says nothing either way.
    if asked.details and not may_with_all(context.principal, Action.READ, asked.bucket, asked.prefix):
        raise context.refusal(Action.READ, asked.bucket)


def _list_versions(context: AccessContext, asked: ListVersions) -> None:
    if asked.key is not None:
        context.require(Action.LIST, asked.bucket, asked.key)
    else:
        _require_list(context, asked.bucket, asked.prefix)


def _require_list(context: AccessContext, bucket: str, prefix: str) -> None:
    try:
        listed(context.principal, bucket, prefix)
    except AccessDeniedError as error:
        raise context.refusal(Action.LIST, bucket) from error


def names_to_show(context: AccessContext, asked: object) -> Prefixes | None:
    """Of a list of names, those that the principal may list; None where all of them are, and for everything else."""
    if type(asked) not in _LISTS:
        return None
    assert isinstance(asked, ListFiles | ListVersions | ListUploads)
    if isinstance(asked, ListVersions) and asked.key is not None:
        return None
    names = listed(context.principal, asked.bucket, asked.prefix)
    return None if names.coverage(asked.prefix) is Coverage.ALL else names


COMMANDS: Final[Mapping[type, Requirement]] = {
    CreateBucket: _administer_bucket,
    DeleteBucket: _administer_bucket,
    PutBucketSettings: _administer_bucket,
    PutBucketDocument: _administer_bucket,
    DeleteBucketDocument: _administer_bucket,
    PublishFile: _write,
    DeleteFile: _delete,
    DeleteFiles: _delete_each,
    CopyFile: _copy,
    SetTags: _set_tags,
    BeginUpload: _write,
    PutPart: _any_principal,
    CopyPart: _copy_part,
    CompleteUpload: _any_principal,
    AbortUpload: _any_principal,
    AdmitNode: _administer_cluster,
    DrainNode: _administer_cluster,
    SetNodeState: _administer_cluster,
    RemoveNode: _administer_cluster,
    BeginBackup: _administer_cluster,
    RenewBackup: _administer_cluster,
    EndBackup: _administer_cluster,
    InitAccess: _administer_cluster,
    CreateIdentity: _administer_cluster,
    UpdateIdentity: _administer_cluster,
    DeleteIdentity: _administer_cluster,
    CreateKey: _administer_cluster,
    UpdateKey: _administer_cluster,
    DeleteKey: _administer_cluster,
    RecordKeyUse: _never,
    InitCluster: _never,
    UpdateNode: _never,
    RecordRun: _never,
    CondemnChunks: _never,
    PassTime: _never,
    AnnounceMember: _never,
    RaiseEntryVersion: _never,
}

QUERIES: Final[Mapping[type, Requirement]] = {
    GetFile: _read_file,
    ListFiles: _list_files,
    ListVersions: _list_versions,
    ListUploads: _list,
    GetBucket: _see_bucket,
    ListBuckets: _any_principal,
    # Under the id that the request itself has, which is made of its principal.
    GetRequest: _any_principal,
    # Nothing is known of the file before the answer: then it needs the right to write it.
    GetUpload: _any_principal,
    GetBucketSettings: _administer_bucket,
    GetUsage: _see_usage,
    GetBucketDocument: _administer_bucket,
    GetCluster: _administer_cluster,
    ListBackups: _administer_cluster,
    ListAudit: _administer_cluster,
    CountObjects: _administer_cluster,
    ListAccessChanges: _administer_cluster,
    GetIdentity: _administer_cluster,
    GetKey: _administer_cluster,
    ListIdentities: _administer_cluster,
    ListPieces: _never,
    ListReferences: _never,
    ListReferenceChanges: _never,
    CheckReferences: _never,
}
