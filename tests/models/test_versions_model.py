"""Random histories of versioned buckets against plain dictionaries: what is current, what is kept, and what keeps its chunks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.consensus.metadata.entries import OBJECTS_VERSION
from services.consensus.metadata.usage import check_usage
from services.consensus.metadata.verification import verify
from shared.contracts.access import Requester
from shared.contracts.files import FileVersion
from shared.contracts.metadata import DeleteFile, GetFile, ListFiles, PassTime
from shared.contracts.objects import (
    NULL_VERSION,
    BucketSettings,
    CopyFile,
    CountObjects,
    DeleteFiles,
    FileToDelete,
    GetBucketSettings,
    ListVersions,
    PutBucketSettings,
    SetTags,
)
from shared.contracts.s3 import S3Attributes
from shared.contracts.usage import GetUsage
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp

BUCKET = "default"
KEYS = ("a", "a/1", "é")
RETENTION_S = 100
SIZE_BYTES = 2500
OWNERS = ("1a" * 32, "2b" * 32)


@dataclass
class Version:
    """A version or a marker. `number` is the log index that made it, or that made it current again.

    `s3` and `stored_ns`: what S3 shows, and since when there is this version; the same for ever.
    """

    number: int
    known_as: int
    is_marker: bool
    is_null: bool
    etag: str = ""
    fill: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    patch_index: int = 0
    superseded_s: float | None = None
    owner: str = ""
    s3: S3Attributes | None = None
    stored_ns: int = 0

    @property
    def listed(self) -> tuple[object, ...]:
        """What lists show for S3; of a marker no time is foretold."""
        s3 = self.s3 or S3Attributes()
        return s3.etag, s3.storage_class, None if self.is_marker else self.stored_ns


class Model:
    """By key: its versions, the latest first. The first one decides whether the key exists."""

    def __init__(self) -> None:
        self.versioning = "off"
        self.retention_s: int | None = None
        self.keys: dict[str, list[Version]] = {key: [] for key in KEYS}
        self.lived_s = 0.0

    def current(self, key: str) -> Version | None:
        versions = self.keys[key]
        return versions[0] if versions and not versions[0].is_marker else None

    def find(self, key: str, number: int) -> Version | None:
        return next((each for each in self.keys[key] if number in {each.number, each.known_as}), None)

    def put(self, key: str, version: Version) -> None:
        """A new version or marker is the first one."""
        versions = self.keys[key]
        if self.versioning == "off":
            self.keys[key] = [version]
            return
        version.is_null = self.versioning == "suspended"
        if versions:
            versions[0].superseded_s = self.lived_s
            if self.retention_s == 0:
                versions = versions[1:]
        kept = [each for each in versions if not (version.is_null and each.is_null)]
        self.keys[key] = [version, *kept]

    def delete(self, key: str, index: int) -> None:
        if self.versioning == "off":
            self.keys[key] = []
        else:
            self.put(key, Version(index, index, is_marker=True, is_null=False))

    def remove(self, key: str, version: Version, index: int) -> None:
        """For good; the next one is the first, under a new number unless it is a marker."""
        was_first = self.keys[key][0] is version
        self.keys[key].remove(version)
        if was_first:
            self.fill(key, index)

    def fill(self, key: str, index: int) -> None:
        if self.keys[key]:
            self.keys[key][0].superseded_s = None
            if not self.keys[key][0].is_marker:
                self.keys[key][0].number = index

    def pass_time(self, elapsed_s: float) -> None:
        self.lived_s += elapsed_s
        if self.versioning == "off" or self.retention_s is None:
            return
        for key, versions in self.keys.items():
            self.keys[key] = [
                each
                for each in versions
                if each.superseded_s is None or each.superseded_s > self.lived_s - self.retention_s
            ]


class World:
    """The state machine and the model, changed alike."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metadata.sqlite"
        self.log = Log(self.path, entry_version=OBJECTS_VERSION)
        self.model = Model()
        self._names = count(1)
        self.owner = OWNERS[0]

    def be(self, owner: str) -> None:
        """Whom changes are made for from now on."""
        self.owner, self.log.requester = owner, Requester(principal=owner)

    def put(self, key: str, *, tagged: bool) -> None:
        name = next(self._names)
        index, fill = self.log.next_index, name % 250 + 1
        tags = {"n": str(name)} if tagged else None
        s3 = S3Attributes(etag=f"{name:032x}", storage_class="COLD" if name % 4 else None) if name % 2 else None
        stored = content(SIZE_BYTES, fill=fill)
        result = self.log.apply(
            publish(key, etag=f"e{name}", content=stored, tags=tags, start_index=index - 1, s3=s3, stamp=stamp(name))
        )
        new = Version(index, index, is_marker=False, is_null=True, etag=f"e{name}", fill=fill, tags=tags or {})
        new.patch_index, new.owner = index if tags else 0, self.owner
        new.s3, new.stored_ns = s3, FileVersion.model_validate(result["version"]).stored_ns
        self.model.put(key, new)

    def delete(self, key: str) -> None:
        index = self.log.next_index
        outcome = self.log.propose(DeleteFile(bucket=BUCKET, key=key, stamp=stamp()))
        if self.model.current(key) is None:
            assert outcome.problem is not None
            assert outcome.problem["code"] == "file_not_found"
            return
        assert outcome.problem is None, outcome.problem
        self.model.delete(key, index)

    def delete_version(self, key: str, place: int, *, by_number: bool) -> None:
        index, number = self.log.next_index, self._number(key, place, by_number=by_number)
        outcome = self.log.propose(DeleteFile(bucket=BUCKET, key=key, version=number, stamp=stamp()))
        version = self.model.find(key, number)
        if version is None:
            assert outcome.problem is not None
            assert outcome.problem["code"] == "version_not_found"
            return
        assert outcome.result is not None, outcome.problem
        assert outcome.result["removed_version"] == version.known_as
        assert outcome.result.get("is_marker", False) == version.is_marker
        self.model.remove(key, version, index)

    def delete_many(self, asked: list[tuple[str, int | None]]) -> None:
        """As one by one, but that a place is filled only once all are removed, and for one key."""
        index = self.log.next_index
        files = [
            FileToDelete(key=key, version=None if place is None else self._number(key, place, by_number=True))
            for key, place in asked
        ]
        result = self.log.apply(DeleteFiles(bucket=BUCKET, files=files, stamp=stamp()))
        outcomes = list(zip(files, result["results"], strict=True))
        vacated: set[str] = set()
        marked: set[str] = set()
        for key in dict.fromkeys(file.key for file in files):
            for file, outcome in outcomes:
                if file.key != key:
                    continue
                if "problem" in outcome:
                    assert outcome["problem"]["code"] == "promotion_deferred"
                    continue
                self._delete_one(file, index, vacated, marked)
            if key in vacated:
                self.model.fill(key, index)

    def _delete_one(self, file: FileToDelete, index: int, vacated: set[str], marked: set[str]) -> None:
        versions = self.model.keys[file.key]
        if file.version is not None:
            version = self.model.find(file.key, file.version)
            if version is not None:
                if versions[0] is version and file.key not in vacated:
                    vacated.add(file.key)
                versions.remove(version)
            return
        if file.key in marked or not versions or versions[0].is_marker:
            return
        marked.add(file.key)
        was_superseded, retention_s = versions[0].superseded_s, self.model.retention_s
        if file.key in vacated:
            # The one below a removed version is kept already, whatever the retention is by now.
            self.model.retention_s = None
        first = versions[0]
        self.model.delete(file.key, index)
        if file.key in vacated:
            first.superseded_s, self.model.retention_s = was_superseded, retention_s
        vacated.discard(file.key)

    def copy(self, source: str, place: int | None, key: str, *, is_move: bool, tagged: bool) -> None:
        index = self.log.next_index
        number = None if place is None else self._number(source, place, by_number=False)
        tags = {"copied": "yes"} if tagged else None
        command = CopyFile(
            bucket=BUCKET,
            key=key,
            source_bucket=BUCKET,
            source_key=source,
            source_version=number,
            tags=tags,
            is_move=is_move,
            stamp=stamp(),
        )
        outcome = self.log.propose(command)
        if (code := self._why_not_copied(command)) is not None:
            assert outcome.problem is not None, code
            assert outcome.problem["code"] == code
            return
        found = self.model.current(source) if number is None else self.model.find(source, number)
        assert found is not None
        assert outcome.result is not None, outcome.problem
        assert outcome.result["source_version"] == found.known_as
        new = Version(index, index, is_marker=False, is_null=True, etag=found.etag, fill=found.fill)
        new.tags = found.tags if tags is None else tags
        new.patch_index, new.owner = index if new.tags else 0, self.owner
        new.s3, new.stored_ns = found.s3, FileVersion.model_validate(outcome.result["version"]).stored_ns
        self.model.put(key, new)
        if is_move:
            self.model.delete(source, index)

    def _why_not_copied(self, command: CopyFile) -> str | None:
        number, source = command.source_version, command.source_key
        found = self.model.current(source) if number is None else self.model.find(source, number)
        if found is None:
            return "file_not_found" if number is None else "version_not_found"
        if found.is_marker:
            return "source_is_marker"
        is_current = found is self.model.current(source)
        if command.is_move and not is_current:
            return "invalid_request"
        if command.key == source and (command.is_move or (is_current and command.tags is None)):
            return "copy_onto_itself"
        return None

    def tag(self, key: str, place: int) -> None:
        index, number = self.log.next_index, self._number(key, place, by_number=False)
        outcome = self.log.propose(
            SetTags(bucket=BUCKET, key=key, version=number, tags={"at": str(index)}, stamp=stamp())
        )
        found = self.model.find(key, number)
        if found is None or found.is_marker:
            assert outcome.problem is not None
            return
        assert outcome.result == {"version": found.known_as, "patch_index": index}
        found.tags, found.patch_index = {"at": str(index)}, index

    def set_versioning(self, versioning: str, retention_s: int | None) -> None:
        wanted = BucketSettings(versioning=versioning, superseded_retention_s=retention_s)  # type: ignore[arg-type]
        outcome = self.log.propose(PutBucketSettings(bucket=BUCKET, settings=wanted, stamp=stamp()))
        if versioning == "off" and self.model.versioning != "off":
            assert outcome.problem is not None
            assert outcome.problem["code"] == "versioning_cannot_be_off"
        else:
            assert outcome.problem is None
            self.model.versioning, self.model.retention_s = versioning, retention_s
        found = self.log.ask(GetBucketSettings(bucket=BUCKET)).settings
        assert (found.versioning, found.superseded_retention_s) == (self.model.versioning, self.model.retention_s)

    def pass_time(self, elapsed_s: int, *, references_s: int = 10_000) -> None:
        elapsed_ms = elapsed_s * 1000
        while True:
            command = PassTime(
                elapsed_ms=elapsed_ms,
                cursor_retention_s=50,
                tombstone_retention_s=20,
                reference_retention_s=references_s,
                condemned_retention_s=10_000,
                stamp=stamp(),
            )
            if not self.log.apply(command, retain_s=0)["has_more"]:
                break
            elapsed_ms = 0
        self.model.pass_time(elapsed_s)

    def _number(self, key: str, place: int, *, by_number: bool) -> int:
        """Of the version at that place, by one of its numbers; one that is not there beyond the last."""
        versions = self.model.keys[key]
        if place >= len(versions):
            return 1
        return versions[place].number if by_number else versions[place].known_as

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self, limit: int) -> None:
        for key in KEYS:
            self._check_key(key)
        shown = [
            (key, each.number, each.known_as, each.is_marker, each.is_null, each.etag, at == 0, each.listed)
            for key, versions in sorted(self.model.keys.items(), key=lambda item: item[0].encode())
            for at, each in enumerate(versions)
        ]
        assert self._listed(limit) == shown
        assert self._listed(limit, key="a") == [row for row in shown if row[0] == "a"]
        present = [key for key in sorted(KEYS, key=str.encode) if self.model.current(key) is not None]
        files = self.log.ask(ListFiles(bucket=BUCKET)).files
        assert [file.key for file in files] == present
        current = [self.model.keys[key][0].listed for key in present]
        assert [(file.s3_etag, file.storage_class, file.stored_ns) for file in files] == current
        self._check_counts(shown)
        self._check_usage()

    def _check_key(self, key: str) -> None:
        current = self.model.current(key)
        answer = self.log.ask(GetFile(bucket=BUCKET, key=key))
        assert (answer.file is None) == (current is None), key
        assert answer.is_marker == bool(self.model.keys[key] and current is None)
        if current is not None:
            assert (answer.version, answer.file.version_id or answer.version) == (current.number, current.known_as)
        for each in self.model.keys[key]:
            for number in {each.number, each.known_as}:
                by_version = self.log.ask(GetFile(bucket=BUCKET, key=key, version=number))
                assert by_version.is_marker == each.is_marker
                if not each.is_marker:
                    file = by_version.file
                    assert (file.etag, file.tags, file.patch_index) == (each.etag, each.tags, each.patch_index)
                    assert file.content == content(SIZE_BYTES, fill=each.fill)
                    assert file.owner == each.owner
                    assert (file.s3, file.stored_ns) == (each.s3, each.stored_ns)
        null = next((each for each in self.model.keys[key] if each.is_null), None)
        found = self.log.ask(GetFile(bucket=BUCKET, key=key, version=NULL_VERSION))
        is_found = found.file is not None or found.is_marker
        assert (found.version if is_found else None) == (None if null is None else null.number)
        assert self.log.ask(GetFile(bucket=BUCKET, key=key, version=1)).file is None

    def _listed(self, limit: int, **changes: Any) -> list[tuple[object, ...]]:
        """Page by page. Clients go on after the version id of the last row."""
        found: list[tuple[object, ...]] = []
        after: dict[str, Any] = {}
        while True:
            page = self.log.ask(ListVersions(bucket=BUCKET, limit=limit, **changes, **after))
            found += [
                (
                    *(e.key, e.version, e.version_id or e.version, e.is_marker, e.is_null, e.etag, e.is_current),
                    (e.s3_etag, e.storage_class, None if e.is_marker else e.stored_ns),
                )
                for e in page.versions
            ]
            if not page.has_more:
                return found
            assert page.versions, "a page that says that there is more brings one further"
            last = page.versions[-1]
            assert page.last_version == (last.version_id or last.version)
            after = {"after_key": page.last_key, "after_version": page.last_version}

    def _check_counts(self, shown: list[tuple[object, ...]]) -> None:
        versions, markers, position = 0, 0, None
        while True:
            counts = self.log.ask(CountObjects(position=position))
            versions, markers, position = versions + counts.versions, markers + counts.markers, counts.next_position
            if position is None:
                break
        assert (versions, markers) == (sum(not row[3] for row in shown), sum(bool(row[3]) for row in shown))

    def _check_usage(self) -> None:
        files = [each for versions in self.model.keys.values() for each in versions if not each.is_marker]
        usage = self.log.ask(GetUsage(buckets=[BUCKET], identities=list(OWNERS)))
        found = {name: (of.size_bytes, of.files) for name, of in (usage.buckets | usage.identities).items()}
        counts = {BUCKET: len(files)} | {owner: sum(each.owner == owner for each in files) for owner in OWNERS}
        assert found == {name: (SIZE_BYTES * files, files) for name, files in counts.items()}
        check_usage(self.log.store._reader.database)

    def check_references(self) -> None:
        """Once all has passed, exactly what is shown keeps its chunks, and every row adds up."""
        retention_s, self.model.retention_s = self.model.retention_s, self.model.retention_s
        self.pass_time(100_000, references_s=1)
        self.pass_time(100_000, references_s=1)
        self.pass_time(100_000, references_s=1)
        self.model.retention_s = retention_s
        numbers = {each.number for versions in self.model.keys.values() for each in versions if not each.is_marker}
        rows = self.log.store._reader.database.execute("SELECT DISTINCT version FROM chunk_refs")
        assert {version for (version,) in rows} == numbers
        rows = self.log.store._reader.database.execute("SELECT version FROM patches")
        tagged = {each.number for versions in self.model.keys.values() for each in versions if each.patch_index}
        assert {version for (version,) in rows} == tagged
        self.log.store.close()
        verify(self.path)


