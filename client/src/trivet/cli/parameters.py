"""Kinds of arguments: addresses that a shell can complete, sizes, lengths of time, ranges, names with values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from trivet.cli import words


class Completed(click.ParamType[Any]):
    """Text that is read later, and that a shell completes by a function of `trivet.cli.completing`."""

    def __init__(self, name: str, completer: str) -> None:
        self.name = name
        self._completer = completer

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What begins with `incomplete`."""
        from trivet.cli import completing

        _ = param
        offered: list[CompletionItem] = getattr(completing, self._completer)(ctx, incomplete)
        return offered


class Parsed(click.ParamType[Any]):
    """A text that a function reads, which says in a ValueError why it cannot. `none` is a word that stands for nothing."""

    def __init__(self, name: str, parse: Callable[[str], Any], none: str | None = None) -> None:
        self.name = name
        self._parse = parse
        self._none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the function makes of it."""
        if not isinstance(value, str):
            return value
        if self._none is not None and value == self._none:
            return self._none
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_pair(text: str) -> tuple[str, str]:
    """`name=value`. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is not of the form NAME=VALUE.")
    return name, value


def parse_range(text: str) -> tuple[int, int | None]:
    """First byte and the one behind the last, of `0-99`, `100-` or `-100`, the last hundred (start -100). Raises ValueError."""
    first, dash, last = text.partition("-")
    if not dash or not (first or last) or not (first + last).isdecimal():
        raise ValueError(f"{text!r} is no range; write it as 0-99, 100- or -100 (the last hundred bytes).")
    if not first:
        return -int(last), None
    return int(first), int(last) + 1 if last else None


REMOTE: Final = Completed("address", "complete_remote")
ADDRESS: Final = Completed("address", "complete_address")
NODE: Final = Completed("node", "complete_node")
PROFILE: Final = Completed("profile", "complete_profile")
SIZE: Final = Parsed("size", words.parse_size)
DURATION: Final = Parsed("time", words.parse_duration_s)
PAIR: Final = Parsed("name=value", parse_pair)
RANGE: Final = Parsed("range", parse_range)
