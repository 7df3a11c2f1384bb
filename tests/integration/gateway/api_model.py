"""What the public API promises, as a dictionary with rules: the model that a real cluster is held against.

It is written from docs/api.md and RFC 9110 and shares no code with the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

Tags = tuple[tuple[str, str], ...]

EARLIER, LATER = "Sat, 01 Jan 2000 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT"


@dataclass(frozen=True)
class Stored:
    """The bytes of a file and what is said of them. `identity` is all that a reader can see, and decides the entity tag.

    `content_id` names content that was joined from parts, which no digest of its bytes does; otherwise None.
    """

    body: bytes
    content_type: str
    metadata: tuple[tuple[str, str], ...]
    etag: str
    content_id: str | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        return self.body, self.content_type, self.metadata, self.content_id


@dataclass(frozen=True)
class Version:
    """One version of a key; without `file` it is a delete marker.

    `number` is what clients ask for it by, `index` that of the entry which made it the current one last.
    """

    number: int
    index: int
    file: Stored | None
    is_null: bool
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Condition:
    """Headers of a request, `{etag}` standing for the current tag, and what they mean.

    `write` says for a present or absent file whether a change may happen; `read` is the status of a GET of a present one.
    """

    headers: dict[str, str]
    write: Callable[[bool], bool]
    read: int

    def render(self, file: Stored | None) -> dict[str, str]:
        etag = "absent" if file is None else file.etag
        return {name: value.replace("{etag}", etag) for name, value in self.headers.items()}


CONDITIONS = {
    "none": Condition({}, lambda _: True, 200),
    "match": Condition({"if-match": '"{etag}"'}, lambda present: present, 200),
    "match in a list": Condition({"if-match": '"x" ,, "{etag}"'}, lambda present: present, 200),
    "match another": Condition({"if-match": '"x"'}, lambda _: False, 412),
    "match weakly": Condition({"if-match": 'W/"{etag}"'}, lambda _: False, 412),
    "match any": Condition({"if-match": "*"}, lambda present: present, 200),
    "match a star in quotes": Condition({"if-match": '"*"'}, lambda _: False, 412),
    "none match": Condition({"if-none-match": 'W/"{etag}"'}, lambda present: not present, 304),
    "none matches another": Condition({"if-none-match": '"x"'}, lambda _: True, 200),
    "none at all": Condition({"if-none-match": "*"}, lambda present: not present, 304),
    "unmodified for long": Condition({"if-unmodified-since": EARLIER}, lambda present: not present, 412),
    "unmodified by then": Condition({"if-unmodified-since": LATER}, lambda _: True, 200),
    "a date that is none": Condition({"if-unmodified-since": "2000-01-01"}, lambda _: True, 200),
    "tag before date": Condition(
        {"if-match": '"{etag}"', "if-unmodified-since": EARLIER}, lambda present: present, 200
    ),
    "modified since": Condition({"if-modified-since": EARLIER}, lambda _: True, 200),
    "not modified since": Condition({"if-modified-since": LATER}, lambda _: True, 304),
    "another tag before date": Condition({"if-none-match": '"x"', "if-modified-since": LATER}, lambda _: True, 200),
}

SAME_FOR_A_WRITE = {
    "a date that is none": "none",
    "modified since": "none",
    "not modified since": "none",
    "another tag before date": "none matches another",
    "tag before date": "match",
    "match a star in quotes": "match weakly",
}
"""Conditions that ask a change for the same as others, because RFC 9110 has the difference ignored or never match."""

RANGES: dict[str, Callable[[int], tuple[int, int] | None]] = {
    "bytes=0-0": lambda size: (0, 1) if size else None,
    "bytes=2-": lambda size: (2, size) if size > 2 else None,
    "bytes=-3": lambda size: (max(0, size - 3), size) if size else None,
    "bytes=1-4": lambda size: (1, min(5, size)) if size > 1 else None,
    "bytes=1048570-1048580": lambda size: (1048570, min(1048581, size)) if size > 1048570 else None,
    "bytes=999999999999999999999-": lambda _size: None,
}
"""A Range header, and which bytes of a file of that size it asks for; None when none of them exists."""


@dataclass(frozen=True)
class Row:
    """One thing that a list shows; a prefix has neither version nor tag."""

    name: str
    version: int | None
    etag: str | None


@dataclass(frozen=True)
class VersionRow:
    """One row of a list of versions."""

    key: str
    number: int
    index: int
    is_current: bool
    is_marker: bool
    is_null: bool


@dataclass(frozen=True)
class Settings:
    """Of a bucket."""

    versioning: str = "off"
    retention_s: int | None = None


@dataclass
class Model:
    """Buckets, and the versions of their keys, the current one first.

    Invariant: `changed` names every key that ever existed, also in buckets that are gone.
    """

    buckets: dict[str, Settings] = field(default_factory=dict)
    versions: dict[tuple[str, str], list[Version]] = field(default_factory=dict)
    changed: dict[tuple[str, str], int] = field(default_factory=dict)
    etags: dict[object, str] = field(default_factory=dict)
    highest: int = 0

    def version_of(self, bucket: str, key: str) -> int:
        """What X-Trivet-Version shows."""
        return self.changed.get((bucket, key), 0)

    def history(self, bucket: str, key: str) -> list[Version]:
        return self.versions.get((bucket, key), [])

    def current(self, bucket: str, key: str) -> Version | None:
        """The current version, be it a marker."""
        return next(iter(self.history(bucket, key)), None)

    def file(self, bucket: str, key: str) -> Stored | None:
        """What a reader finds."""
        current = self.current(bucket, key)
        return None if current is None else current.file

    def find(self, bucket: str, key: str, number: int) -> Version | None:
        """The version that `number` names, as clients know it or by the entry that made it current last."""
        return next((each for each in self.history(bucket, key) if number in {each.number, each.index}), None)

    def put(self, bucket: str, key: str, index: int, file: Stored, tags: Tags = ()) -> None:
        known = self.etags.setdefault(file.identity, file.etag)
        assert known == file.etag, "the tag of the same content changed"
        assert len(set(self.etags.values())) == len(self.etags), "two contents have one tag"
        self._pass(index)
        self._add(bucket, key, Version(index, index, file, not self.keeps_versions(bucket), tags))

    def delete(self, bucket: str, key: str, index: int) -> None:
        """What a DELETE without a version does, and a rename to its source."""
        self._pass(index)
        self.delete_at(bucket, key, index)

    def delete_at(self, bucket: str, key: str, index: int) -> None:
        """`delete`, where the entry has done something else before."""
        if self.buckets[bucket].versioning == "off":
            self.versions.pop((bucket, key), None)
            self.changed[bucket, key] = index
        else:
            self._add(bucket, key, Version(index, index, None, not self.keeps_versions(bucket)))

    def remove(self, bucket: str, key: str, gone: list[Version], index: int) -> None:
        """What the deletion of versions does; `index` is that of the entry."""
        history = self.history(bucket, key)
        left = [version for version in history if version not in gone]
        if left[:1] != history[:1]:
            self.changed[bucket, key] = index
            if left and left[0].file is not None:
                left[0] = replace(left[0], index=index)
        self.versions[bucket, key] = left

    def tag(self, bucket: str, key: str, version: Version, tags: Tags) -> None:
        history = self.history(bucket, key)
        history[history.index(version)] = replace(version, tags=tags)

    def keeps_versions(self, bucket: str) -> bool:
        return self.buckets[bucket].versioning == "enabled"

    def is_empty(self, bucket: str) -> bool:
        return not any(history for (name, _), history in self.versions.items() if name == bucket)

    def set(self, bucket: str, settings: Settings) -> None:
        self.buckets[bucket] = settings

    def _pass(self, index: int) -> None:
        assert index > self.highest, "a change is not later than the one before"
        self.highest = index

    def _add(self, bucket: str, key: str, version: Version) -> None:
        self.changed[bucket, key] = version.index
        settings = self.buckets[bucket]
        older = self.history(bucket, key)
        if version.is_null:
            older = [each for each in older if not each.is_null]
        if settings.versioning == "off" or settings.retention_s == 0:
            older = []
        self.versions[bucket, key] = [version, *older]

    def rows(self, bucket: str, prefix: str, delimiter: str | None) -> list[Row]:
        """What a list of files shows, in the order in which its pages do."""
        found = [
            (key, Row(key, history[0].index, history[0].file.etag))
            for (name, key), history in self.versions.items()
            if name == bucket and history and history[0].file is not None
        ]
        return [row for _, row in grouped(found, prefix, delimiter, lambda name: Row(name, None, None))]

    def version_rows(self, bucket: str, prefix: str, delimiter: str | None, only: str | None) -> list[VersionRow | str]:
        """What a list of versions shows; a prefix is its text."""
        found: list[tuple[str, VersionRow | str]] = [
            (key, VersionRow(key, each.number, each.index, at == 0, each.file is None, each.is_null))
            for (name, key), history in self.versions.items()
            if name == bucket and only in {None, key}
            for at, each in enumerate(history)
        ]
        return [row for _, row in grouped(found, prefix, delimiter, lambda name: name)]


RowT = TypeVar("RowT")


def grouped(
    found: list[tuple[str, RowT]], prefix: str, delimiter: str | None, group: Callable[[str], RowT]
) -> list[tuple[str, RowT]]:
    """The rows below `prefix` by key, those of one key in their order, those that share a common prefix as one."""
    shown: dict[str, RowT] = {}
    rows: list[tuple[str, RowT]] = []
    for key, row in sorted(found, key=lambda each: each[0].encode()):
        if not key.startswith(prefix):
            continue
        head, is_grouped, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        if not is_grouped:
            rows.append((key, row))
        elif (name := prefix + head + is_grouped) not in shown:
            shown[name] = group(name)
            rows.append((name, shown[name]))
    return rows
