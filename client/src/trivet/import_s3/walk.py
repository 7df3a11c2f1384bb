"""Goes over the keys of a bucket with several workers, brings each over, and counts and compares at the end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx

from trivet.import_s3.histories import History, Version, count_present, is_proved, what_differs
from trivet.import_s3.store import Store, StoreError
from trivet.import_s3.transfer import Place, SourceChangedError, VersionTransfer

ATTEMPTS: Final = 6
_BASE_S: Final = 0.5
_LIMIT_S: Final = 20.0

_ResultT = TypeVar("_ResultT")


@dataclass(slots=True)
class Counts:
    """What a store has: keys, versions that are no markers, markers, and bytes of all versions."""

    keys: int = 0
    versions: int = 0
    markers: int = 0
    size_bytes: int = 0

    def add(self, history: History) -> None:
        """One key more."""
        markers = sum(version.is_marker for version in history)
        self.keys += bool(history)
        self.versions += len(history) - markers
        self.markers += markers
        self.size_bytes += sum(version.size for version in history)


@dataclass(slots=True)
class Report:
    """What came of one bucket. `problems`: a key and what is wrong with it, in words."""

    bucket: str
    source: Counts = field(default_factory=Counts)
    target: Counts = field(default_factory=Counts)
    read_to_compare: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the target has all of it, and nothing else."""
        return not self.problems and self.source == self.target


@dataclass(slots=True)
class Moved:
    """How many versions were brought over, and why keys were given up on, in words."""

    count: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class Import:
    """Of buckets from `source` to `target`.

    Args:
        has_versions: as False only what is current goes over.
        pause: waits so many seconds; between attempts.
    """

    def __init__(
        self,
        source: Store,
        target: Store,
        *,
        workers: int,
        has_versions: bool = True,
        reads_all: bool = False,
        pause: Callable[[float], object],
    ) -> None:
        self._source = source
        self._target = target
        self._transfer = VersionTransfer(source, target)
        self._workers = workers
        self._wants_versions = has_versions
        self._reads_all = reads_all
        self._pause = pause

    def copy_bucket(self, bucket: str) -> Moved:
        """Bring over what the target lacks."""
        has_versions = self._prepare(bucket)
        copied = Moved()

        def bring(key: str, history: list[Version]) -> tuple[str, int, str]:
            return key, *self._copy_key(Place(bucket, key), history, has_versions)

        for key, count, failure in self._on_all(self._source.keys(bucket, has_versions=has_versions), bring):
            copied.count += count
            if failure:
                copied.failures[key] = failure
        if has_versions and self._source.versioning(bucket) == "Suspended":
            self._set_versioning(bucket, "Suspended")
        return copied

    def compare(self, bucket: str) -> Report:
        """Count both sides and compare every key: by ETags, and by reading both where these prove nothing."""
        report = Report(bucket)
        has_versions = self._has_versions(bucket)

        def look(key: str, ours: list[Version]) -> tuple[str, list[Version], str, int]:
            theirs = self._target.history(bucket, key, has_versions=has_versions)
            return key, ours, *self._compare_key(Place(bucket, key), ours, theirs)

        for key, ours, problem, read in self._on_all(self._source.keys(bucket, has_versions=has_versions), look):
            report.source.add(ours)
            report.read_to_compare += read
            if problem:
                report.problems.append((key, problem))
        for _, history in self._target.keys(bucket, has_versions=has_versions):
            report.target.add(history)
        return report

    def _has_versions(self, bucket: str) -> bool:
        return self._wants_versions and bool(self._source.versioning(bucket))

    def _prepare(self, bucket: str) -> bool:
        """Make the bucket where it is not there; whether it keeps versions."""
        has_versions = self._has_versions(bucket)
        if bucket not in self._target.buckets():
            self._target.call("PUT", f"/{bucket}")
        if has_versions:
            self._set_versioning(bucket, "Enabled")
        return has_versions

    def _set_versioning(self, bucket: str, status: str) -> None:
        body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>"
        self._target.call("PUT", f"/{bucket}", [("versioning", "")], body=body.encode())

    def _copy_key(self, place: Place, history: list[Version], has_versions: bool) -> tuple[int, str]:
        """How many versions were brought over, and why not all of them, in words."""
        failures = 0
        copied = 0
        while True:
            try:
                # Asked again after a failure: an upload whose answer was lost may have succeeded.
                there = self._target.history(place.bucket, place.key, has_versions=has_versions)
                for version in self._missing(history, there, has_versions):
                    self._transfer.copy(place, version)
                    copied += 1
            except (StoreError, SourceChangedError, httpx.HTTPError) as error:
                is_final = isinstance(error, StoreError) and not error.may_pass
                failures += 1
                if is_final or failures >= ATTEMPTS:
                    return copied, str(error)
                # Full jitter: many keys that failed at once do not come back at once.
                self._pause(random.random() * min(_LIMIT_S, _BASE_S * 2.0 ** (failures - 1)))  # noqa: S311 - no secret
            else:
                return copied, ""

    def _missing(self, history: History, there: History, has_versions: bool) -> History:
        present = count_present(history, there)
        if present is not None:
            return history[present:]
        # Where nothing is kept, the new content takes the place of the old; where versions are, somebody wrote there.
        return () if has_versions else history

    def _compare_key(self, place: Place, ours: History, theirs: History) -> tuple[str, int]:
        """What is wrong, and how many versions had to be read."""
        if problem := what_differs(ours, theirs):
            return problem, 0
        doubtful = [
            (number, pair)
            for number, pair in enumerate(zip(ours, theirs, strict=True), 1)
            if not pair[0].is_marker and (self._reads_all or not is_proved(*pair))
        ]
        for number, pair in doubtful:
            source, target = self._transfer.digests(place, *pair)
            if source != target:
                return f"version {number} has other bytes: SHA-256 {source} at the source, {target} at the target", len(
                    doubtful
                )
        return "", len(doubtful)

    def _on_all(
        self, keys: Iterable[tuple[str, list[Version]]], work: Callable[[str, list[Version]], _ResultT]
    ) -> Iterator[_ResultT]:
        """Results of `work` on every key, a bounded number at a time."""
        running: set[Future[_ResultT]] = set()
        with ThreadPoolExecutor(self._workers) as pool:
            for key, history in keys:
                running.add(pool.submit(work, key, history))
                if len(running) >= 4 * self._workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in running)