PLACES = st.integers(min_value=0, max_value=3)
A_KEY = st.sampled_from(KEYS)
FEW_PLACES = st.sampled_from([0, 0, 1, None])
PUT = st.tuples(st.just("put"), A_KEY, st.booleans())
REMOVE = st.tuples(st.just("delete_version"), A_KEY, st.sampled_from([0, 0, 1, 2]), st.booleans())
SET = st.tuples(
    st.just("set_versioning"),
    st.sampled_from(["off", "enabled", "suspended", "suspended"]),
    st.sampled_from([None, None, None, 0, RETENTION_S]),
)
ACTIONS = st.one_of(
    PUT,
    PUT,
    PUT,
    st.tuples(st.just("delete"), A_KEY),
    REMOVE,
    st.tuples(st.just("delete_many"), st.lists(st.tuples(A_KEY, FEW_PLACES), min_size=2, max_size=6)),
    st.tuples(st.just("copy"), A_KEY, st.none() | PLACES, A_KEY, st.booleans(), st.booleans()),
    st.tuples(st.just("tag"), A_KEY, PLACES),
    SET,
    st.tuples(st.just("be"), st.sampled_from(OWNERS)),
    st.tuples(st.just("pass_time"), st.sampled_from([1, 60, 60, 200])),
)
BEGIN: list[tuple[Any, ...]] = [
    ("put", "a", True),
    ("set_versioning", "enabled", None),
    *[("put", key, False) for key in KEYS for _ in range(2)],
    *[("pass_time", 60)] * 3,
]
"""Half of the histories begin with this: all keys have older versions that no list is pinned to, one of them a null version."""


def play(world: World, action: tuple[Any, ...]) -> None:
    name, *values = action
    match name:
        case "put":
            world.put(values[0], tagged=values[1])
        case "delete_version":
            world.delete_version(values[0], values[1], by_number=values[2])
        case "copy":
            world.copy(values[0], values[1], values[2], is_move=values[3], tagged=values[4])
        case _:
            getattr(world, name)(*values)


@settings(max_examples=120)
@given(
    begin=st.booleans(), actions=st.lists(ACTIONS, min_size=5, max_size=30), limit=st.integers(min_value=1, max_value=4)
)
def test_versions_are_what_plain_dictionaries_say(begin: bool, actions: list[tuple[Any, ...]], limit: int) -> None:
    """Through off, enabled and suspended, by every call; and in the end exactly what is shown keeps its chunks."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.be(OWNERS[0])
        for action in [*(BEGIN if begin else ()), *actions]:
            play(world, action)
            world.check(limit)
        world.check_references()
