"""Conditional requests, as pure decisions over header values (RFC 9110 sections 8.8.3 and 13).

Conditions of a write are decided again in the log, at the instant of the change; here they only refuse early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final

from shared.contracts.metadata import Preconditions
from shared.errors import InvalidRequestError, PreconditionFailedError
from shared.units import NANOSECONDS_PER_SECOND

_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_SEPARATORS: Final = " \t,"
_MAX_TAGS: Final = 64


def write_preconditions(headers: Mapping[str, str]) -> Preconditions:
    """What If-Match and If-None-Match ask of a change. If-Match compares strongly, so weak tags can never match.

    Raises:
        InvalidRequestError: a header is malformed; definite.
    """
    return Preconditions(
        if_match=_tags("If-Match", headers.get("if-match"), keep_weak=False),
        if_none_match=_tags("If-None-Match", headers.get("if-none-match"), keep_weak=True),
    )


def check_write(preconditions: Preconditions, etag: str | None) -> None:
    """Refuse early what the log would refuse; `etag` is None when there is no file.

    Raises:
        PreconditionFailedError: a condition does not hold; definite.
    """
    if preconditions.if_match is not None and not _matches(preconditions.if_match, etag):
        raise PreconditionFailedError("If-Match does not hold.", current_etag=etag)
    if preconditions.if_none_match is not None and _matches(preconditions.if_none_match, etag):
        raise PreconditionFailedError("If-None-Match does not hold.", current_etag=etag)


def is_not_modified(headers: Mapping[str, str], etag: str, modified_ns: int) -> bool:
    """Whether a GET or HEAD is answered with 304 (RFC 9110 section 13.2.2).

    Raises:
        PreconditionFailedError: If-Match or If-Unmodified-Since does not hold.
        InvalidRequestError: a list of entity tags is malformed.
    """
    conditions = write_preconditions(headers)
    if conditions.if_match is not None:
        if not _matches(conditions.if_match, etag):
            raise PreconditionFailedError("If-Match does not hold.", current_etag=etag)
    elif (limit_s := _seconds(headers.get("if-unmodified-since"))) is not None and _whole_s(modified_ns) > limit_s:
        raise PreconditionFailedError("The file was modified since then.", current_etag=etag)
    if conditions.if_none_match is not None:
        return _matches(conditions.if_none_match, etag)
    since_s = _seconds(headers.get("if-modified-since"))
    return since_s is not None and _whole_s(modified_ns) <= since_s


def http_date(unix_ns: int) -> str:
    """`unix_ns` as an HTTP date, whole seconds, rounded down."""
    return format_datetime(datetime.fromtimestamp(_whole_s(unix_ns), UTC), usegmt=True)


def _whole_s(unix_ns: int) -> int:
    return unix_ns // NANOSECONDS_PER_SECOND


def _matches(tags: Sequence[str], etag: str | None) -> bool:
    return etag is not None and ("*" in tags or etag in tags)


def _tags(name: str, value: str | None, *, keep_weak: bool) -> list[str] | None:
    if value is None:
        return None
    if value.strip() == "*":
        return ["*"]
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
        if keep_weak or not match[1]:
            tags.append(match[2])
    if count == 0:
        raise InvalidRequestError(f"{name} is empty.", header=name)
    return tags


def _seconds(value: str | None) -> int | None:
    """A date header in Unix seconds; an invalid one is ignored, as RFC 9110 demands."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
