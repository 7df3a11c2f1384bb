"""Which function applies which command; they stand in modules by subject.

A command returns its typed result (`shared.contracts`), or raises a typed rejection and has changed nothing. Times come from
the applied stamp, identities from the log index; there is no other input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from services.consensus.metadata.access import (
    create_identity,
    create_key,
    delete_identity,
    delete_key,
    init_access,
    record_key_use,
    update_identity,
    update_key,
)
from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.batch_deletes import delete_files
from services.consensus.metadata.buckets import (
    create_bucket,
    delete_bucket,
    delete_bucket_document,
    put_bucket_document,
    put_bucket_settings,
)
from services.consensus.metadata.cluster_entries import announce_member, init_cluster, pass_time, raise_entry_version
from services.consensus.metadata.copies import copy_file
from services.consensus.metadata.files import delete_file, publish_file, set_tags
from services.consensus.metadata.kept_references import begin_backup, condemn_chunks, end_backup, renew_backup
from services.consensus.metadata.nodes import (
    admit_node,
    drain_node,
    record_run,
    remove_node,
    set_node_state,
    update_node,
)
from services.consensus.metadata.uploads import abort_upload, begin_upload, complete_upload, copy_part, put_part
from shared.contracts.access import (
    CreateIdentity,
    CreateKey,
    DeleteIdentity,
    DeleteKey,
    InitAccess,
    RecordKeyUse,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.base import WireModel
from shared.contracts.calls import Command
from shared.contracts.metadata import (
    AdmitNode,
    AnnounceMember,
    AnyCommand,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    InitCluster,
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
    DeleteBucketDocument,
    DeleteFiles,
    PutBucketDocument,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.references import CondemnChunks
from shared.contracts.uploads import AbortUpload, BeginUpload, CompleteUpload, CopyPart, PutPart
from shared.errors import InvalidRequestError, NotReadyError


def run(context: ApplyContext, command: AnyCommand) -> WireModel:
    """Apply one command.

    Raises:
        TrivetError: the rejection; nothing was changed.
    """
    if isinstance(command, InitCluster):
        return init_cluster(context, command)
    if context.state.cluster_id is None:
        raise NotReadyError("The cluster is not initialised yet.")
    if (handler := _HANDLERS.get(type(command))) is None:
        raise InvalidRequestError("This kind of change is not made yet.", kind=command.kind)
    return handler(context, command)


_HANDLERS: Final[dict[type[Command[Any]], Callable[[ApplyContext, Any], WireModel]]] = {
    CreateBucket: create_bucket,
    DeleteBucket: delete_bucket,
    PublishFile: publish_file,
    DeleteFile: delete_file,
    AdmitNode: admit_node,
    UpdateNode: update_node,
    RecordRun: record_run,
    SetNodeState: set_node_state,
    DrainNode: drain_node,
    RemoveNode: remove_node,
    CondemnChunks: condemn_chunks,
    PutBucketSettings: put_bucket_settings,
    PutBucketDocument: put_bucket_document,
    DeleteBucketDocument: delete_bucket_document,
    DeleteFiles: delete_files,
    CopyFile: copy_file,
    SetTags: set_tags,
    BeginBackup: begin_backup,
    RenewBackup: renew_backup,
    EndBackup: end_backup,
    BeginUpload: begin_upload,
    PutPart: put_part,
    CopyPart: copy_part,
    CompleteUpload: complete_upload,
    AbortUpload: abort_upload,
    InitAccess: init_access,
    CreateIdentity: create_identity,
    UpdateIdentity: update_identity,
    DeleteIdentity: delete_identity,
    CreateKey: create_key,
    UpdateKey: update_key,
    DeleteKey: delete_key,
    RecordKeyUse: record_key_use,
    PassTime: pass_time,
    AnnounceMember: announce_member,
    RaiseEntryVersion: raise_entry_version,
}
