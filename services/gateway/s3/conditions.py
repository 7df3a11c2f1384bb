"""Conditional requests as S3 clients make them: entity tags come with quotes or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_headers import s3_etag_of
from services.gateway.semantics.conditions import UNCONDITIONAL, ConditionTarget, ReadConditions
from services.gateway.semantics.http_dates import unix_seconds
from shared.contracts.files import FileVersion, Preconditions

COPY_SOURCE: Final = "x-amz-copy-source-"
"""Before the names of the conditions that the source of a copy has to meet."""

_ANY: Final = "*"
_WEAK: Final = "W/"
_MAX_TAGS: Final = 64


def write_conditions(headers: Mapping[str, str]) -> Preconditions:
    """What If-Match and If-None-Match ask of a change. Raises S3Error, InvalidArgument."""
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    if if_match is None and if_none_match is None:
        return UNCONDITIONAL
    return Preconditions(
        if_match=None if if_match is None else _tags("If-Match", if_match, keep_weak=False),
        if_none_match=None if if_none_match is None else _tags("If-None-Match", if_none_match, keep_weak=True),
    )


def read_conditions(headers: Mapping[str, str], prefix: str = "") -> ReadConditions:
    """What the four conditions of a read ask for (RFC 9110 section 13.2.2); `prefix`: before their names.

    A date that is none is ignored. Raises S3Error, InvalidArgument.
    """
    if_match, if_none_match = headers.get(f"{prefix}if-match"), headers.get(f"{prefix}if-none-match")
    unmodified_since = headers.get(f"{prefix}if-unmodified-since") if if_match is None else None
    modified_since = headers.get(f"{prefix}if-modified-since") if if_none_match is None else None
    if if_match is None and if_none_match is None and unmodified_since is None:
        return ReadConditions(UNCONDITIONAL, unix_seconds(modified_since))
    preconditions = Preconditions(
        if_match=None if if_match is None else _tags("If-Match", if_match, keep_weak=False),
        if_none_match=None if if_none_match is None else _tags("If-None-Match", if_none_match, keep_weak=True),
        unmodified_since_s=unix_seconds(unmodified_since),
    )
    return ReadConditions(preconditions, unix_seconds(modified_since))


def as_shown(version: FileVersion) -> ConditionTarget:
    """What conditions of a read are held against."""
    return ConditionTarget(version.version, s3_etag_of(version), version.stored_ns)


def plain_etag(text: str) -> str:
    """An entity tag without its quotes."""
    return text.strip().removeprefix('"').removesuffix('"')


def _tags(name: str, value: str, *, keep_weak: bool) -> list[str]:
    elements = [element for each in value.split(",") if (element := each.strip())]
    tags = [plain_etag(each.removeprefix(_WEAK)) for each in elements if keep_weak or not each.startswith(_WEAK)]
    if not elements or len(elements) > _MAX_TAGS or not all(tags):
        raise S3Error(
            "InvalidArgument",
            f"{name} is '*' or at most {_MAX_TAGS} entity tags.",
            ArgumentName=name,
            ArgumentValue=value[:256],
        )
    # In quotes too: no version has such a tag, and a client that writes it means any.
    return [_ANY] if _ANY in tags else tags
