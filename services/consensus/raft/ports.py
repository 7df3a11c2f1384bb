"""What the engine asks of the world, as protocols: durable storage, blocking work, the network, the state machine.

The real ones are in `services.consensus.persistence` (`log_store`, `hard_state`, `runner`, `adapter`) and `peering.mesh`; the
simulator has its own, which pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypedDict, TypeVar

from services.consensus.raft.configuration import Configuration
from services.consensus.raft.decide import LogPosition

if TYPE_CHECKING:
    # It imports this module.
    from services.consensus.raft.messages import Message

ResultT = TypeVar("ResultT")


class EntryKind(IntEnum):
    """What an entry's payload is."""

    NO_OP = 0
    COMMAND = 1
    CONFIGURATION = 2


class Entry(NamedTuple):
    """One log entry; its index is its place."""

    term: int
    kind: int
    payload: bytes


class StoredLog(NamedTuple):
    """What a log store holds at start.

    Attributes:
        base: position of the last entry that was cut away because a checkpoint covers it; (0, 0) for a whole log.
        terms: (first index, term) of every run of equal terms, ascending.
        configurations: (index, payload) of every configuration entry still in the log, ascending, after the one that was
            in force at `base` (if any, with its own index).
        last_index: of the last durable entry; `base.index` for an empty log.
        size_marks: (index, bytes of all payloads from the base up to it), ascending, one in `SIZE_MARK_ENTRIES` or so.
    """

    base: LogPosition
    terms: list[tuple[int, int]]
    configurations: list[tuple[int, bytes]]
    last_index: int
    size_marks: list[tuple[int, int]]


SIZE_MARK_ENTRIES = 256


class SnapshotFields(NamedTuple):
    """A `SnapshotMeta` as it travels in a message and stands in files."""

    last_index: int
    last_term: int
    configuration_index: int
    configuration: bytes
    size_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot is, apart from its bytes.

    Attributes:
        position: of the last entry whose effect it holds.
        configuration_index, configuration: the membership in force there; index 0 and nothing when there was none.
        size_bytes, digest: of its bytes; BLAKE3-256. Equal digest, equal snapshot: it names a transfer that is resumed.
    """

    position: LogPosition
    configuration_index: int
    configuration: bytes
    size_bytes: int
    digest: bytes

    def to_wire(self) -> SnapshotFields:
        """As it travels in a message and stands in files."""
        return SnapshotFields(
            self.position.index,
            self.position.term,
            self.configuration_index,
            self.configuration,
            self.size_bytes,
            self.digest,
        )

    @classmethod
    def from_wire(cls, fields: SnapshotFields) -> Self:
        """The inverse of `to_wire`."""
        position = LogPosition(index=fields.last_index, term=fields.last_term)
        return cls(position, fields.configuration_index, fields.configuration, fields.size_bytes, fields.digest)


class LogStore(Protocol):
    """A durable, checked sequence of entries. Methods block and are called from one thread at a time."""

    def load(self) -> StoredLog:
        """Verify every entry and describe the log. Raises LogDamagedError."""

    def write(self, erase_from: int | None, first_index: int, entries: Sequence[Entry]) -> None:
        """Erase everything from `erase_from` on, append `entries` at `first_index`; durable when it returns, as one."""

    def read(self, first_index: int, last_index: int, *, max_bytes: int) -> list[Entry]:
        """The entries of that inclusive range, checked; at least one, and no more once their payloads exceed `max_bytes`.

        Raises LogDamagedError.
        """

    def cut(self, index: int) -> bool:
        """Drop entries up to `index`, which a durable checkpoint covers; a slice at a time, so that no write waits long.

        The position of the last one and the configuration in force there are kept. Durable when it returns; False when
        there is more to drop. The end of the log stays: there is always an entry behind `index`, or its position.
        """

    def reset(self, base: LogPosition, configuration: tuple[int, bytes] | None) -> None:
        """Become an empty log that begins behind `base`, because a snapshot up to there was installed. Durable, as one."""


class HardStateChange(TypedDict, total=False):
    """What of term and vote is set; raftos writes it as a dict."""

    term: int
    voted_for: str | None


class HardStateStore(Protocol):
    """Term and vote (figure 2, "Persistent state"). raftos' name for it is `storage`, and `update` is raftos' verb."""

    @property
    def term(self) -> int:
        """The latest term this member has seen."""

    @property
    def voted_for(self) -> str | None:
        """Whom it voted for in that term."""

    def update(self, change: HardStateChange) -> None:
        """Set `term` and/or `voted_for`; durable, as one write, when it returns."""


class BlockingRunner(Protocol):
    """Runs blocking work off the loop, in order, one at a time."""

    def submit(self, work: Callable[[], ResultT], done: Callable[[ResultT | None, BaseException | None], None]) -> None:
        """Run `work()`; then call `done(result, error)` on the loop. Nothing is called after the process has died."""


class StateMachine(Protocol):
    """Applies committed entries, deterministically, in order, each exactly once."""

    @property
    def last_applied(self) -> int:
        """Index of the last entry whose effect it holds (possibly more than is durable; never less after `apply`)."""

    @property
    def installed(self) -> SnapshotMeta | None:
        """The snapshot that this state began as, if it did: what a crash in the middle of an installation is told by."""

    def apply(self, first_index: int, entries: Sequence[Entry]) -> Sequence[object]:
        """Apply consecutive entries from `first_index`; one result each (None for no-ops and configurations). Blocks.

        It may apply fewer than it was given, but for the first. Raises CannotApplyError when that one is not known here.
        """

    def checkpoint(self) -> int:
        """Make what is applied durable. Returns the index up to which it survives a power cut. Blocks, beside `apply`.

        Every error means that what is durable is not known any more.
        """

    def take_snapshot(self) -> Snapshot:
        """A consistent copy of the state, at `last_applied` or later. Blocks, beside `apply`; one at a time."""

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Keep a piece of a snapshot if it goes on where the last one ended. Returns how many bytes are held.

        Pieces outlive a restart; those of another snapshot are dropped. Blocks; never beside `apply`.
        """

    def install(self, meta: SnapshotMeta) -> None:
        """Become the received snapshot: checked, durable and in one step, as `installed` says from then on.

        Blocks; never beside `apply`.

        Raises:
            SnapshotDamagedError: the bytes are not that snapshot; they were dropped, and the state is as it was.
        """


