"""What headers say: those of requests from arguments, and what those of answers tell about a file. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from trivet.errors import answer_invalid
from trivet.models import FileInfo

META_PREFIX: Final = "x-trivet-meta-"
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def quoted(etag: str) -> str:
    """An entity tag as a header has it; `*`, and what has its quotes, stay as they are."""
    return etag if etag == "*" or etag.startswith(('"', "W/")) else f'"{etag}"'


def change_headers(
    *,
    if_match: str | None = None,
    if_none_match: str | None = None,
    idempotency_key: str | None = None,
) -> dict[str, str]:
    """Conditions and the key of a change."""
    headers = {}
    if if_match is not None:
        headers["If-Match"] = quoted(if_match)
    if if_none_match is not None:
        headers["If-None-Match"] = quoted(if_none_match)
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return headers


def description_headers(
    content_type: str | None, user_metadata: Mapping[str, str] | None, write_quorum: int | None
) -> dict[str, str]:
    """What is kept with a file, and how many replicas it is to have before the answer.

    Raises:
        ValueError: metadata is not printable ASCII; encode it, for example by percent-encoding.
    """
    headers = {}
    if content_type is not None:
        headers["Content-Type"] = content_type
    if write_quorum is not None:
        headers["X-Trivet-Write-Quorum"] = str(write_quorum)
    for name, value in (user_metadata or {}).items():
        if not (name.isascii() and value.isascii() and name.isprintable() and value.isprintable()):
            raise ValueError(f"user metadata is printable ASCII, and {name!r} is not; encode it first")
        headers[META_PREFIX + name] = value
    return headers


def range_header(start: int, end: int | None) -> str | None:
    """The value of Range for the bytes from `start` up to `end`, or for the last `-start`; None for the whole file.

    Raises:
        ValueError: there is no such range.
    """
    if start < 0:
        if end is not None:
            raise ValueError("a negative start is for the last bytes, and takes no end")
        return f"bytes={start}"
    if end is None:
        return None if start == 0 else f"bytes={start}-"
    if end <= start:
        raise ValueError("the end of a range lies behind its start")
    return f"bytes={start}-{end - 1}"


def asked_span(wanted: str | None, size_bytes: int) -> tuple[int, int]:
    """Start and end of what a Range of `range_header` names in a file of so many bytes; of all of it without one."""
    if wanted is None:
        return 0, size_bytes
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    return int(first), min(int(last) + 1, size_bytes) if last else size_bytes


def content_range(value: str | None) -> tuple[int, int, int] | None:
    """Start, end (behind the last byte) and size of the whole file; None where the header says something else."""
    found = _CONTENT_RANGE.fullmatch(value or "")
    return None if found is None else (int(found[1]), int(found[2]) + 1, int(found[3]))


def file_info(bucket: str, key: str, headers: Mapping[str, str]) -> FileInfo:
    """What an answer to GET or HEAD says about the file. `headers` find a name in any case.

    Raises:
        ProblemError: no store says that.
    """
    try:
        return _file_info(bucket, key, headers)
    except (ValueError, TypeError, OverflowError) as error:
        raise answer_invalid(str(error)) from error


def _file_info(bucket: str, key: str, headers: Mapping[str, str]) -> FileInfo:
    whole = content_range(headers.get("content-range"))
    log_index = int(headers.get("x-trivet-version", 0))
    return FileInfo(
        bucket=bucket,
        key=key,
        size_bytes=int(headers.get("content-length", 0)) if whole is None else whole[2],
        etag=headers.get("etag", "").strip('"'),
        digest=headers.get("x-trivet-digest"),
        content_id=headers.get("x-trivet-content-id"),
        version=int(headers.get("x-trivet-version-id", log_index)),
        log_index=log_index,
        modified=_moment(headers.get("x-trivet-modified"), headers.get("last-modified")),
        content_type=headers.get("content-type", "application/octet-stream"),
        user_metadata={
            name.lower().removeprefix(META_PREFIX): value
            for name, value in headers.items()
            if name.lower().startswith(META_PREFIX)
        },
        replicas_confirmed=_number(headers.get("x-trivet-replicas-confirmed")),
        confirmation_age_s=_number(headers.get("x-trivet-confirmation-age")),
    )


def _moment(exact: str | None, modified: str | None) -> datetime | None:
    # A store of an older version has only the date of HTTP, which may be left out.
    if exact is not None:
        return _aware(datetime.fromisoformat(exact))
    return None if modified is None else _aware(parsedate_to_datetime(modified))


def _aware(moment: datetime) -> datetime:
    # A date of HTTP may end in "-0000", which Python takes for no zone.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that Retry-After asks for, as a number or as a date; None where it says neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = _aware(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdecimal() else None
