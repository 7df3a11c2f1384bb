"""Schedules that are written down, for bugs that random ones meet too seldom to rely on.

Each goes well with the product's rules, step by step under the eyes of the oracle, and breaks a promise with its bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

from shared.contracts.backups import BeginBackup, EndBackup
from shared.contracts.cluster import NodeState
from shared.contracts.metadata import DeleteFile
from shared.contracts.objects import BucketSettings, PutBucketSettings
from shared.contracts.uploads import AbortUpload, BeginUpload, CopyPart
from shared.placement import expected_holders, live_nodes
from tests.simulation.garbage.gateway import UploadHandle
from tests.simulation.garbage.log import BUCKET, REFERENCE_RETENTION_S, REPLICA_COUNT, STAMP, Log
from tests.simulation.garbage.node import Node
from tests.simulation.garbage.objects import CHUNK_BYTES, Name, Objects
from tests.simulation.garbage.oracle import ViolationError
from tests.simulation.garbage.reader import Reader
from tests.simulation.garbage.world import World

_LIMIT: Final = 5_000
_ROWS_PER_ENTRY: Final = 250
_OTHER_DIGEST: Final = blake3(b"other content").hexdigest()
_NAME: Final[Name] = (BUCKET, "key")


@dataclass(frozen=True, slots=True)
class Backup:
    """So many entries of a log, and what they make."""

    entries: int
    objects: Objects


class Stage:
    """A cluster of four nodes on which nothing happens by chance. `holders` should hold the one chunk, `other` should not."""

    def __init__(self) -> None:
        self.world = World(0, nodes=4)
        self._logs: list[Log] = []
        self.world.kernel.loss = 0.0
        self.world.log.rows_per_entry = _ROWS_PER_ENTRY
        self.world.draw_patience = lambda: False  # type: ignore[method-assign]
        self.digest = self.world.digests[0]
        self.idle()
        self.run("follow")
        expected = expected_holders(self.digest, live_nodes(self.world.log.node_map), REPLICA_COUNT)
        self.holders = [self.world.nodes[node.id] for node in expected]
        (self.other,) = [node for node in self.world.nodes.values() if node not in self.holders]

    def idle(self) -> None:
        """Let everything happen that is under way."""
        self.until(lambda: False)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let things happen until the condition holds, or nothing is left."""
        for _ in range(_LIMIT):
            if condition() or not self.world.kernel.step():
                return
            self.world.oracle.check()
        raise AssertionError("it does not end")

    def run(self, loop: str, nodes: Iterable[Node] | None = None) -> None:
        """One pass of a loop on some nodes, or on all."""
        for node in self.world.nodes.values() if nodes is None else nodes:
            node.loop(loop, getattr(node, loop))
        self.idle()

    def upload(self, *, copies: int, gateway: int = 0, digest: str = "", is_small: bool = False) -> None:
        """Store a file of the chunk, or of `digest`, on so many nodes."""
        self.begin_upload(copies=copies, gateway=gateway, digest=digest, is_small=is_small)
        before = self.version
        self.idle()
        assert self.version > before, "the upload did not end well"

    def begin_upload(self, *, copies: int, gateway: int = 0, digest: str = "", is_small: bool = False) -> None:
        """Let an upload be under way."""
        self.world.draw_copies = lambda: copies  # type: ignore[method-assign]
        writer = self.world.gateways[gateway]
        steps = writer.upload(_NAME, [digest or self.digest], keeps_bytes=True, is_small=is_small)
        self.world.kernel.spawn(writer.party, steps)

    @property
    def version(self) -> int:
        """Of the file; 0 when there is none."""
        found = self.world.oracle.objects.find(_NAME)
        return 0 if found is None else found.number

    def begin_parts(self, key: str = _NAME[1]) -> UploadHandle:
        """An upload of parts of the file, or of another one, is under way."""
        nonce = f"{self.world.draw_name():032x}"
        command = BeginUpload(bucket=BUCKET, key=key, nonce=nonce, content_type="", lifetime_s=10_000, stamp=STAMP)
        return UploadHandle(int(self.world.propose(command)["upload"]), nonce)

    def begin_part(
        self, handle: UploadHandle, *, copies: int, number: int = 1, digest: str = "", gateway: int = 0
    ) -> None:
        """Let a part of the chunk, or of `digest`, be under way."""
        self.world.draw_copies = lambda: copies  # type: ignore[method-assign]
        writer = self.world.gateways[gateway]
        steps = writer.put_part(handle, number, [digest or self.digest], keeps_bytes=True)
        self.world.kernel.spawn(writer.party, steps)

    def upload_parts(self, *, digest: str = "", gateway: int = 0) -> None:
        """Store the file as one of a single part."""
        handle = self.begin_parts()
        self.begin_part(handle, copies=3, digest=digest, gateway=gateway)
        self.idle()
        self.complete(handle, gateway=gateway)

    def complete(self, handle: UploadHandle, *, gateway: int = 0) -> None:
        """Make a file of all that there is."""
        client = self.world.gateways[gateway]
        self.world.kernel.spawn(client.party, client.complete(handle, is_whole=True))
        self.idle()

    def hold_at_log(self) -> list[Any]:
        """What arrives at the log next, and does not until it is released."""
        held: list[Any] = []
        self.until(lambda: bool(held.extend(self.world.kernel.hold(self.world.log_party)) or held))
        assert held, "nothing is on its way to the log"
        return held

    def read(self, *, gateway: int = 0) -> None:
        """Read the file."""
        reader = self.world.gateways[gateway]
        self.world.kernel.spawn(reader.party, Reader(self.world, reader, _NAME, None, is_slow=False).read())
        self.idle()

    def delete_and_condemn(self) -> None:
        """Delete the file, and let so much time pass that its chunk is condemned."""
        self.delete()
        self.condemn()

    def delete(self) -> None:
        """Delete the file."""
        self.world.propose(DeleteFile(bucket=BUCKET, key=_NAME[1], stamp=STAMP))

    def condemn(self) -> None:
        """Let so much time pass that the chunks of deleted files are condemned."""
        for _ in range(3):
            self.world.pass_time(REFERENCE_RETENTION_S)

    def set_state(self, node: Node, state: NodeState) -> None:
        """The failure detector's verdict."""
        self.world.kernel.spawn(self.world.leader.party, self.world.leader.set_state(node.id, state))
        self.idle()

    def wipe(self, node: Node) -> None:
        """The node comes back with an empty disk, and the log hears of it."""
        self.world.oracle.lost([self.digest], self.world.kernel.step_count)
        node.wipe()
        self.idle()

    def back_up(self) -> Backup:
        """The cluster as it is now."""
        return Backup(len(self.world.log.proposals), deepcopy(self.world.oracle.objects))

    def restore(self, backup: Backup) -> None:
        """Another cluster begins with the backup, at the same addresses; no gateway is started anew."""
        world, old = self.world, self.world.log
        self._logs.append(old)
        world.log = old.restored("restored", backup.entries)
        world.oracle.follow(world.log, deepcopy(backup.objects))
        for node in world.nodes.values():
            node.hand_over()
        self.idle()

    def close(self) -> None:
        """Give the memory back."""
        for log in (*self._logs, self.world.log):
            log.close()

    def require_replicas(self) -> None:
        """Since there were N replicas, no step of the product may have left fewer.

        Raises:
            ViolationError: there are.
        """
        left = sum(node.holds_good(self.digest) for node in self.world.nodes.values())
        if left < REPLICA_COUNT:
            raise ViolationError(f"{left} replicas are left")


