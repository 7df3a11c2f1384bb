"""What the engine asks of the world, as protocols: durable storage, blocking work, the network, the state machine.

The real adapters stand in `services.consensus` (`log_store`, `peers`, `applier`); the simulator brings its own, which pass
the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from services.consensus.raft.decide import LogPosition


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
    """

    base: LogPosition
    terms: list[tuple[int, int]]
    configurations: list[tuple[int, bytes]]
    last_index: int


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


class HardStateStore(Protocol):
    """Term and vote (figure 2, "Persistent state"). raftos' name for it is `storage`, and `update` is raftos' verb."""

    @property
    def term(self) -> int:
        """The latest term this member has seen."""

    @property
    def voted_for(self) -> str | None:
        """Whom it voted for in that term."""

    def update(self, change: dict[str, Any]) -> None:
        """Set `term` and/or `voted_for`; durable, as one write, when it returns."""


class BlockingRunner(Protocol):
    """Runs blocking work off the loop, in order, one at a time."""

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run `work()`; then call `done(result, error)` on the loop. Nothing is called after the process has died."""


class StateMachine(Protocol):
    """Applies committed entries, deterministically, in order, each exactly once."""

    @property
    def last_applied(self) -> int:
        """Index of the last entry whose effect it holds (possibly more than is durable; never less after `apply`)."""

    def apply(self, first_index: int, entries: Sequence[Entry]) -> list[Any]:
        """Apply consecutive entries from `first_index`; one result each (None for no-ops and configurations). Blocks."""


class Network(Protocol):
    """Carries messages to other members: may lose, repeat, delay and reorder them."""

    def post(self, message: dict[str, Any], destination: str) -> None:
        """Send without waiting; `message` is msgpack-able."""

    def configure(self, configuration: Any) -> None:
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


class LogDamagedError(Exception):
    """Acknowledged entries are unreadable or missing. The member must stop; it never goes on with a shorter log."""
