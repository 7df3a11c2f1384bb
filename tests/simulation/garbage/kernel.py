"""Steps of many processes and the messages between them, in an order that one seed decides.

A process is a generator that belongs to a party (a storage node, a gateway, the leader). What it does between two `yield`s
is one atomic step, so a process yields wherever the product may be interrupted and nowhere else. Every message may be late,
lost before or after it was carried out, or carried out after its sender gave up; none comes twice, because what could come
twice in the product, a proposal, is proposed again by its sender.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

from shared.errors import TrivetError

_LATE: Final = 0.12
"""Share of messages that are overtaken by most others."""
_LATE_CHOSEN: Final = 0.05


class MessageLostError(Exception):
    """No answer came in time: the request may have been carried out, or may be later."""


@dataclass(frozen=True, slots=True)
class Call:
    """Ask `party`: the process goes on with what `handler` returns there, or with what it raises.

    A handler that is a generator is a process of `party`.
    """

    party: Party
    handler: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when the condition holds."""

    condition: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Pause:
    """Go on later: others may come in between."""


Steps = Generator[Call | Wait | Pause, Any, Any]


@dataclass(slots=True, eq=False)
class Party:
    """One process of the operating system. What it was doing ends with its run."""

    name: str
    is_up: bool = True
    is_paused: bool = False
    run: int = 0


@dataclass(slots=True, eq=False)
class _Process:
    party: Party
    run: int
    steps: Steps
    on_end: Callable[[Any, BaseException | None], None]

    @property
    def is_alive(self) -> bool:
        return self.party.is_up and self.party.run == self.run


@dataclass(slots=True, eq=False)
class _Event:
    party: Party
    act: Callable[[], None]
    is_late: bool


@dataclass(slots=True)
class Kernel:
    """The pool of what may happen next."""

    chance: random.Random
    loss: float = 0.04
    step_count: int = 0
    cuts: list[tuple[str, str]] = field(default_factory=list)
    _events: list[_Event] = field(default_factory=list)
    _waiting: list[tuple[_Process, Callable[[], bool]]] = field(default_factory=list)
    _handlers: list[_Process] = field(default_factory=list)

    def spawn(
        self, party: Party, steps: Steps, on_end: Callable[[Any, BaseException | None], None] | None = None
    ) -> None:
        """Begin a process; `on_end` gets its result, or why it ended without one."""
        process = _Process(party, party.run, steps, on_end or _raise_defects)
        self._add(party, lambda: self._resume(process))

    def crash(self, party: Party) -> None:
        """End everything that `party` was doing; those who wait for its answers get none."""
        party.is_up = False
        party.run += 1
        ended = [process for process in self._handlers if process.party is party]
        self._handlers = [process for process in self._handlers if process.party is not party]
        for process in ended:
            process.on_end(None, MessageLostError())

    def start(self, party: Party) -> None:
        """A new run."""
        party.is_up = True
        party.is_paused = False

    def step(self) -> bool:
        """Let one thing happen; False when there is nothing that can."""
        self._wake()
        for _ in range(8):
            if not self._events:
                return False
            at = self.chance.randrange(len(self._events))
            event = self._events[at]
            if event.party.is_paused or (event.is_late and self.chance.random() > _LATE_CHOSEN):
                continue
            self._events[at] = self._events[-1]
            self._events.pop()
            self.step_count += 1
            event.act()
            return True
        return any(not event.party.is_paused for event in self._events)

    def hold(self, party: Party) -> list[Any]:
        """Take away what `party` would do next; for a schedule that is written down. See `release`."""
        held = [event for event in self._events if event.party is party]
        self._events = [event for event in self._events if event.party is not party]
        return held

    def release(self, held: list[Any]) -> None:
        """Give it back."""
        self._events += held

    def run_until_idle(self, limit: int) -> int:
        """Let everything happen that is under way; how many steps that took.

        Raises:
            AssertionError: there was more after `limit` steps.
        """
        before = self.step_count
        while self.step():
            assert self.step_count - before < limit, f"what is under way does not end within {limit} steps"
        return self.step_count - before

    def _add(self, party: Party, act: Callable[[], None]) -> None:
        self._events.append(_Event(party, act, self.chance.random() < _LATE and self.loss > 0))

    def _wake(self) -> None:
        for entry in list(self._waiting):
            process, condition = entry
            if not process.is_alive:
                self._waiting.remove(entry)
            elif condition():
                self._waiting.remove(entry)
                self._add(process.party, lambda process=process: self._resume(process))

    def _resume(self, process: _Process, value: Any = None, error: BaseException | None = None) -> None:
        if not process.is_alive:
            return
        try:
            effect = process.steps.send(value) if error is None else process.steps.throw(error)
        except StopIteration as end:
            process.on_end(end.value, None)
        except (MessageLostError, TrivetError) as end:
            process.on_end(None, end)
        else:
            self._perform(process, effect)

    def _perform(self, process: _Process, effect: Call | Wait | Pause) -> None:
        match effect:
            case Call(party=party):
                self._add(party, lambda: self._deliver(process, effect))
            case Wait(condition=condition):
                self._waiting.append((process, condition))
            case Pause():
                self._add(process.party, lambda: self._resume(process))

    def _deliver(self, process: _Process, call: Call, *, is_abandoned: bool = False) -> None:
        asker, party = process.party, call.party
        is_cut = (asker.name, party.name) in self.cuts or (party.name, asker.name) in self.cuts
        if is_cut or not party.is_up or (not is_abandoned and self._is_lost()):
            if not is_abandoned:
                self._answer(process, None, MessageLostError())
            return
        if not is_abandoned and self._is_lost():
            self._answer(process, None, MessageLostError())
            self._add(party, lambda: self._deliver(process, call, is_abandoned=True))
            return
        answer = _ignore if is_abandoned else lambda value, error: self._answer(process, value, error)
        try:
            result = call.handler()
        except TrivetError as error:
            answer(None, error)
            return
        if isinstance(result, Generator):
            self._handle(party, result, answer)
        else:
            answer(result, None)

    def _handle(self, party: Party, steps: Steps, answer: Callable[[Any, BaseException | None], None]) -> None:
        def end(value: Any, error: BaseException | None) -> None:
            if process in self._handlers:
                self._handlers.remove(process)
            answer(value, error)

        process = _Process(party, party.run, steps, end)
        self._handlers.append(process)
        self._resume(process)

    def _answer(self, process: _Process, value: Any, error: BaseException | None) -> None:
        if self._is_lost():
            value, error = None, MessageLostError()
        self._add(process.party, lambda: self._resume(process, value, error))

    def _is_lost(self) -> bool:
        return self.chance.random() < self.loss


def _ignore(_value: Any, _error: BaseException | None) -> None:
    """Nobody waits for it."""


def _raise_defects(_value: Any, error: BaseException | None) -> None:
    """A process that ends by a refusal or for want of an answer has ended as processes do."""
    assert error is None or isinstance(error, MessageLostError | TrivetError)