def pull_before_an_old_condemnation(stage: Stage) -> None:
    """A node that lags behind pulls a chunk that was condemned and stored again, and hears of the condemnation later."""
    *holders, late = stage.holders
    stage.upload(copies=2)
    stage.run("follow")
    assert not late.holds_good(stage.digest)
    stage.delete_and_condemn()
    stage.run("follow", holders)
    stage.upload(copies=2)
    stage.run("compare", [late])
    assert late.holds_good(stage.digest), "it expects the chunk still, and pulls it"
    stage.run("follow", [late])
    assert late.holds_good(stage.digest)


def surplus_that_is_missed(stage: Stage) -> None:
    """A node holds a chunk in place of one that was slow, and that has not pulled it yet."""
    slow, *_ = stage.holders
    stage.set_state(slow, NodeState.SUSPECT)
    stage.upload(copies=3)
    assert not slow.holds_good(stage.digest)
    stage.run("follow")
    stage.run("check_candidates")
    stage.require_replicas()


def surplus_on_an_old_replica(stage: Stage) -> None:
    """An expected holder has a replica of an earlier time; another node drops a new one because of it."""
    old, *rest = stage.holders
    stage.upload(copies=3)
    stage.set_state(old, NodeState.SUSPECT)
    stage.run("follow")
    stage.delete_and_condemn()
    stage.run("follow", [*rest, stage.other])
    stage.upload(copies=3)
    assert stage.other.holds_good(stage.digest), "a suspect node is written to last"
    stage.run("check_candidates", [stage.other])
    stage.run("follow", [old])
    stage.require_replicas()


