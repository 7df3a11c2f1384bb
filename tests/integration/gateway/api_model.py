"""What the public API promises, as a dictionary with rules: the model that a real cluster is held against.

It is written from docs/api.md and RFC 9110 and shares no code with the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

EARLIER, LATER = "Sat, 01 Jan 2000 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT"


@dataclass(frozen=True)
class Stored:
    """A file. `identity` is all that a reader can see of it, and decides its entity tag."""

    body: bytes
    content_type: str
    metadata: tuple[tuple[str, str], ...]
    version: int
    etag: str

    @property
    def identity(self) -> tuple[bytes, str, tuple[tuple[str, str], ...]]:
        return self.body, self.content_type, self.metadata


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


@dataclass
class Model:
    """Invariant: `changed` names every key that ever existed, also in buckets that are gone."""

    buckets: set[str] = field(default_factory=set)
    files: dict[tuple[str, str], Stored] = field(default_factory=dict)
    changed: dict[tuple[str, str], int] = field(default_factory=dict)
    etags: dict[object, str] = field(default_factory=dict)
    highest: int = 0

    def version_of(self, bucket: str, key: str) -> int:
        return self.changed.get((bucket, key), 0)

    def put(self, bucket: str, key: str, file: Stored) -> None:
        self._move(bucket, key, file.version)
        known = self.etags.setdefault(file.identity, file.etag)
        assert known == file.etag, "the tag of the same content changed"
        assert len(set(self.etags.values())) == len(self.etags), "two contents have one tag"
        self.files[bucket, key] = file

    def delete(self, bucket: str, key: str, version: int) -> None:
        self._move(bucket, key, version)
        del self.files[bucket, key]

    def _move(self, bucket: str, key: str, version: int) -> None:
        assert version > self.highest, "a change is not later than the one before"
        self.highest = self.changed[bucket, key] = version

    def is_empty(self, bucket: str) -> bool:
        return not any(name == bucket for name, _ in self.files)

    def rows(self, bucket: str, prefix: str, delimiter: str | None) -> list[Row]:
        """What a list shows, in the order in which its pages do."""
        shown: list[Row] = []
        for name, key in sorted(self.files, key=lambda file: file[1].encode()):
            if name != bucket or not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                row = Row(prefix + head + found, None, None)
                if row not in shown:
                    shown.append(row)
            else:
                file = self.files[bucket, key]
                shown.append(Row(key, file.version, file.etag))
        return shown