class Snapshot(Protocol):
    """A copy of the state that does not change any more. Methods block."""

    @property
    def last_applied(self) -> int:
        """Index of the last entry whose effect it holds."""

    @property
    def size_bytes(self) -> int:
        """Of the whole copy."""

    @property
    def digest(self) -> bytes:
        """BLAKE3-256 of the whole copy."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """That part; shorter at the end."""

    def close(self) -> None:
        """Delete the copy."""


class Network(Protocol):
    """Carries messages to other members: may lose, repeat, delay and reorder them."""

    def post(self, message: Message, destination: str) -> None:
        """Send without waiting."""

    def configure(self, configuration: Configuration) -> None:
        """Keep connections to exactly these members."""


class Observer(Protocol):
    """Who wants to know what the engine decided."""

    def commit_advanced(self, commit_index: int) -> None:
        """Entries up to here are committed; those that are durable here as well may be applied."""

    def role_changed(self) -> None:
        """The member became follower, candidate or leader, or learnt of another leader."""

    def configuration_changed(self) -> None:
        """Another configuration is in force."""

    def fatal(self, error: BaseException) -> None:
        """Durability cannot be promised any more: end the process (a failed fsync is never retried)."""


class CannotApplyError(Exception):
    """An entry that this member cannot apply. It keeps the log and votes, but applies nothing from here on, and does not lead."""


class LogDamagedError(Exception):
    """Acknowledged entries are unreadable or missing. The member must stop; it never goes on with a shorter log."""


class SnapshotDamagedError(Exception):
    """What was received is not the snapshot that was announced, or it cannot be used here."""


class LogUnavailableError(Exception):
    """The log cannot be opened or read now (permissions, a lock, a failing disk); nothing says that it is damaged."""
