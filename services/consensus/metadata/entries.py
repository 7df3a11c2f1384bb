"""Log entries as the state machine sees them, and the bytes of a proposal in the log.

The first byte is the entry's version. A member that meets a version or a command it does not know must stop applying
(docs/promises.md, "Mixed versions"): guessing would make its state differ from the others' for ever. So a command that is
added, or gets a field or a meaning that it did not have, is written as an entry of the next version (`NEWER_KINDS`), and such
entries are proposed only when every member has announced that it can apply them (`duties.upgrades`); everything
else goes on being written as before, so that members of two versions can work together. Every field is written, defaults too,
so that a default that changes later cannot change what an old entry means. The exceptions are fields that came later:
`fingerprint` and `unmodified_since_s`, before anything was released; `limit` of a new bucket, `fences` of a publish and
`attempt_id`, with version 2; the two retentions that `PassTime` got, `seen` of a node's state, `proof` and `is_forced` of a
removal, with version 3; `tags` of a publish, `version` of a deletion, what `PassTime` says of the audit trail and `requester`
of every proposal, with version 4. They are left out when there are none, and so is `s3` of every command that may have it: most
have none. What content got with version 4 is not written: the
content that an entry brings is always a chunk list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgpack
from pydantic import ValidationError

from shared.contracts.cluster import NodeState
from shared.contracts.files import Preconditions
from shared.contracts.metadata import DeleteBucket, DeleteFile, Proposal, PublishFile, RemoveNode, SetNodeState
from shared.errors import InvalidRequestError

KNOWN_ENTRY_VERSION: Final = 5
"""The newest version of entries that this version of Trivet can apply; it can apply all before."""

FIRST_ENTRY_VERSION: Final = 1
RUNS_VERSION: Final = 2
"""In which runs of storage nodes are recorded, and publishes name the fences of the nodes that they count."""
GARBAGE_VERSION: Final = 3
"""From which on chunks are condemned, publishes checked against that, and drains proved (C-118)."""
OBJECTS_VERSION: Final = 4
"""From which on there are uploads by parts, versions that are kept, copies, tags, settings of buckets, and identities."""
PACED_VERSION: Final = 5
"""In which `PassTime` says how much it forgets."""
NEWER_KINDS: Final[dict[str, int]] = {
    "record_run": RUNS_VERSION,
    "drain_node": GARBAGE_VERSION,
    "condemn_chunks": GARBAGE_VERSION,
    "begin_backup": GARBAGE_VERSION,
    "renew_backup": GARBAGE_VERSION,
    "end_backup": GARBAGE_VERSION,
    "put_bucket_settings": OBJECTS_VERSION,
    "put_bucket_document": OBJECTS_VERSION,
    "delete_bucket_document": OBJECTS_VERSION,
    "delete_files": OBJECTS_VERSION,
    "copy_file": OBJECTS_VERSION,
    "set_tags": OBJECTS_VERSION,
    "begin_upload": OBJECTS_VERSION,
    "put_part": OBJECTS_VERSION,
    "copy_part": OBJECTS_VERSION,
    "complete_upload": OBJECTS_VERSION,
    "abort_upload": OBJECTS_VERSION,
    "init_access": OBJECTS_VERSION,
    "create_identity": OBJECTS_VERSION,
    "update_identity": OBJECTS_VERSION,
    "delete_identity": OBJECTS_VERSION,
    "create_key": OBJECTS_VERSION,
    "update_key": OBJECTS_VERSION,
    "delete_key": OBJECTS_VERSION,
    "record_key_use": OBJECTS_VERSION,
}
"""The version in which a kind of command came, for those that are not of the first version."""

BUCKET_LIMIT_VERSION: Final = 2
"""The version in which `CreateBucket.limit` came."""

ATTEMPT_VERSION: Final = 2
"""The version in which `Proposal.attempt_id` came."""


_LATER_FIELDS: Final[dict[str, dict[str, int]]] = {
    "create_bucket": {"limit": BUCKET_LIMIT_VERSION},
    "publish_file": {"fences": RUNS_VERSION, "tags": OBJECTS_VERSION, "s3": OBJECTS_VERSION},
    "copy_file": {"s3": OBJECTS_VERSION},
    "begin_upload": {"s3": OBJECTS_VERSION},
    "put_part": {"s3": OBJECTS_VERSION, "keep_s": OBJECTS_VERSION},
    "complete_upload": {"s3": OBJECTS_VERSION},
    "delete_bucket": {"aborts_uploads": OBJECTS_VERSION},
    "delete_file": {"version": OBJECTS_VERSION},
    "put_bucket_settings": {"names": OBJECTS_VERSION},
    "set_node_state": {"seen": GARBAGE_VERSION},
    "remove_node": {"proof": GARBAGE_VERSION, "is_forced": GARBAGE_VERSION},
    "pass_time": {
        "reference_retention_s": GARBAGE_VERSION,
        "condemned_retention_s": GARBAGE_VERSION,
        "audit_retention_s": OBJECTS_VERSION,
        "audit_limit_bytes": OBJECTS_VERSION,
        "forgotten_max": PACED_VERSION,
    },
}
"""By kind of command: fields that came later, and the version in which they did. They are left out when they are None."""

_LATER_PRECONDITIONS: Final = ("unmodified_since_s", "size_bytes", "stored_s")

_LATER_STATES: Final = frozenset({NodeState.SUSPECT, NodeState.JOINING})


class UnknownEntryError(Exception):
    """An entry that this version of Trivet cannot apply. Never crosses the wire: the member stops applying."""


@dataclass(frozen=True, slots=True)
class CommittedEntry:
    """One entry of the log that is committed. `payload` is None for Raft's own: no-ops and membership changes."""

    index: int
    term: int
    payload: bytes | None


