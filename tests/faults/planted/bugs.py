"""Bugs that somebody could write, as patches of the real services; applied by `launch` before a service starts.

Each imports what it changes when it is applied, so that a service loads nothing that it would not load itself. Nothing in the
services knows of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Bug:
    """`service` is whose processes are changed: a folder of `services/`, or `*`."""

    name: str
    service: str
    says: str
    apply: Callable[[], None]


def _no_directory_fsync() -> None:
    import shared.disk.durable_files

    # Before anybody imports it by its name.
    shared.disk.durable_files.sync_directory = lambda _path: None


def _acknowledge_at_one() -> None:
    from services.gateway.replicas.quorum import WriteTally

    WriteTally.is_quorum_met = property(lambda self: len(self.acknowledged) >= 1)  # type: ignore[method-assign,assignment]


def _read_without_asking() -> None:
    from services.consensus.member import Member

    async def read_barrier(self: Member) -> int:
        return self.log.last_applied

    Member.read_barrier = read_barrier  # type: ignore[method-assign]


def _believe_bytes() -> None:
    import services.storage.digests
    from services.gateway.replicas import reader

    services.storage.digests.is_whole = lambda _body, _digest: True
    original = reader._Race

    class AnyDigest(str):
        """Equal to every digest."""

        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    def race(digest: str, size_bytes: int, waiting: Any) -> Any:
        return original(AnyDigest(digest), size_bytes, waiting)

    reader._Race = race  # type: ignore[assignment,misc]


def _forget_votes() -> None:
    from services.consensus.persistence import checked_file

    def write(path: Any, body: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(body)
        temporary.rename(path)

    checked_file.replace_file = write


def _ignore_idempotency_keys() -> None:
    from services.gateway.transfers.idempotency import IdempotencyKey

    IdempotencyKey.of = classmethod(lambda _cls, *_args, **_facts: None)  # type: ignore[method-assign,assignment]


def _last_clock_wins() -> None:
    from services.consensus.metadata import commands
    from shared.contracts.metadata import PublishFile

    original = commands._HANDLERS[PublishFile]

    def publish(context: Any, command: Any) -> Any:
        tables, key = context.tables, command.key.encode()
        bucket = context.bucket(command.bucket)
        file = None if bucket is None else tables.file(bucket.incarnation, key)
        if file is None or file.modified_ns <= command.stamp.approximate_ns + 1_000_000:
            return original(context, command)
        context.history.add = lambda *_: None
        try:
            result = original(context, command)
        finally:
            del context.history.add
        # The writer is told that it is done; what is there claims to be newer and stays.
        tables.remove_file(bucket.incarnation, tables.file(bucket.incarnation, key), None)
        tables.database.insert("files", bucket.incarnation, *file)
        return result

    commands._HANDLERS[PublishFile] = publish


def _cache_without_asking() -> None:
    from services.gateway.transfers.downloads import Downloads

    original = Downloads._look_up
    known: dict[Any, tuple[float, Any]] = {}

    async def look_up(self: Downloads, name: Any, number: Any, transfer: Any, early: Any) -> Any:
        found_at, found = known.get((name, number), (0.0, None))
        if found is None or time.monotonic() - found_at > 2.0:
            found = await original(self, name, number, transfer, early)
            known[name, number] = time.monotonic(), found
        return replace(found, transfer=transfer, early=early)

    Downloads._look_up = look_up  # type: ignore[method-assign]


def _shorten_the_log() -> None:
    from services.consensus import member as node
    from services.consensus.persistence.log_store import SqliteLogStore
    from services.consensus.raft.ports import LogDamagedError

    original = SqliteLogStore._load

    def load(self: SqliteLogStore) -> Any:
        while True:
            try:
                return original(self)
            except LogDamagedError:
                rows = self._database.execute(
                    "SELECT position, term, kind, payload, checksum FROM entries ORDER BY position"
                )
                expected = None
                for row in rows.fetchall():
                    expected = row[0] if expected is None else expected
                    try:
                        self._checked(expected, row)
                    except LogDamagedError:
                        break
                    expected += 1
                self._mark.write(min(self._mark.value, (expected or 1) - 1))
                self._database.execute("DELETE FROM entries WHERE position >= ?", (expected or 1,))

    SqliteLogStore._load = load  # type: ignore[method-assign]
    node._check_agreement = lambda *_: None


def _sync_again_after_a_failure() -> None:
    import os

    import shared.disk.durable_files
    from services.storage.disk.write_gate import WriteGate

    def sync_data(fd: int) -> None:
        for _ in range(2):
            try:
                os.fdatasync(fd)
            except OSError:
                continue
            return

    shared.disk.durable_files.sync_data = sync_data
    WriteGate.close = lambda _self, _reason: None  # type: ignore[method-assign]


def _clock_behind() -> None:
    from shared.timekeeping.time_client import TimeClient

    original = TimeClient.stamp
    # 48 bits of 2^-16 s above 16 bits of counter.
    ten_seconds = 10 << 32

    def stamp(self: TimeClient) -> Any:
        made = original(self)
        return made.model_copy(update={"hlc": max(0, made.hlc - ten_seconds)})

    TimeClient.stamp = stamp  # type: ignore[method-assign]


def _names_take_ten_seconds() -> None:
    import ipaddress
    import socket

    original = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            time.sleep(10.0)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution") from None
        return original(host, *rest, **options)

    socket.getaddrinfo = getaddrinfo


def _blocks_when_told() -> None:
    # Python runs it in the main thread, between two steps of the loop: the loop stands still, the other threads go on.
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(2.0))


def _gc_grace_zero() -> None:
    from services.consensus.metadata.retention import Sweep

    original = Sweep.released

    def released(self: Sweep, lived_ms: int, _retention_s: int) -> None:
        original(self, lived_ms, 0)

    Sweep.released = released  # type: ignore[method-assign]


def _delete_not_handed_off() -> None:
    from services.storage.reconcile.extra_chunks import ExtraChunks
    from services.storage.reconcile.follower import Follower

    original = Follower._apply
    caught_up = False

    async def apply(self: Follower, changes: Any) -> int:
        nonlocal caught_up
        followed = changes if caught_up else replace(changes, condemned=[])
        caught_up = caught_up or not changes.has_more
        return await original(self, followed)

    async def drop_orphans(*_: Any) -> set[bytes]:
        return set()

    Follower._apply = apply  # type: ignore[method-assign]
    ExtraChunks._drop_orphans = drop_orphans  # type: ignore[method-assign]


BUGS: Final = {
    bug.name: bug
    for bug in (
        Bug("no_directory_fsync", "storage", "a rename is not made durable", _no_directory_fsync),
        Bug("acknowledge_at_one", "gateway", "a chunk counts when one node has it", _acknowledge_at_one),
        Bug(
            "read_without_asking",
            "consensus",
            "reads from what a member has applied, no ReadIndex",
            _read_without_asking,
        ),
        Bug("believe_bytes", "*", "no digest is checked on a read", _believe_bytes),
        Bug("forget_votes", "consensus", "term and vote are written without fsync", _forget_votes),
        Bug("ignore_idempotency_keys", "gateway", "a request sent again happens again", _ignore_idempotency_keys),
        Bug("last_clock_wins", "consensus", "the greater timestamp is kept, not the later entry", _last_clock_wins),
        Bug(
            "cache_without_asking",
            "gateway",
            "metadata from a cache without asking for its version",
            _cache_without_asking,
        ),
        Bug("shorten_the_log", "consensus", "a log ends at its first bad entry, without a word", _shorten_the_log),
        Bug("sync_again_after_a_failure", "storage", "a failed fsync is tried again", _sync_again_after_a_failure),
        Bug("gc_grace_zero", "consensus", "the grace period of garbage is 0", _gc_grace_zero),
        Bug(
            "delete_not_handed_off",
            "storage",
            "a node that was away does not hear of what was deleted meanwhile",
            _delete_not_handed_off,
        ),
    )
}

FAULTS: Final = {
    fault.name: fault
    for fault in (
        Bug("clock_behind", "gateway", "all stamps are ten seconds behind", _clock_behind),
        Bug(
            "names_take_ten_seconds", "*", "no name can be looked up, and saying so takes 10 s", _names_take_ten_seconds
        ),
        Bug("blocks_when_told", "*", "SIGUSR2 holds the event loop for two seconds", _blocks_when_told),
    )
}
"""Not bugs, but what a process may meet; healthy code bears them."""
