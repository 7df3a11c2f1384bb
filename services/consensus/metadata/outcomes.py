"""How the result of a proposal is remembered, so that a repeated request id gets the same answer.

A published version is not stored a second time: the outcome only says that it was published, and the version is found
under the same log index. Whoever deletes rows of `versions` must therefore spare those of a remembered request.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from services.consensus.metadata.commands import Published, Result
from services.consensus.metadata.rows import RequestRow
from services.consensus.metadata.tables import Tables
from shared.contracts.metadata import ProposalResult
from shared.errors import InternalError, TrivetError

_RESULT: Final = 0
_PROBLEM: Final = 1
_PUBLISHED: Final = 2


def encode_outcome(outcome: Result | TrivetError) -> bytes:
    """The stored form: what it is, then the value."""
    value: tuple[int, Any]
    if isinstance(outcome, TrivetError):
        value = (_PROBLEM, outcome.to_problem())
    elif isinstance(outcome, Published):
        value = (_PUBLISHED, outcome.created)
    else:
        value = (_RESULT, outcome)
    packed: bytes = msgpack.packb(value)
    return packed


def first_result(index: int, term: int, outcome: Result | TrivetError) -> ProposalResult:
    """The answer to a proposal that was just applied."""
    if isinstance(outcome, TrivetError):
        return ProposalResult(log_index=index, term=term, problem=outcome.to_problem())
    result = outcome.to_result() if isinstance(outcome, Published) else outcome
    return ProposalResult(log_index=index, term=term, result=result)


def repeated_result(row: RequestRow, tables: Tables) -> ProposalResult:
    """The answer to a proposal that was applied before: equal to `first_result` of that time."""
    form, value = msgpack.unpackb(row.outcome)
    if form == _PROBLEM:
        return ProposalResult(log_index=row.log_index, term=row.term, problem=value)
    if form == _PUBLISHED:
        value = Published(value, tables.version(row.log_index)).to_result()
    elif form != _RESULT:
        raise InternalError("A stored result has an unknown form.")
    return ProposalResult(log_index=row.log_index, term=row.term, result=value)
