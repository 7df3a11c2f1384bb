"""What clients were told that there is: versions of files, delete markers and uploads by parts, as plain lists.

It changes with every command that the log accepted, by rules of its own: nothing here reads the product's tables. The oracle
takes from it which chunks somebody needs, and readers are held against it. That all of it equals what the log lists is checked
whenever everything is at rest.

Content is written down in halves of chunks, so that a range of a file may begin in the middle of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from shared.contracts.objects import BucketSettings, CopyFile, DeleteFiles
from shared.contracts.uploads import PART_BYTES_MIN, CompleteUpload, CopyPart

CHUNK_BYTES: Final = PART_BYTES_MIN
"""As large as a part must be, unless it is the last one."""

HALF_BYTES: Final = CHUNK_BYTES // 2

Half = tuple[str, int]
"""The first or the second half of a chunk."""

Content = tuple[Half, ...]
Name = tuple[str, str]
"""Bucket and key."""


def whole(digests: Iterable[str]) -> Content:
    """The content that consists of these chunks."""
    return tuple((digest, half) for digest in digests for half in (0, 1))


def chunks_of(content: Content) -> frozenset[str]:
    """The chunks in which it lies."""
    return frozenset(digest for digest, _ in content)


@dataclass(slots=True, eq=False)
class Version:
    """A version, or a marker, which has no content.

    Attributes:
        number: the log index that made it, or that made it current again.
        known_as: its version id.
        is_composed: it was made of parts.
        superseded_s: the age of the log's clock at which another one took its place.
    """

    name: Name
    number: int
    known_as: int
    content: Content = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    is_marker: bool = False
    is_null: bool = True
    is_composed: bool = False
    superseded_s: float | None = None


@dataclass(slots=True, eq=False)
class Part:
    """A part of an upload: as it was put last under its number."""

    etag: str
    content: Content


@dataclass(slots=True, eq=False)
class Upload:
    """An upload. `completed`: the number of the version that it became."""

    name: Name
    index: int
    nonce: str
    is_internal: bool
    expires_s: float
    parts: dict[int, Part] = field(default_factory=dict)
    is_open: bool = True
    completed: int | None = None


@dataclass(slots=True)
class Bucket:
    """By key its versions, the latest first; the first one decides whether the key exists."""

    settings: BucketSettings = field(default_factory=BucketSettings)
    keys: dict[str, list[Version]] = field(default_factory=dict)


Ended = tuple[frozenset[str], str]
"""The chunks of something that is not there any more, and what it was."""


@dataclass(slots=True)
class Objects:
    """All buckets and uploads. What a change puts an end to is added to `ended`; whoever reads that empties it."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    uploads: dict[int, Upload] = field(default_factory=dict)
    lived_s: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    # --- questions ------------------------------------------------------------------------------------------------

    def versions_of(self, name: Name) -> list[Version]:
        """Those of a key, the latest first."""
        bucket = self.buckets.get(name[0])
        return [] if bucket is None else bucket.keys.get(name[1], [])

    def find(self, name: Name, number: int | None = None) -> Version | None:
        """The version that has the number or is known by it, a marker included; the current one, unless that is a marker."""
        versions = self.versions_of(name)
        if number is None:
            return versions[0] if versions and not versions[0].is_marker else None
        return next((each for each in versions if number in {each.number, each.known_as}), None)

    def all_versions(self) -> Iterator[Version]:
        """Of all buckets, by bucket and key, the latest of a key first."""
        for _, bucket in sorted(self.buckets.items()):
            for _, versions in sorted(bucket.keys.items()):
                yield from versions

    def open_uploads(self) -> Iterator[Upload]:
        """Those that are under way."""
        return (upload for upload in self.uploads.values() if upload.is_open)

    def present(self) -> set[Name]:
        """Where there is a file."""
        return {
            version.name for version in self.all_versions() if version.superseded_s is None and not version.is_marker
        }

    def referenced(self) -> set[str]:
        """The chunks of whatever exists."""
        found = {digest for version in self.all_versions() for digest, _ in version.content}
        for upload in self.open_uploads():
            found.update(digest for part in upload.parts.values() for digest, _ in part.content)
        return found

    # --- versions -------------------------------------------------------------------------------------------------

    def write(
        self, name: Name, number: int, content: Content, tags: Mapping[str, str], *, is_composed: bool = False
    ) -> None:
        """A new version is current."""
        self._put(Version(name, number, number, content, dict(tags), is_composed=is_composed))

    def copy(self, command: CopyFile, number: int) -> None:
        """A version is current under another key, or under its own again; a moved one is gone from where it was."""
        source = (command.source_bucket, command.source_key)
        found = self._existing(source, command.source_version)
        tags = found.tags if command.tags is None else command.tags
        self.write((command.bucket, command.key), number, found.content, tags, is_composed=found.is_composed)
        if command.is_move:
            self.delete(source, number)

    def delete(self, name: Name, number: int) -> None:
        """The key is absent; in a bucket that keeps versions a marker says so."""
        if self.buckets[name[0]].settings.versioning == "off":
            self._replace(name, [])
        else:
            self.counts["markers"] += 1
            self._put(Version(name, number, number, is_marker=True))

    def remove(self, name: Name, version: int, number: int) -> None:
        """A version is gone for good; the one before takes its place, under a new number unless it is a marker."""
        found, versions = self._existing(name, version), self.versions_of(name)
        is_vacant = versions[0] is found
        self._replace(name, [each for each in versions if each is not found])
        if is_vacant:
            self._fill(name, number)

    def delete_many(self, command: DeleteFiles, is_deferred: Iterable[bool], number: int) -> None:
        """As one by one, but that a place is filled only once all of its key are removed."""
        done = [file for file, deferred in zip(command.files, is_deferred, strict=True) if not deferred]
        for key in dict.fromkeys(file.key for file in done):
            place = _Place((command.bucket, key))
            for file in done:
                if file.key == key:
                    self._delete_one(place, file.version, number)
            if place.is_vacant:
                self._fill(place.name, number)

    def _delete_one(self, place: _Place, version: int | None, number: int) -> None:
        versions = self.versions_of(place.name)
        if version is not None:
            if (found := self.find(place.name, version)) is not None and found is not place.marker:
                place.is_vacant |= versions[0] is found
                self._replace(place.name, [each for each in versions if each is not found])
        elif place.marker is None and versions and not versions[0].is_marker:
            # One below a removed version is kept already, whatever the retention is by now.
            before = versions[0].superseded_s
            if place.is_vacant:
                self._put(Version(place.name, number, number, is_marker=True), keeps=True)
                versions[0].superseded_s = before
            else:
                self.delete(place.name, number)
            place.is_vacant = False
            left = self.versions_of(place.name)
            place.marker = left[0] if left else versions[0]

    def tag(self, name: Name, version: int | None, tags: Mapping[str, str]) -> None:
        """A version has other tags."""
        self._existing(name, version).tags = dict(tags)

    def _put(self, version: Version, *, keeps: bool = False) -> None:
        bucket, versions = self.buckets[version.name[0]], self.versions_of(version.name)
        if bucket.settings.versioning == "off":
            self._replace(version.name, [version])
            return
        version.is_null = bucket.settings.versioning == "suspended"
        if versions:
            versions[0].superseded_s = self.lived_s
            if bucket.settings.superseded_retention_s == 0 and not keeps:
                versions = versions[1:]
        kept = [each for each in versions if not (version.is_null and each.is_null)]
        self._replace(version.name, [version, *kept])

    def _fill(self, name: Name, number: int) -> None:
        if versions := self.versions_of(name):
            first = versions[0]
            first.superseded_s = None
            if not first.is_marker:
                # Whoever reads it by its old number may be in the middle of it.
                self.counts["promotions"] += 1
                self.ended.append((chunks_of(first.content), f"version {first.number} of {name}"))
                first.number = number

    def _replace(self, name: Name, versions: list[Version]) -> None:
        for version in self.versions_of(name):
            if version not in versions and not version.is_marker:
                self.ended.append((chunks_of(version.content), f"version {version.number} of {name}"))
        self.buckets[name[0]].keys[name[1]] = versions

    def _existing(self, name: Name, number: int | None) -> Version:
        found = self.find(name, number)
        assert found is not None, f"the log knows a version {number} of {name} that nobody was told of"
        return found

    # --- uploads --------------------------------------------------------------------------------------------------

    def put_part(self, upload: int, number: int, part: Part) -> None:
        """It replaces one of that number."""
        parts = self.uploads[upload].parts
        if (before := parts.get(number)) is not None:
            self.counts["replaced parts"] += 1
            self.ended.append((chunks_of(before.content), f"part {number} of upload {upload}"))
        parts[number] = part

    def source_of(self, command: CopyPart) -> Content:
        """The bytes that become a part."""
        found = self._existing((command.source_bucket, command.source_key), command.source_version)
        assert command.range_end is not None
        return found.content[command.range_start // HALF_BYTES : command.range_end // HALF_BYTES]

    def complete(self, command: CompleteUpload, number: int) -> None:
        """Its parts are a version; those that were not asked for are gone."""
        upload = self.uploads[command.upload]
        content: Content = ()
        for part_number, etag in command.parts:
            assert upload.parts[part_number].etag == etag, f"part {part_number} is another one by now"
            content += upload.parts[part_number].content
        self.write(upload.name, number, content, {}, is_composed=True)
        self.close(upload)
        upload.completed = number

    def close(self, upload: Upload) -> None:
        """It is under way no more."""
        upload.is_open = False
        for number, part in upload.parts.items():
            self.ended.append((chunks_of(part.content), f"part {number} of upload {upload.index}"))

    # --- time -----------------------------------------------------------------------------------------------------

    def expired_versions(self) -> list[Version]:
        """Those that their bucket need not keep any more."""
        return [
            version
            for bucket in self.buckets.values()
            if (retention_s := bucket.settings.superseded_retention_s) is not None
            for versions in bucket.keys.values()
            for version in versions
            if version.superseded_s is not None and version.superseded_s <= self.lived_s - retention_s
        ]

    def forget(self, version: Version) -> None:
        """Its bucket does not keep it any more."""
        self.counts["expired versions"] += 1
        self._replace(version.name, [each for each in self.versions_of(version.name) if each is not version])


@dataclass(slots=True)
class _Place:
    """Of the current version of a key, while a batch removes some. `marker`: of this batch, or what it replaced."""

    name: Name
    is_vacant: bool = False
    marker: Version | None = None
