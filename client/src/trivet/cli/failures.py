"""What commands themselves find wrong, beside the errors of the client."""

from __future__ import annotations

import click

from trivet.cli.exit_codes import ExitCode


class Failure(click.ClickException):
    """Ends the program with `code` and one line on standard error."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def not_found(what: object, advice: str = "") -> Failure:
    """There is nothing under that name."""
    return Failure(f"{what}: there is no such file or folder.{' ' if advice else ''}{advice}", ExitCode.NOT_FOUND)
