"""How the result of a proposal is remembered, so that a repeated request id gets the same answer (C-10).

A published version is not stored a second time: the outcome only says that it was published, and the version is found
under the same log index. Whoever deletes rows of `versions` must therefore spare those of a remembered request.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from services.consensus.metadata.rows import RequestRow
from services.consensus.metadata.tables import Tables
from shared.contracts.base import WireModel
from shared.contracts.files import FileVersion, Published
from shared.contracts.metadata import Proposal, ProposalResult
from shared.contracts.objects import CopiedFile
from shared.errors import IdempotencyKeyReusedError, InternalError, TrivetError

_RESULT: Final = 0
_PROBLEM: Final = 1
_PUBLISHED: Final = 2
_COPIED: Final = 3

_LATER_OF_VERSION: Final[dict[str, object]] = {
    "version_id": None,
    "is_null": True,
    "created_ns": None,
    "content_id": None,
    "tags": {},
    "patch_index": 0,
    "owner": None,
    "s3": None,
}
_LATER_OF_CONTENT: Final[dict[str, object]] = {"composition": None, "composed_chunks": None}
"""Fields that came with entries of version 4, and what they are in a version of before."""


def encode_outcome(
    outcome: WireModel | TrivetError, index: int, fingerprint: str | None = None, attempt_id: str | None = None
) -> bytes:
    """The stored form: what it is, the value, the fingerprint of what was asked for, and the attempt that made it.

    The last two are left out where there are none.

    A version that another entry than that of `index` published is stored whole: an upload was completed before.
    """
    value: tuple[object, ...]
    if isinstance(outcome, TrivetError):
        value = (_PROBLEM, outcome.to_problem())
    elif isinstance(outcome, Published) and outcome.version.version == index:
        value = (_PUBLISHED, outcome.created)
    elif isinstance(outcome, CopiedFile):
        value = (_COPIED, (outcome.created, outcome.source_version))
    elif isinstance(outcome, Published):
        value = (_RESULT, _fields_of(outcome))
    else:
        value = (_RESULT, outcome.model_dump(exclude_defaults=True))
    if attempt_id is not None:
        value = (*value, fingerprint, attempt_id)
    elif fingerprint is not None:
        value = (*value, fingerprint)
    packed: bytes = msgpack.packb(value)
    return packed


def first_result(index: int, term: int, outcome: WireModel | TrivetError) -> ProposalResult:
    """The answer to a proposal that was just applied."""
    if isinstance(outcome, TrivetError):
        return ProposalResult(log_index=index, term=term, problem=outcome.to_problem())
    return ProposalResult(log_index=index, term=term, result=_fields_of(outcome))


def _fields_of(result: WireModel) -> dict[str, Any]:
    """As JSON. Fields that came later are left out while they have their defaults: callers of older versions refuse them."""
    if isinstance(result, Published):
        return {"created": result.created, "version": _version_fields(result.version)}
    if isinstance(result, CopiedFile):
        version = _version_fields(result.version)
        return {"created": result.created, "version": version, "source_version": result.source_version}
    return result.model_dump(mode="json", exclude_defaults=True)


def _version_fields(version: FileVersion) -> dict[str, Any]:
    fields = version.model_dump(mode="json")
    for dumped, later in ((fields, _LATER_OF_VERSION), (fields["content"], _LATER_OF_CONTENT)):
        for name, default in later.items():
            if dumped[name] == default:
                del dumped[name]
    return fields


def repeated_result(row: RequestRow, tables: Tables) -> ProposalResult:
    """The answer to a proposal that was applied before: equal to `first_result` of that time."""
    form, value, *_ = msgpack.unpackb(row.outcome)
    if form == _PROBLEM:
        return ProposalResult(log_index=row.log_index, term=row.term, problem=value)
    if form == _PUBLISHED:
        value = _fields_of(Published(created=value, version=tables.version(row.log_index)))
    elif form == _COPIED:
        created, source_version = value
        version = tables.version(row.log_index)
        value = _fields_of(CopiedFile(created=created, version=version, source_version=source_version))
    elif form != _RESULT:
        raise InternalError("A stored result has an unknown form.")
    return ProposalResult(log_index=row.log_index, term=row.term, result=value)


def fingerprint_of(row: RequestRow) -> str | None:
    """What the stored result answered."""
    _, _, *rest = msgpack.unpackb(row.outcome)
    fingerprint: str | None = rest[0] if rest else None
    return fingerprint


def is_of_attempt(row: RequestRow, proposal: Proposal) -> bool:
    """Whether the stored result is that of this very attempt, which was proposed again because its outcome was unknown.

    An id without a fingerprint is the proposer's own: whatever comes under it again is the same attempt.
    """
    if proposal.attempt_id is None:
        return proposal.fingerprint is None
    _, _, *rest = msgpack.unpackb(row.outcome)
    return len(rest) > 1 and bool(rest[1] == proposal.attempt_id)


def reused(index: int, term: int) -> ProposalResult:
    """The answer to another proposal under a remembered id. It is not remembered itself: the first one's result stays."""
    error = IdempotencyKeyReusedError("This Idempotency-Key was used for a different request; use a new one.")
    return ProposalResult(log_index=index, term=term, problem=error.to_problem())
