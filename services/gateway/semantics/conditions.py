"""Conditional requests, as pure decisions over header values (RFC 9110 sections 8.8.3 and 13).

Conditions of a write are decided again in the log, at the instant of the change; here they only refuse early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from services.gateway.semantics.http_dates import EXAMPLE_DATE, unix_seconds, whole_s
from services.gateway.semantics.parameters import EXAMPLE_ETAG, Header
from shared.contracts.conditions import precondition_failed, unmet_condition
from shared.contracts.files import FileVersion, Preconditions
from shared.errors import InvalidRequestError

_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')

IF_MATCH: Final = Header(
    "If-Match", "Only if the current entity tag is one of these, or `*`: if there is a file.", EXAMPLE_ETAG
)
IF_NONE_MATCH: Final = Header(
    "If-None-Match", "Only if the current entity tag is none of these; `*`: only if there is no file.", EXAMPLE_ETAG
)
IF_MODIFIED_SINCE: Final = Header(
    "If-Modified-Since", "Only if it was published later. Ignored beside If-None-Match.", EXAMPLE_DATE
)
IF_UNMODIFIED_SINCE: Final = Header(
    "If-Unmodified-Since", "Only if it was not published later. Ignored beside If-Match.", EXAMPLE_DATE
)
WRITE_CONDITIONS: Final = (IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE)
"""What `write_preconditions` reads."""

READ_CONDITIONS: Final = (IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE)
"""What `ReadConditions.of` reads."""

_WRITE_FIELDS: Final = frozenset(condition.field for condition in WRITE_CONDITIONS)
_SEPARATORS: Final = " \t,"
_MAX_TAGS: Final = 64
_ANY: Final = "*"
UNCONDITIONAL: Final = Preconditions()
"""What most requests ask for."""


class ConditionTarget(NamedTuple):
    """A version that conditions are held against; see `shared.contracts.conditions.Present`. Of a read: as its door shows it."""

    version: int
    etag: str
    modified_ns: int
    s3_etag: str | None = None
    size_bytes: int = 0
    stored_ns: int | None = None

    @classmethod
    def of(cls, file: FileVersion | None) -> Self | None:
        """As the log has it."""
        if file is None:
            return None
        s3_etag = None if file.s3 is None else file.s3.etag
        return cls(file.version, file.etag, file.modified_ns, s3_etag, file.content.size_bytes, file.stored_ns)


@dataclass(frozen=True, slots=True)
class ReadConditions:
    """What a GET or HEAD asks for."""

    preconditions: Preconditions
    modified_since_s: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """From the headers. If-None-Match shadows If-Modified-Since.

        Raises:
            InvalidRequestError: a list of entity tags is malformed; definite.
        """
        since = None if "if-none-match" in headers else headers.get("if-modified-since")
        return cls(write_preconditions(headers), unix_seconds(since))

    @property
    def is_unconditional(self) -> bool:
        """The answer is the file, whatever version is current."""
        return self.preconditions == UNCONDITIONAL and self.modified_since_s is None

    def is_not_modified(self, found: ConditionTarget) -> bool:
        """Whether the answer is 304 (RFC 9110 section 13.2.2).

        Raises:
            PreconditionFailedError: If-Match or If-Unmodified-Since does not hold.
        """
        # Of most requests nothing is asked.
        is_asked = self.preconditions is not UNCONDITIONAL
        unmet = unmet_condition(self.preconditions, found, knows_s3=False) if is_asked else None
        if unmet is None:
            return self.modified_since_s is not None and whole_s(found.modified_ns) <= self.modified_since_s
        if unmet == IF_NONE_MATCH.name:
            return True
        raise precondition_failed(unmet, found)


def write_preconditions(headers: Mapping[str, str]) -> Preconditions:
    """What the headers ask of a change.

    If-Match compares strongly, so weak tags can never match; beside it If-Unmodified-Since is ignored.

    Raises:
        InvalidRequestError: a list of entity tags is malformed; definite.
    """
    if headers.keys().isdisjoint(_WRITE_FIELDS):
        return UNCONDITIONAL
    unmodified_since = None if "if-match" in headers else headers.get("if-unmodified-since")
    return Preconditions(
        if_match=_tags("If-Match", headers.get("if-match"), keep_weak=False),
        if_none_match=_tags("If-None-Match", headers.get("if-none-match"), keep_weak=True),
        unmodified_since_s=unix_seconds(unmodified_since),
    )


def _tags(name: str, value: str | None, *, keep_weak: bool) -> list[str] | None:
    if value is None:
        return None
    if value.strip() == _ANY:
        return [_ANY]
    tags: list[str] = []
    count = at = 0
    # A scanner and not one pattern for the whole list: nested repetitions would backtrack exponentially.
    while rest := value[at:].lstrip(_SEPARATORS):
        at = len(value) - len(rest)
        match = _ENTITY_TAG.match(value, at)
        count += 1
        if match is None or count > _MAX_TAGS or (value[match.end() :] and value[match.end()] not in _SEPARATORS):
            raise InvalidRequestError(f"{name} is '*' or at most {_MAX_TAGS} quoted entity tags.", header=name)
        at = match.end()
        # The tag "*", in quotes, is one that we never give out; without them it would mean any.
        if (keep_weak or not match[1]) and match[2] != _ANY:
            tags.append(match[2])
    if count == 0:
        raise InvalidRequestError(f"{name} is empty.", header=name)
    return tags
