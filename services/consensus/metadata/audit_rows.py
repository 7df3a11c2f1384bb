"""What the audit trail says about a change: a pure function of its proposal, the applied stamp and the outcome (C-170).

A row is a promise to every later version: members of all versions must come to the same bytes, and what was exported must
stay provable. So a field that is added here counts only from a new version of entries on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict, cast

from shared.audit_chain import encode_row
from shared.contracts.access import Requester
from shared.contracts.audit import OUTCOME_OK, AuditedFile, AuditedSource, AuditRow
from shared.contracts.base import WireModel
from shared.contracts.calls import Command
from shared.contracts.files import Published
from shared.contracts.metadata import AnyCommand, PublishFile
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


class _Fields(TypedDict, total=False):
    """What a row says beyond what every row says, by the names of `AuditRow`."""

    bucket: str
    key: str
    version: int | None
    upload: int
    part: int
    source: AuditedSource
    is_move: bool
    files: tuple[AuditedFile, ...]
    identity: str
    identity_key: str
    node: str
    backup: str
    document: str


def encode_audit_row(
    index: int, stamp: Stamp, requester: Requester, command: AnyCommand, outcome: WireModel | TrivetError
) -> bytes:
    """The row of one change. Every change waits for it: no call here that is not needed for its kind."""
    if isinstance(outcome, Published) and isinstance(command, PublishFile):
        # Nothing else is written as often, and the version says all that the command does.
        fields, code = _made(outcome), OUTCOME_OK
    else:
        fields, code = _fields_of(command, outcome)
    return encode_row(
        AuditRow(
            index,
            rfc3339(stamp.approximate_ns),
            f"{stamp.hlc:016x}",
            str(stamp.state),
            requester.principal,
            command.kind,
            code,
            requester.key,
            requester.request,
            requester.address,
            **fields,
        )
    )


def _fields_of(command: AnyCommand, outcome: WireModel | TrivetError) -> tuple[_Fields, str]:
    """What the row says beyond what every row says, and the outcome."""
    fields = cast("_Fields", {field: getattr(command, name) for field, name in SUBJECTS[command.kind].items()})
    if (detail := _DETAILS.get(type(command))) is not None:
        fields |= detail(command, outcome)
    if isinstance(outcome, TrivetError):
        return _shortened(fields), outcome.code
    if (result := _RESULTS.get(type(outcome))) is not None:
        fields |= result(outcome)
    return fields, OUTCOME_OK


def _shortened(fields: _Fields) -> _Fields:
    """What was refused may be refused for its length."""
    short = {name: value[:MAX_KEY_BYTES] if isinstance(value, str) else value for name, value in fields.items()}
    return cast("_Fields", short)


def _made(outcome: Published | CopiedFile) -> _Fields:
    version = outcome.version
    return {"bucket": version.bucket, "key": version.key, "version": version.version}


def _begun(outcome: BegunUpload) -> _Fields:
    return {"upload": outcome.upload}


_RESULTS: Final[Mapping[type[WireModel], Callable[[Any], _Fields]]] = {
    Published: _made,
    CopiedFile: _made,
    BegunUpload: _begun,
}
"""What was not known before it was applied."""


def _source(command: CopyFile | CopyPart, _outcome: WireModel | TrivetError) -> _Fields:
    bucket, key = command.source_bucket[:MAX_KEY_BYTES], command.source_key[:MAX_KEY_BYTES]
    return {"source": AuditedSource(bucket, key, command.source_version)}


def _copied(command: CopyFile, outcome: WireModel | TrivetError) -> _Fields:
    return {**_source(command, outcome), "is_move": command.is_move}


def _files(command: DeleteFiles, outcome: WireModel | TrivetError) -> _Fields:
    """All of them: what could be left out of a list could be hidden by a long one."""
    outcomes = [OUTCOME_OK] * len(command.files)
    if isinstance(outcome, DeletedFiles):
        outcomes = [OUTCOME_OK if result.problem is None else result.problem["code"] for result in outcome.results]
    files = [
        AuditedFile(file.key[:MAX_KEY_BYTES], file.version, code)
        for file, code in zip(command.files, outcomes, strict=True)
    ]
    return {"files": tuple(files)}


_DETAILS: Final[Mapping[type[Command[Any]], Callable[[Any, WireModel | TrivetError], _Fields]]] = {
    CopyFile: _copied,
    CopyPart: _source,
    DeleteFiles: _files,
}
"""What is more than a field of the command."""