def two_epochs_in_flight(stage: Stage) -> None:
    """Two nodes each drop a replica because the other has one: by node maps that follow each other.

    Both have it from the same upload: a confirmation for one with a later start index would raise that of the first, too.
    """
    away, *rest = stage.holders
    stage.upload(copies=4)
    stage.set_state(away, NodeState.INACTIVE)
    stage.run("follow")
    assert stage.other.holds_good(stage.digest), "it stands in"
    away.loop("check_candidates", away.check_candidates)
    stage.until(lambda: all(node.confirmed for node in [*rest, stage.other]))
    held: list[Any] = []
    stage.until(lambda: bool(held.extend(stage.world.kernel.hold(away.party)) or held))
    assert held, "the last answer is on its way"
    stage.set_state(away, NodeState.ACTIVE)
    stage.run("follow", [*rest, stage.other])
    stage.run("check_candidates", [stage.other])
    stage.world.kernel.release(held)
    stage.idle()
    stage.require_replicas()


def refused_publish(stage: Stage) -> None:
    """A small upload begins without a read, and its chunk is condemned between its puts and its publish."""
    stage.upload(copies=3)
    stage.delete()
    stage.begin_upload(copies=3, is_small=True)
    held: list[Any] = []
    stage.until(lambda: bool(held.extend(stage.world.kernel.hold(stage.world.log_party)) or held))
    assert all(node.holds_good(stage.digest) for node in stage.holders), "the publish is on its way"
    stage.condemn()
    stage.world.kernel.release(held)
    stage.idle()
    stage.run("follow")
    stage.require_replicas()
    assert stage.world.counts["refused without a read"], "the chunk was condemned in time"


def refused_part(stage: Stage) -> None:
    """The chunk of a part is condemned between its puts and its entry."""
    stage.upload(copies=3)
    handle = stage.begin_parts()
    stage.delete()
    stage.begin_part(handle, copies=3)
    started = stage.world.log.index
    stage.until(lambda: all(node.disk.chunks[stage.digest].start_index >= started for node in stage.holders))
    held = stage.hold_at_log()
    stage.condemn()
    stage.world.kernel.release(held)
    stage.idle()
    stage.run("follow")
    stage.require_replicas()
    assert stage.world.counts["chunk_condemned"], "the chunk was condemned in time"
    assert stage.world.counts["put_part"], "it was put again"


def copied_part_of_a_deleted_file(stage: Stage) -> None:
    """A file of parts is copied into another one, and deleted."""
    stage.upload_parts()
    handle = stage.begin_parts("copy")
    stage.world.propose(
        CopyPart(
            upload=handle.upload,
            nonce=handle.nonce,
            number=1,
            source_bucket=BUCKET,
            source_key=_NAME[1],
            range_start=0,
            range_end=CHUNK_BYTES,
            stamp=STAMP,
        )
    )
    stage.complete(handle)
    stage.delete_and_condemn()
    stage.run("follow")
    stage.require_replicas()


def file_of_two_parts(stage: Stage) -> None:
    """Only what the file does not show is given up after its completion."""
    handle = stage.begin_parts()
    for number, digest in ((1, _OTHER_DIGEST), (2, stage.digest)):
        stage.begin_part(handle, copies=3, number=number, digest=digest)
        stage.idle()
    stage.complete(handle)
    stage.condemn()
    stage.run("follow")
    stage.require_replicas()


