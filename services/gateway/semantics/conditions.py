"""Conditional requests, as pure decisions over header values (RFC 9110 sections 8.8.3 and 13).

Conditions of a write are decided again in the log, at the instant of the change; here they only refuse early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from services.gateway.semantics.http_dates import EXAMPLE_DATE, unix_seconds, whole_s
from services.gateway.semantics.parameters import EXAMPLE_ETAG, Header
from shared.contracts.files import Preconditions
from shared.contracts.metadata import FileAnswer
from shared.contracts.s3 import shown_etag
from shared.errors import InvalidRequestError, PreconditionFailedError

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


@dataclass(frozen=True, slots=True)
class Present:
    """What conditions are held against. Without a file there is no `etag`, and `version` is the index of its deletion.

    `s3_etag`: the one that S3 shows of it, which a condition of a change may name as well.
    """

    etag: str | None
    version: int
    modified_ns: int
    s3_etag: str | None = None

    @classmethod
    def of(cls, answer: FileAnswer) -> Self:
        """What the log says about a key."""
        if answer.file is None:
            return cls(None, answer.version, 0)
        file = answer.file
        s3_etag = shown_etag(file.etag, None if file.s3 is None else file.s3.etag)
        return cls(file.etag, file.version, file.modified_ns, s3_etag)


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

    def is_not_modified(self, present: Present) -> bool:
        """Whether the answer is 304 (RFC 9110 section 13.2.2).

        Raises:
            PreconditionFailedError: If-Match or If-Unmodified-Since does not hold.
        """
        preconditions = self.preconditions
        _check_before(preconditions, present)
        if preconditions.if_none_match is not None:
            return _matches(preconditions.if_none_match, present)
        return self.modified_since_s is not None and whole_s(present.modified_ns) <= self.modified_since_s


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


def check_write(preconditions: Preconditions, present: Present) -> None:
    """Refuse early what the log would refuse.

    Raises:
        PreconditionFailedError: a condition does not hold; definite. With the facts that the log gives.
    """
    _check_before(preconditions, present)
    if preconditions.if_none_match is not None and _matches(preconditions.if_none_match, present):
        raise _failed("If-None-Match", present)


def _check_before(preconditions: Preconditions, present: Present) -> None:
    """Steps 1 and 2 of section 13.2.2."""
    if preconditions.if_match is not None and not _matches(preconditions.if_match, present):
        raise _failed("If-Match", present)
    limit_s = preconditions.unmodified_since_s
    if limit_s is not None and present.etag is not None and whole_s(present.modified_ns) > limit_s:
        raise _failed("If-Unmodified-Since", present)


def _failed(name: str, present: Present) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"{name} did not hold.", precondition=name, version=present.version, etag=present.etag
    )


def _matches(tags: Sequence[str], present: Present) -> bool:
    return present.etag is not None and (_ANY in tags or present.etag in tags or present.s3_etag in tags)


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
