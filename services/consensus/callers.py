"""Who may call which route of a consensus member, propose which command, and ask what.

Members propose by themselves what is not in the log by a caller's will: that never comes over the wire, so nobody may send it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from shared.contracts.access import (
    ANONYMOUS,
    SYSTEM,
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
    Requester,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.audit import ListAudit
from shared.contracts.backups import BeginBackup, EndBackup, ListBackups, RenewBackup
from shared.contracts.calls import Command, Query
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    AnyQuery,
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
    Proposal,
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
from shared.errors import ForbiddenError, InvalidRequestError
from shared.roles import Role
from shared.web.route_callers import RouteCallers

_NOBODY: Final = frozenset[Role]()
_GATEWAY: Final = frozenset({Role.GATEWAY})
_STORAGE: Final = frozenset({Role.STORAGE})
_CONSENSUS: Final = frozenset({Role.CONSENSUS})
_OPERATOR: Final = frozenset({Role.OPERATOR})

ROUTE_CALLERS: Final = RouteCallers(
    {
        ("POST", "/v1/proposals"): _GATEWAY | _STORAGE | _CONSENSUS | _OPERATOR,
        ("POST", "/v1/reads"): _GATEWAY | _STORAGE | _OPERATOR,
        ("POST", "/v1/nodes/{}/heartbeat"): _STORAGE,
        ("POST", "/v1/cluster/init"): _OPERATOR,
        ("POST", "/v1/members"): _OPERATOR,
        ("DELETE", "/v1/members/{}"): _OPERATOR,
        ("GET", "/v1/backup"): _OPERATOR,
        ("GET", "/v1/status"): _GATEWAY | _STORAGE | _CONSENSUS | _OPERATOR,
    }
)

PROPOSERS: Final[Mapping[type[Command[Any]], frozenset[Role]]] = {
    CreateBucket: _GATEWAY,
    DeleteBucket: _GATEWAY,
    PublishFile: _GATEWAY,
    DeleteFile: _GATEWAY,
    AdmitNode: _GATEWAY,
    SetNodeState: _GATEWAY,
    DrainNode: _GATEWAY,
    RemoveNode: _GATEWAY,
    PutBucketSettings: _GATEWAY,
    PutBucketDocument: _GATEWAY,
    DeleteBucketDocument: _GATEWAY,
    DeleteFiles: _GATEWAY,
    CopyFile: _GATEWAY,
    SetTags: _GATEWAY,
    BeginUpload: _GATEWAY,
    PutPart: _GATEWAY,
    CopyPart: _GATEWAY,
    CompleteUpload: _GATEWAY,
    AbortUpload: _GATEWAY,
    InitAccess: _GATEWAY,
    CreateIdentity: _GATEWAY,
    UpdateIdentity: _GATEWAY,
    DeleteIdentity: _GATEWAY,
    CreateKey: _GATEWAY,
    UpdateKey: _GATEWAY,
    DeleteKey: _GATEWAY,
    RecordKeyUse: _GATEWAY,
    BeginBackup: _GATEWAY | _OPERATOR,
    RenewBackup: _GATEWAY | _OPERATOR,
    EndBackup: _GATEWAY | _OPERATOR,
    CondemnChunks: _STORAGE,
    AnnounceMember: _CONSENSUS,
    InitCluster: _NOBODY,
    UpdateNode: _NOBODY,
    RecordRun: _NOBODY,
    PassTime: _NOBODY,
    RaiseEntryVersion: _NOBODY,
}

ASKERS: Final[Mapping[type[Query[Any]], frozenset[Role]]] = {
    GetFile: _GATEWAY,
    ListFiles: _GATEWAY,
    GetBucket: _GATEWAY,
    ListBuckets: _GATEWAY,
    GetCluster: _GATEWAY | _STORAGE | _OPERATOR,
    GetRequest: _GATEWAY,
    ListReferences: _STORAGE,
    ListReferenceChanges: _STORAGE,
    CheckReferences: _GATEWAY | _STORAGE,
    ListBackups: _GATEWAY | _OPERATOR,
    GetBucketSettings: _GATEWAY,
    GetBucketDocument: _GATEWAY,
    ListVersions: _GATEWAY,
    CountObjects: _GATEWAY,
    ListPieces: _GATEWAY,
    GetUpload: _GATEWAY,
    ListUploads: _GATEWAY,
    ListAccessChanges: _GATEWAY,
    GetIdentity: _GATEWAY,
    GetKey: _GATEWAY,
    ListIdentities: _GATEWAY,
    ListAudit: _GATEWAY,
    GetUsage: _GATEWAY,
}


def check_proposals(caller: Role, proposals: Iterable[Proposal]) -> None:
    """Let proposals pass that `caller` may make, each of them, for whom it says. Otherwise nothing was appended.

    Raises:
        ForbiddenError: another role may propose that, or say for whom.
        InvalidRequestError: a requester that there cannot be.
    """
    for proposal in proposals:
        command = proposal.command
        if caller not in PROPOSERS.get(type(command), _NOBODY):
            raise ForbiddenError(f"A {caller} may not propose {command.kind}.", kind=command.kind)
        if proposal.requester is not None:
            _check_requester(caller, proposal.requester)


def _check_requester(caller: Role, requester: Requester) -> None:
    """A gateway alone speaks for others: the audit trail tells what it said, so that no other role may say it."""
    if caller not in _GATEWAY:
        raise ForbiddenError(f"A {caller} may not say whom a change is made for.", name="requester")
    if requester.key is not None and requester.principal in {ANONYMOUS, SYSTEM}:
        raise InvalidRequestError(f"The principal {requester.principal} has no key.", name="requester")


def check_queries(caller: Role, queries: Iterable[AnyQuery]) -> None:
    """Let queries pass that `caller` may ask, each of them. Raises ForbiddenError."""
    for query in queries:
        if caller not in ASKERS.get(type(query), _NOBODY):
            raise ForbiddenError(f"A {caller} may not ask {query.kind}.", kind=query.kind)