def version_that_is_current_again(stage: Stage) -> None:
    """The version above it is removed for good."""
    settings = BucketSettings(versioning="enabled")
    stage.world.propose(PutBucketSettings(bucket=BUCKET, settings=settings, stamp=STAMP))
    stage.upload(copies=3)
    stage.upload(copies=3, digest=_OTHER_DIGEST)
    stage.world.propose(DeleteFile(bucket=BUCKET, key=_NAME[1], version=stage.version, stamp=STAMP))
    stage.condemn()
    stage.run("follow")
    stage.require_replicas()


def part_on_too_few_nodes(stage: Stage) -> None:
    """A part is acknowledged by fewer nodes than should hold it."""
    stage.begin_part(stage.begin_parts(), copies=2)
    stage.idle()
    stage.run("follow")
    stage.run("compare")
    stage.require_replicas()


def backup_of_a_deleted_file(stage: Stage) -> None:
    """A file is deleted while a backup copies what there is; once it ends the chunk goes."""
    stage.upload(copies=3)
    stage.world.propose(BeginBackup(backup_id="copy", owner="", lease_s=10_000, stamp=STAMP))
    stage.delete_and_condemn()
    stage.run("follow")
    stage.require_replicas()
    stage.world.propose(EndBackup(backup_id="copy", stamp=STAMP))
    stage.condemn()
    stage.run("follow")
    assert not any(node.holds_good(stage.digest) for node in stage.holders)


def backup_of_an_upload(stage: Stage) -> None:
    """An upload is aborted while a backup copies what there is."""
    handle = stage.begin_parts()
    stage.begin_part(handle, copies=3)
    stage.idle()
    stage.world.propose(BeginBackup(backup_id="copy", owner="", lease_s=10_000, stamp=STAMP))
    stage.world.propose(AbortUpload(upload=handle.upload, nonce=handle.nonce, stamp=STAMP))
    stage.condemn()
    stage.run("follow")
    stage.require_replicas()


def composition_that_is_being_read(stage: Stage) -> None:
    """A file of parts is deleted, and no list shows it any more; who began to read it before goes on."""
    stage.upload_parts()
    stage.delete()
    for _ in range(2):
        stage.world.pass_time(REFERENCE_RETENTION_S / 2 - 1)
    stage.run("follow")
    stage.require_replicas()


def upload_of_what_was_confirmed(stage: Stage) -> None:
    """A gateway knows who holds a chunk when it stores it again; meanwhile the chunk was condemned."""
    stage.upload(copies=3)
    stage.read()
    stage.delete_and_condemn()
    stage.upload(copies=3)
    stage.run("follow")
    stage.require_replicas()


def read_after_a_lost_disk(stage: Stage) -> None:
    """A gateway knows who holds a chunk when one of them loses its disk."""
    stage.upload(copies=3)
    stage.read()
    stage.wipe(stage.holders[0])
    stage.read()


def restore_at_the_same_addresses(stage: Stage) -> None:
    """A gateway knows a version that another cluster, made from a backup of its own, gives to other content.

    The product gives restored clusters indexes of their own; two that were restored under one generation have them in common.
    """
    stage.upload(copies=3)
    backup = stage.back_up()
    while stage.world.log.index < backup.entries + 100:
        stage.world.pass_time(0)
    stage.upload(copies=3, digest=_OTHER_DIGEST)
    stage.read()
    version = stage.version
    stage.restore(backup)
    while stage.world.log.index < version - 1:
        stage.world.pass_time(0)
    stage.upload(copies=3, gateway=1, is_small=True)
    assert stage.version == version
    stage.read()


def pieces_after_a_restore(stage: Stage) -> None:
    """The same of a file of parts, of which a gateway knows pages."""
    backup = stage.back_up()
    while stage.world.log.index < backup.entries + 100:
        stage.world.pass_time(0)
    stage.upload_parts(digest=_OTHER_DIGEST)
    stage.read()
    version = stage.version
    stage.restore(backup)
    while stage.world.log.index < version - 3:
        stage.world.pass_time(0)
    stage.upload_parts(gateway=1)
    assert stage.version == version
    stage.read()


def violation_of(scenario: Callable[[Stage], None]) -> str | None:
    """What a scenario complains about, or None when it goes well."""
    stage = Stage()
    try:
        scenario(stage)
    except ViolationError as violation:
        return str(violation)
    finally:
        stage.close()
    return None