def encode_proposal(proposal: Proposal) -> bytes:
    """The payload of a log entry. Digests become raw bytes: half of their hex.

    Raises:
        InvalidRequestError: a digest is not hex, or a number or text has no binary form; definite.
    """
    fields = proposal.model_dump()
    if proposal.fingerprint is None:
        del fields["fingerprint"]
    if proposal.attempt_id is None:
        del fields["attempt_id"]
    if proposal.requester is None:
        del fields["requester"]
    for name in _LATER_FIELDS.get(proposal.command.kind, ()):
        if fields["command"][name] is None:
            del fields["command"][name]
    _leave_out_absent(fields["command"])
    try:
        if (content := fields["command"].get("content")) is not None:
            _pack_content(content)
        packed: bytes = msgpack.packb(fields, use_bin_type=True)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("The proposal cannot be written down.") from error
    return bytes((entry_version_of(proposal),)) + packed


def _leave_out_absent(command: dict[str, Any]) -> None:
    """Preconditions that came later, and those of files that have none."""
    for preconditions in (command.get("preconditions"), command.get("source_preconditions")):
        if preconditions is not None:
            for name in _LATER_PRECONDITIONS:
                if preconditions[name] is None:
                    del preconditions[name]
    for file in command.get("files", ()):
        if file["preconditions"] is None:
            del file["preconditions"]


def _pack_content(content: dict[str, Any]) -> None:
    if content["digest"] is None or content["composition"] is not None or content["composed_chunks"] is not None:
        raise InvalidRequestError("Content comes with its chunk list and the digest of its bytes.", name="content")
    content["digest"] = bytes.fromhex(content["digest"])
    del content["composition"], content["composed_chunks"]


def entry_version_of(proposal: Proposal) -> int:
    """The version of entries that a member must know in order to apply this one."""
    command = proposal.command
    versions = [NEWER_KINDS.get(command.kind, FIRST_ENTRY_VERSION)]
    for name, version in _LATER_FIELDS.get(command.kind, {}).items():
        if getattr(command, name) is not None:
            versions.append(version)
    if isinstance(command, PublishFile | DeleteFile) and _is_of_s3(command.preconditions):
        versions.append(OBJECTS_VERSION)
    if isinstance(command, SetNodeState) and command.state in _LATER_STATES:
        versions.append(GARBAGE_VERSION)
    if proposal.attempt_id is not None:
        versions.append(ATTEMPT_VERSION)
    if proposal.requester is not None:
        versions.append(OBJECTS_VERSION)
    return max(versions)


def _is_of_s3(preconditions: Preconditions) -> bool:
    return preconditions.size_bytes is not None or preconditions.stored_s is not None


def fit(proposal: Proposal, entry_version: int) -> Proposal:
    """`proposal` without what members of `entry_version` do not know, as far as it means what it meant to them before."""
    command = proposal.command
    if entry_version < RUNS_VERSION and isinstance(command, PublishFile) and command.fences is not None:
        command = command.model_copy(update={"fences": None})
    if entry_version < GARBAGE_VERSION and isinstance(command, SetNodeState) and command.seen is not None:
        command = command.model_copy(update={"seen": None})
    if entry_version < GARBAGE_VERSION and isinstance(command, RemoveNode) and command.is_forced:
        command = command.model_copy(update={"is_forced": None})
    if entry_version < OBJECTS_VERSION and isinstance(command, DeleteBucket) and command.aborts_uploads is not None:
        # Without uploads none can be under way.
        command = command.model_copy(update={"aborts_uploads": None})
    attempt_id = None if entry_version < ATTEMPT_VERSION else proposal.attempt_id
    requester = None if entry_version < OBJECTS_VERSION else proposal.requester
    if command is proposal.command and (attempt_id, requester) == (proposal.attempt_id, proposal.requester):
        return proposal
    return proposal.model_copy(update={"command": command, "attempt_id": attempt_id, "requester": requester})


def decode_proposal(payload: bytes) -> Proposal:
    """The inverse of `encode_proposal`.

    Raises:
        UnknownEntryError: the format version, the command or one of its fields is not known here.
    """
    version = payload[0] if payload else 0
    if not FIRST_ENTRY_VERSION <= version <= KNOWN_ENTRY_VERSION:
        raise UnknownEntryError(f"entries of version {version} are not known here; {KNOWN_ENTRY_VERSION} is the newest")
    try:
        fields = msgpack.unpackb(memoryview(payload)[1:], raw=False)
        if (content := fields["command"].get("content")) is not None:
            content["digest"] = content["digest"].hex()
        return Proposal.model_validate(fields)
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise UnknownEntryError(f"an entry cannot be understood by this version: {error}") from error
