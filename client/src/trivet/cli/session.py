"""What one call of the program works with: the common options, the output, and the client, which is opened when it is needed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import click

from trivet.cli import words
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.output import Output

if TYPE_CHECKING:  # imported when a client is opened: `--help` needs none
    from trivet import AsyncClient

_CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables of OpenSSL."""


@dataclass(slots=True)
class Options:
    """The options that every command has, as they were given; None and False where they were not."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    profile: str | None = None
    url: str | None = None
    operations_url: str | None = None
    key: str | None = None


@dataclass
class Session:
    """One call of the program."""

    options: Options = field(default_factory=Options)
    interrupted: object = ""
    """What is said at Ctrl-C, as text; empty for no more than that."""

    @cached_property
    def output(self) -> Output:
        """Where results, remarks and progress go."""
        return Output(is_json=self.options.json, is_quiet=self.options.quiet, is_verbose=self.options.verbose)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """The client of the store that options, environment and configuration name.

        Raises:
            trivet.errors.ConfigError: the profile or the key cannot be read.
        """
        chosen = self.options
        async with _client_class()(
            chosen.url, chosen.key, operations_url=chosen.operations_url, profile=chosen.profile
        ) as client:
            with _remarks(self.output):
                yield client

    def confirm(self, question: str) -> None:
        """Go on after a yes. Nobody is asked where nobody can answer.

        Raises:
            Failure: the answer is no; or standard input is no terminal.
        """
        if not sys.stdin.isatty():
            raise Failure(f"{question} Nobody can be asked here; --yes goes ahead.", ExitCode.USAGE)
        # In a loop, Ctrl-C only asks the task to end, which this one would not hear while it waits for an answer.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            is_confirmed = click.confirm(words.visible(question), err=True)
        finally:
            signal.signal(signal.SIGINT, handler)
        if not is_confirmed:
            raise Failure("Nothing was done.", ExitCode.REFUSED)


@contextmanager
def _remarks(output: Output) -> Iterator[None]:
    """What the client logs, such as that it waits for the store, as remarks of the program."""
    import logging  # with the client, which imports it: `--help` needs none

    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: output.say(f"trivet: {record.getMessage()}")  # type: ignore[method-assign] # no class for it
    logger = logging.getLogger("trivet")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _client_class() -> type[AsyncClient]:
    """Imported when it is needed.

    aiohttp reads the certificates that this machine trusts when it is imported, twice: a fifth of a short call. It finds none,
    and `trivet.transport` reads them where an address is one of https.
    """
    kept = {name: os.environ.pop(name, None) for name in _CERTIFICATES}
    os.environ.update(dict.fromkeys(_CERTIFICATES, os.devnull))
    try:
        from trivet import AsyncClient
    finally:
        for name, value in kept.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
    return AsyncClient
