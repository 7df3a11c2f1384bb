"""What the audit trail says about a change: a pure function of its proposal, the applied stamp and the outcome (C-170).

A row is a promise to every later version: members of all versions must come to the same bytes, and what was exported must
stay provable. So a field that is added here counts only from a new version of entries on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.audit_chain import encode_row
from shared.contracts.access import Requester
from shared.contracts.audit import OUTCOME_OK, AuditedFile, AuditedSource, AuditRow
from shared.contracts.base import WireModel
from shared.contracts.files import Published
from shared.contracts.metadata import AnyCommand
from shared.contracts.names import MAX_KEY_BYTES
from shared.contracts.objects import CopiedFile, CopyFile, DeletedFiles, DeleteFiles
from shared.contracts.time import Stamp, rfc3339
from shared.contracts.uploads import BegunUpload, CopyPart
from shared.errors import TrivetError

_FILE: Final = {"bucket": "bucket", "key": "key"}
_VERSION: Final = _FILE | {"version": "version"}
_UPLOAD: Final = {"upload": "upload"}
_PART: Final = _UPLOAD | {"part": "number"}
_BUCKET: Final = {"bucket": "bucket"}
_DOCUMENT: Final = _BUCKET | {"document": "kind_name"}
_NODE: Final = {"node": "node_id"}
_BACKUP: Final = {"backup": "backup_id"}
_IDENTITY: Final = {"identity": "identity"}
_KEY: Final = {"identity_key": "key"}

SUBJECTS: Final[Mapping[str, Mapping[str, str]]] = {
    "create_bucket": _BUCKET,
    "delete_bucket": _BUCKET,
    "publish_file": _FILE,
    "delete_file": _VERSION,
    "init_cluster": {},
    "admit_node": _NODE,
    "update_node": _NODE,
    "record_run": _NODE,
    "set_node_state": _NODE,
    "drain_node": _NODE,
    "remove_node": _NODE,
    "condemn_chunks": {},
    "put_bucket_settings": _BUCKET,
    "put_bucket_document": _DOCUMENT,
    "delete_bucket_document": _DOCUMENT,
    "delete_files": _BUCKET,
    "copy_file": _FILE,
    "set_tags": _VERSION,
    "begin_backup": _BACKUP,
    "renew_backup": _BACKUP,
    "end_backup": _BACKUP,
    "begin_upload": _FILE,
    "put_part": _PART,
    "copy_part": _PART,
    "complete_upload": _UPLOAD,
    "abort_upload": _UPLOAD,
    "init_access": {},
    "create_identity": _IDENTITY,
    "update_identity": _IDENTITY,
    "delete_identity": _IDENTITY,
    "create_key": _IDENTITY | _KEY,
    "update_key": _KEY,
    "delete_key": _KEY,
    "record_key_use": {},
    "pass_time": {},
    "announce_member": {},
    "raise_entry_version": {},
}
"""By kind of command: which fields of a row are taken from which of its own. What has none is about the whole cluster."""


def encode_audit_row(
    index: int, stamp: Stamp, requester: Requester, command: AnyCommand, outcome: WireModel | TrivetError
) -> bytes:
    """The row of one change."""
    subject: dict[str, Any] = {
        field: value[:MAX_KEY_BYTES] if isinstance(value := getattr(command, name), str) else value
        for field, name in SUBJECTS[command.kind].items()
    }
    return encode_row(
        AuditRow(
            index=index,
            time=rfc3339(stamp.approximate_ns),
            hlc=f"{stamp.hlc:016x}",
            clock=stamp.state.value,
            principal=requester.principal,
            kind=command.kind,
            outcome=outcome.code if isinstance(outcome, TrivetError) else OUTCOME_OK,
            access_key=requester.key,
            request=requester.request,
            address=requester.address,
            **subject | _result(outcome) | _rest(command, outcome),
        )
    )


def _result(outcome: WireModel | TrivetError) -> dict[str, Any]:
    """What was not known before it was applied."""
    if isinstance(outcome, Published | CopiedFile):
        version = outcome.version
        return {"bucket": version.bucket, "key": version.key, "version": version.version}
    if isinstance(outcome, BegunUpload):
        return {"upload": outcome.upload}
    return {}


def _rest(command: AnyCommand, outcome: WireModel | TrivetError) -> dict[str, Any]:
    """What is more than a field of the command."""
    if isinstance(command, CopyFile | CopyPart):
        key = command.source_key[:MAX_KEY_BYTES]
        source = AuditedSource(command.source_bucket[:MAX_KEY_BYTES], key, command.source_version)
        return {"source": source, "is_move": command.is_move} if isinstance(command, CopyFile) else {"source": source}
    if isinstance(command, DeleteFiles):
        return {"files": _files(command, outcome)}
    return {}


def _files(command: DeleteFiles, outcome: WireModel | TrivetError) -> tuple[AuditedFile, ...]:
    """All of them: what could be left out of a list could be hidden by a long one."""
    outcomes = [OUTCOME_OK] * len(command.files)
    if isinstance(outcome, DeletedFiles):
        outcomes = [OUTCOME_OK if result.problem is None else result.problem["code"] for result in outcome.results]
    return tuple(
        AuditedFile(file.key[:MAX_KEY_BYTES], file.version, code)
        for file, code in zip(command.files, outcomes, strict=True)
    )
