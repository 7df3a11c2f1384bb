"""What must be true after every step of a schedule, kept apart from everything that the product's code keeps.

The promise of a write with quorum W: while fewer than W of the replicas that were counted for it are lost, its chunks exist.
So the oracle keeps, for every chunk that somebody may need, how many replicas are *promised*: those that a publish counted,
less one for each that a fault destroyed, and all N of them again once everything has come to rest. The steps of the product
may move replicas, add to them and take away what is too much; they never bring them below that number. A promise of 0 says
nothing: the faults were more than the write was made for.

Needed is what exists (`objects`: every version that its bucket keeps, every part of an upload under way), what a reader may be
in the middle of, and what a backup copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.contracts.backups import BeginBackup, EndBackup, RenewBackup
from shared.contracts.files import FileVersion
from shared.contracts.metadata import (
    AnyCommand,
    ClusterAnswer,
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    PassTime,
    ProposalResult,
    PublishFile,
)
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.objects import CopyFile, DeleteFiles, ListVersions, PutBucketSettings, SetTags
from shared.contracts.uploads import (
    AbortUpload,
    BeginUpload,
    CompleteUpload,
    CopyPart,
    GetUpload,
    PutPart,
)
from tests.simulation.garbage.log import REFERENCE_RETENTION_S, REPLICA_COUNT, Log
from tests.simulation.garbage.objects import Bucket, Content, Name, Objects, Part, Upload, whole

if TYPE_CHECKING:
    from tests.simulation.garbage.node import Node

Acks = Mapping[str, Mapping[str, "Ack"]]
"""Who said what about each chunk, by digest and node."""


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True, slots=True)
class Ack:
    """A node said that it holds a chunk durably, at a step of the schedule, with this disk."""

    step: int
    disk_id: str
    is_hopeless: bool
    """The replica was bad, and the node could not know: it had verified it before it went bad."""


@dataclass(frozen=True, slots=True)
class Written:
    """A version as the oracle knows it at the time of a read."""

    number: int
    content: Content
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A linearizable read of a file, and what was true in that step.

    Attributes:
        step: of the schedule.
        index: of the log.
        lived_s: the age of the log's clock.
        file: None where there is none, and where it is still the one that the reader knows.
        written: the file as it was published last, by the oracle's own account.
        disks: by node, the disk that the log had recorded.
    """

    step: int
    index: int
    lived_s: float
    cluster: ClusterAnswer
    file: FileVersion | None
    is_unchanged: bool
    written: Written | None
    disks: Mapping[str, str]


