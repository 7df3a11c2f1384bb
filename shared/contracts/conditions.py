"""Conditional requests (RFC 9110 section 13): whether what is there meets them. One pure decision, of gateways and of `apply`."""

from __future__ import annotations

from typing import Final, Protocol

from shared.contracts.files import Preconditions
from shared.contracts.s3 import shown_etag
from shared.errors import PreconditionFailedError
from shared.units import NANOSECONDS_PER_SECOND

_ANY: Final = "*"


class Present(Protocol):
    """What conditions are held against. `stored_ns` None: as `modified_ns`; `s3_etag`: see `shown_etag`."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def etag(self) -> str:
        """Without quotes."""

    @property
    def s3_etag(self) -> str | None:
        """See above."""

    @property
    def size_bytes(self) -> int:
        """Of its content."""

    @property
    def modified_ns(self) -> int:
        """Last-Modified of `/v1`."""

    @property
    def stored_ns(self) -> int | None:
        """Last-Modified of S3."""


def unmet_condition(preconditions: Preconditions, present: Present | None, *, knows_s3: bool = True) -> str | None:
    """The first condition that does not hold, in the order of section 13.2.2; None when all do.

    `knows_s3`: the etag that S3 shows counts beside the native one. In the log: every member knows it by now.
    """
    if_match, if_none_match = preconditions.if_match, preconditions.if_none_match
    limit_s, size_bytes, stored_s = preconditions.unmodified_since_s, preconditions.size_bytes, preconditions.stored_s
    if if_match is not None and not _matches(if_match, present, knows_s3=knows_s3):
        return "If-Match"
    if limit_s is not None and present is not None and _whole_s(present.modified_ns) > limit_s:
        return "If-Unmodified-Since"
    if if_none_match is not None and _matches(if_none_match, present, knows_s3=knows_s3):
        return "If-None-Match"
    if size_bytes is not None and (present is None or present.size_bytes != size_bytes):
        return "x-amz-if-match-size"
    if stored_s is not None and (present is None or _stored_s(present) != stored_s):
        return "x-amz-if-match-last-modified-time"
    return None


def check_preconditions(
    preconditions: Preconditions, present: Present | None, deleted_index: int, *, knows_s3: bool = True
) -> None:
    """Return when all conditions hold. `deleted_index`: the log index that last changed a key that is absent.

    Raises:
        PreconditionFailedError: with the facts `version`, the index that last changed the key, and the present `etag`.
    """
    unmet = unmet_condition(preconditions, present, knows_s3=knows_s3)
    if unmet is not None:
        raise precondition_failed(unmet, present, deleted_index)


def precondition_failed(unmet: str, present: Present | None, deleted_index: int = 0) -> PreconditionFailedError:
    """The error that names a condition."""
    version, etag = (deleted_index, None) if present is None else (present.version, present.etag)
    return PreconditionFailedError(f"{unmet} did not hold.", precondition=unmet, version=version, etag=etag)


def _matches(etags: list[str], present: Present | None, *, knows_s3: bool) -> bool:
    if present is None:
        return False
    return _ANY in etags or present.etag in etags or (knows_s3 and shown_etag(present.etag, present.s3_etag) in etags)


def _stored_s(present: Present) -> int:
    return _whole_s(present.modified_ns if present.stored_ns is None else present.stored_ns)


def _whole_s(unix_ns: int) -> int:
    return unix_ns // NANOSECONDS_PER_SECOND
