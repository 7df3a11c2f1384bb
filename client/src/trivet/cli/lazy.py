"""Commands that are imported when they are called, and the options that all of them have.

Click asks a group for its commands to show their names and first lines. Both stand in a table here, so that nothing is imported
for that: `trivet --help` costs what click costs.
"""

from __future__ import annotations

import functools
import importlib
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from trivet.cli.session import Session

_WIDTH: Final = 100
_NARROWEST: Final = 32
_ASKS_FOR_HELP: Final = {"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is not imported yet.

    Attributes:
        place: `module:attribute`, the module below `trivet.cli.commands`.
        summary: its line in the list of commands; the first one of its help.
    """

    place: str
    summary: str

    def load(self) -> click.Command:
        """Import it."""
        module, _, attribute = self.place.partition(":")
        command = getattr(importlib.import_module(f"trivet.cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command


class Command(click.Command):
    """A command with the options of `COMMON`, which its help shows behind its own."""

    def __init__(self, name: str | None, *, params: list[click.Parameter] | None = None, **settings: Any) -> None:
        settings.setdefault("context_settings", _ASKS_FOR_HELP)
        super().__init__(name, params=[*(params or []), *common_options()], **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Its own, then those of every command."""
        _format_options(self, ctx, formatter)


class Group(click.Group):
    """A group of commands, some of them not imported yet. Without a command it shows its help, or calls `default`."""

    command_class = Command

    def __init__(
        self,
        name: str | None,
        *,
        entries: Mapping[str, Entry] | None = None,
        sections: Mapping[str, Sequence[str]] | None = None,
        params: list[click.Parameter] | None = None,
        **settings: Any,
    ) -> None:
        settings.setdefault("context_settings", _ASKS_FOR_HELP)
        super().__init__(name, params=[*(params or []), *common_options()], **settings)
        self.entries = dict(entries or {})
        self._sections = sections

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """As narrow as the terminal: by itself click writes no help for less than fifty columns."""
        settings.setdefault("terminal_width", max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDTH)))
        return super().make_context(*arguments, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, those in the table first."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        entry = self.entries.get(cmd_name)
        return entry.load() if entry else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that was called. Raises click.UsageError, which names those that may be meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            similar = [name for name in self.list_commands(ctx) if name[:1] == args[0][:1]]
            known = f" Did you mean {' or '.join(similar)}?" if similar else ""
            raise click.UsageError(
                f"there is no command {args[0]!r}.{known} {ctx.command_path} --help shows all.", ctx
            ) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands, which click would show behind the options: people look for them first."""
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In sections, without importing any."""
        names = self.list_commands(ctx)
        width = max(map(len, names), default=0)
        for title, chosen in (self._sections or {"Commands": names}).items():
            rows = [(name.ljust(width), self._summary(ctx, name)) for name in chosen]
            with formatter.section(title):
                formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.entries:
            return self.entries[name].summary
        command = super().get_command(ctx, name)
        return command.get_short_help_str(_WIDTH) if command else ""


def common_options() -> list[click.Parameter]:
    """What every command takes, at any place behind `trivet`."""
    return [_common(names, **settings) for names, settings in COMMON.items()]


def asynchronous(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A coroutine function as a command's callback: it gets the session first, and runs on a loop of its own."""

    @functools.wraps(function)
    def run(*arguments: Any, **settings: Any) -> None:
        import asyncio  # takes a fifth of the time of `--help`

        session = click.get_current_context().ensure_object(Session)
        asyncio.run(function(session, *arguments, **settings))

    return run


COMMON: Final[Mapping[tuple[str, ...], Mapping[str, Any]]] = {
    ("--json",): {"is_flag": True, "help": "Print JSON: one document, or one line for each row."},
    ("--quiet", "-q"): {"is_flag": True, "help": "Print results and errors only."},
    ("--verbose", "-v"): {"is_flag": True, "help": "Show the store's whole answer to what failed."},
    ("--profile",): {"metavar": "NAME", "help": "A profile of the configuration (TRIVET_PROFILE)."},
    ("--url",): {"metavar": "URL", "help": "The gateway (TRIVET_URL)."},
    ("--operations-url",): {"metavar": "URL", "help": "Its operations port (TRIVET_OPERATIONS_URL)."},
    ("--key",): {"metavar": "FILE", "help": "A file with an access key (TRIVET_KEY)."},
}


def _common(names: tuple[str, ...], **settings: Any) -> click.Option:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            assert parameter.name is not None
            setattr(context.ensure_object(Session).options, parameter.name, value)

    option = click.Option(names, expose_value=False, callback=keep, **settings)
    option.is_common = True  # type: ignore[attr-defined] # a mark for `_format_options`
    return option


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        # Arguments stand in the line above.
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
            (common if getattr(parameter, "is_common", False) else own).append(record)
    for title, records in (("Options", own), ("Options of every command", common)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