@dataclass(slots=True)
class Oracle:
    """What clients were told, and what faults destroyed."""

    log: Log
    nodes: dict[str, Node]
    objects: Objects = field(default_factory=Objects)
    promised: dict[str, int] = field(default_factory=dict)
    _ended: list[tuple[frozenset[str], float]] = field(default_factory=list)
    _pins: dict[str, tuple[frozenset[str], float]] = field(default_factory=dict)
    _losses: dict[str, list[int]] = field(default_factory=dict)
    _needed: tuple[int, frozenset[str]] = (-1, frozenset())

    # --- what happens ----------------------------------------------------------------------------------------------

    def accepted(self, command: AnyCommand, result: ProposalResult, acks: Acks | None = None) -> None:
        """The log accepted a command, in the entry of this result; an upload counts `acks`."""
        number, answer = result.log_index, result.result or {}
        needed = self.needed_before(number)
        self._change(command, number, answer)
        self._take_ended()
        self._needed = (-1, frozenset())
        if acks is not None:
            self._count(f"entry {number}", acks, needed)

    def follow(self, log: Log, objects: Objects) -> None:
        """The log of another cluster counts from here on, in which there is this."""
        self.log, self.objects = log, objects
        self._needed = (-1, frozenset())

    def needed_before(self, number: int) -> frozenset[str]:
        """What was needed before the entry `number`."""
        return self._needed[1] if self._needed[0] == number - 1 else self._compute_needed()

    def _change(self, command: AnyCommand, number: int, answer: dict[str, Any]) -> None:
        objects = self.objects
        match command:
            case PublishFile():
                content = whole(_digests(command.content.chunk_digests))
                objects.write((command.bucket, command.key), number, content, command.tags or {})
            case DeleteFile(version=None):
                objects.delete((command.bucket, command.key), number)
            case DeleteFile(version=int(version)):
                objects.remove((command.bucket, command.key), version, number)
            case DeleteFiles():
                is_deferred = ["problem" in outcome for outcome in answer["results"]]
                objects.counts["promotion_deferred"] += sum(is_deferred)
                objects.delete_many(command, is_deferred, number)
            case CopyFile():
                objects.copy(command, number)
            case SetTags():
                objects.tag((command.bucket, command.key), command.version, command.tags or {})
            case CreateBucket() | DeleteBucket() | PutBucketSettings():
                self._change_bucket(command)
            case BeginUpload() | PutPart() | CopyPart() | CompleteUpload() | AbortUpload():
                self._change_upload(command, number, answer)
            case BeginBackup() | RenewBackup() | EndBackup():
                self._change_backup(command, answer)
            case PassTime():
                self._pass_time(answer["lived_ms"] / 1000)

    def _change_bucket(self, command: CreateBucket | DeleteBucket | PutBucketSettings) -> None:
        match command:
            case CreateBucket():
                self.objects.buckets.setdefault(command.bucket, Bucket())
            case DeleteBucket():
                del self.objects.buckets[command.bucket]
            case PutBucketSettings():
                self.objects.buckets[command.bucket].settings = command.settings

    def _change_upload(self, command: AnyCommand, number: int, answer: dict[str, Any]) -> None:
        objects = self.objects
        match command:
            case BeginUpload(lifetime_s=int(lifetime_s)):
                name, expires_s = (command.bucket, command.key), objects.lived_s + lifetime_s
                objects.uploads[number] = Upload(name, number, command.nonce, command.is_internal, expires_s)
            case PutPart():
                content = whole(_digests(command.content.chunk_digests))
                objects.put_part(command.upload, command.number, Part(answer["etag"], content))
            case CopyPart():
                objects.put_part(command.upload, command.number, Part(answer["etag"], objects.source_of(command)))
            case CompleteUpload():
                upload, version = objects.uploads[command.upload], answer["version"]["version"]
                if upload.completed is None:
                    objects.complete(command, number)
                if version != objects.uploads[command.upload].completed:
                    raise ViolationError(
                        f"upload {command.upload} became {upload.completed}, and is {version} when asked again"
                    )
            case AbortUpload():
                objects.close(objects.uploads[command.upload])

    def _change_backup(self, command: BeginBackup | RenewBackup | EndBackup, answer: dict[str, Any]) -> None:
        if isinstance(command, EndBackup):
            self._pins.pop(command.backup_id, None)
            return
        known, _ = self._pins.get(command.backup_id, (None, 0.0))
        chunks = frozenset(self.objects.referenced()) if known is None else known
        self._pins[command.backup_id] = (chunks, answer["expires_ms"] / 1000)

    def _pass_time(self, lived_s: float) -> None:
        """The log may take its time to forget what is old enough, and forgets nothing else."""
        objects = self.objects
        objects.lived_s = lived_s
        if expired := objects.expired_versions():
            present = {bucket: self.listed_versions(bucket) for bucket in {version.name[0] for version in expired}}
            for version in expired:
                if (version.name[1], version.number) not in present[version.name[0]]:
                    objects.forget(version)
        for upload in list(objects.open_uploads()):
            if lived_s >= upload.expires_s and not self._is_under_way(upload):
                objects.counts["expired uploads"] += 1
                objects.close(upload)

    def listed_versions(self, bucket: str) -> dict[tuple[str, int], tuple[int, bool, bool]]:
        """By key and number, what the log lists: version id, whether it is a marker, and the null version."""
        _, (page,) = self.log.read(ListVersions(bucket=bucket))
        return {
            (row.key, row.version): (
                row.version if row.version_id is None else row.version_id,
                row.is_marker,
                row.is_null,
            )
            for row in page.versions
        }

    def _is_under_way(self, upload: Upload) -> bool:
        _, (answer,) = self.log.read(GetUpload(upload=upload.index, nonce=upload.nonce))
        return answer.upload is not None

    def _take_ended(self) -> None:
        self._ended += [(chunks, self.objects.lived_s) for chunks, _ in self.objects.ended]
        self.objects.ended.clear()

    def _count(self, what: str, acks: Acks, needed: frozenset[str]) -> None:
        runs = self.log.store.runs()
        for digest, by_node in acks.items():
            for node_id, ack in by_node.items():
                run = runs.get(node_id)
                if run is None or run.disk_id != ack.disk_id:
                    raise ViolationError(
                        f"{what} counts a replica of {digest[:4]} on a disk of {node_id} that is known to be gone"
                    )
            first_step = min(ack.step for ack in by_node.values())
            # A fault comes between two steps, and has the number of the one before.
            lost = sum(step >= first_step for step in self._losses.get(digest, ()))
            kept = sum(not ack.is_hopeless for ack in by_node.values()) - lost
            before = self.promised.get(digest, 0) if digest in needed else 0
            self.promised[digest] = min(max(before, kept), REPLICA_COUNT)

    def lost(self, digests: Iterable[str], step: int) -> None:
        """A fault destroyed a good replica of each."""
        for digest in digests:
            self._losses.setdefault(digest, []).append(step)
            if digest in self.promised:
                self.promised[digest] = max(0, self.promised[digest] - 1)

    def relied_on(self, digest: str, hopeless: int) -> None:
        """A good replica went because N others were confirmed, so many of which had gone bad after they had been verified.

        What destroyed them may have come before anything was promised; it took a replica of the promise only now.
        """
        if digest in self.promised:
            self.promised[digest] = min(self.promised[digest], REPLICA_COUNT - hopeless)

    def may_lose(self, digests: Iterable[str]) -> bool:
        """Whether one replica of each may be destroyed, and a promise is left."""
        needed = self.needed()
        return all(
            self.promised[digest] >= 2 for digest in digests if self.promised.get(digest, 0) and digest in needed
        )

    def restored(self) -> None:
        """Everything is at rest, and all replicas that there should be are there."""
        for digest in self.needed():
            if self.promised.get(digest, 0):
                self.promised[digest] = REPLICA_COUNT

    # --- what readers are told -----------------------------------------------------------------------------------------

    def written(self, name: Name, number: int | None) -> Written | None:
        """A version as it is now; None where there is none, or a marker."""
        found = self.objects.find(name, number)
        return None if found is None or found.is_marker else Written(found.number, found.content, dict(found.tags))

    def found(self, read: LookedUp) -> None:
        """A reader was told whether there is such a version.

        Raises:
            ViolationError: that is wrong.
        """
        if (read.written is None) == (read.file is not None or read.is_unchanged):
            raise ViolationError(f"a read at {read.index} finds {read.file} instead of {read.written}")

    def served(self, read: LookedUp, content: Content, tags: Mapping[str, str]) -> None:
        """A reader gets this content and these tags.

        Raises:
            ViolationError: they are not those of the file at the time of the read.
        """
        written = read.written
        if written is None or (written.content, dict(written.tags)) != (content, dict(tags)):
            raise ViolationError(f"a read at {read.index} gives {content} with {tags} instead of {written}")

    def may_be_gone(self, read: LookedUp) -> bool:
        """Whether a reader that goes on for so long has no promise any more."""
        return self.log.lived_s - read.lived_s >= REFERENCE_RETENTION_S

    def counted(self, read: LookedUp, digest: str, acks: Mapping[str, Ack]) -> None:
        """A reader is told that these replicas exist, by what their nodes said earlier.

        Raises:
            ViolationError: one was on a disk that was known to be gone at the time of the read. One that a node named after
                it may be on a disk that the log heard of later.
        """
        for node_id, ack in acks.items():
            if ack.step <= read.step and read.disks.get(node_id) != ack.disk_id:
                raise ViolationError(
                    f"a read at {read.index} counts a replica of {digest[:4]} on a disk of {node_id} that is known to be gone"
                )

    # --- what must be true -----------------------------------------------------------------------------------------

    def needed(self) -> frozenset[str]:
        """Chunks of what exists, of what a reader may be in the middle of, and of what a backup copies; as of the log's index."""
        index = self.log.index
        if self._needed[0] != index:
            self._needed = index, self._compute_needed()
        return self._needed[1]

    def _compute_needed(self) -> frozenset[str]:
        lived_s = self.log.lived_s
        self._ended = [entry for entry in self._ended if lived_s - entry[1] < REFERENCE_RETENTION_S]
        self._pins = {backup_id: pin for backup_id, pin in self._pins.items() if lived_s < pin[1]}
        kept = [chunks for chunks, _ in (*self._ended, *self._pins.values())]
        return frozenset(self.objects.referenced()).union(*kept)

    def check(self) -> None:
        """After every step.

        Raises:
            ViolationError: fewer replicas are left than were promised.
        """
        needed = self.needed()
        for digest in [digest for digest in self.promised if digest not in needed]:
            del self.promised[digest]
        counted = [self.nodes[node.id] for node in self.log.node_map.nodes]
        for digest, promised in self.promised.items():
            if promised and (left := sum(node.holds_good(digest) for node in counted)) < promised:
                raise ViolationError(f"{left} replicas of {digest[:4]} are left of {promised} promised")

    def broken_promises(self) -> Iterator[str]:
        """Chunks that more faults hit than their writes were made for."""
        return (digest for digest, promised in self.promised.items() if promised == 0)

    def complaints(self) -> list[str]:
        """At rest the log lists what clients were told, and nothing else."""
        complaints = [
            f"{version.number} of {version.name} is not expired" for version in self.objects.expired_versions()
        ]
        for name, bucket in self.objects.buckets.items():
            told = {
                (version.name[1], version.number): (version.known_as, version.is_marker, version.is_null)
                for versions in bucket.keys.values()
                for version in versions
            }
            if (listed := self.listed_versions(name)) != told:
                complaints.append(f"{name} lists {listed} instead of {told}")
        gone = [upload.index for upload in self.objects.open_uploads() if not self._is_under_way(upload)]
        return complaints + [f"upload {index} is gone" for index in gone]


def _digests(raw: bytes) -> list[str]:
    return [raw[at : at + DIGEST_BYTES].hex() for at in range(0, len(raw), DIGEST_BYTES)]
