"""What a store has under one key, oldest first, and whether two such histories are the same as far as a list can tell. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MD5: Final = re.compile(r"[0-9a-f]{32}")
_OF_PARTS: Final = re.compile(r"[0-9a-f]{32}-([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Version:
    """A version, or a delete marker, as a list of versions has it.

    Attributes:
        id: None in a bucket that never kept versions.
        etag: without quotes; empty for a marker.
    """

    id: str | None
    is_marker: bool
    size: int
    etag: str

    @property
    def part_count(self) -> int | None:
        """How many parts it was made of; None where the ETag is not that of parts."""
        found = _OF_PARTS.fullmatch(self.etag)
        return None if found is None else int(found[1])

    @property
    def md5(self) -> str | None:
        """Of its bytes, where the ETag is of that form: it is not with some kinds of encryption."""
        return self.etag if _MD5.fullmatch(self.etag) else None


History = Sequence[Version]


def may_equal(source: Version, target: Version) -> bool:
    """Whether nothing in a list speaks against it. ETags of parts depend on where these end: they prove, but disprove nothing."""
    if is_proved(source, target):
        return True
    is_known = source.md5 is not None and target.md5 is not None
    return not source.is_marker and not target.is_marker and source.size == target.size and not is_known


def is_proved(source: Version, target: Version) -> bool:
    """Whether the list shows that they are equal: both are markers, or their ETags are the same."""
    if source.is_marker or target.is_marker:
        return source.is_marker and target.is_marker
    return (source.size, source.etag) == (target.size, target.etag)


def count_present(source: History, target: History) -> int | None:
    """How many versions of the source, from the oldest on, are at the target; None if something else is there."""
    if len(target) > len(source):
        return None
    return len(target) if all(map(may_equal, source, target)) else None


def what_differs(source: History, target: History) -> str:
    """In words, for people; empty if they may be equal."""
    if len(source) != len(target):
        return f"{len(source)} versions at the source, {len(target)} at the target"
    for number, (ours, theirs) in enumerate(zip(source, target, strict=True), 1):
        if not may_equal(ours, theirs):
            return f"version {number} is {_describe(ours)} at the source, {_describe(theirs)} at the target"
    return ""


def _describe(version: Version) -> str:
    return "a delete marker" if version.is_marker else f"{version.size} bytes with the ETag {version.etag}"
