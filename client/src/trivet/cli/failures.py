"""What commands themselves find wrong, beside the errors of the client; and any error in one line, with what to do next."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

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


_ADVICE: Final[dict[str, str]] = {
    "unauthenticated": "Set --key or TRIVET_KEY to a file that holds an access key.",
    "credential_invalid": "It may be disabled, at its end, or of another cluster: trivet doctor.",
    "access_denied": "trivet keys whoami shows what this key may do; whoever runs the cluster can give it more.",
    "bucket_not_empty": "trivet rb --force deletes all that is in it before, with all versions.",
    "precondition_failed": "Somebody changed it meanwhile, or it is there already.",
    "disk_full": "Delete files, or add a storage node: trivet cluster add NAME.",
}
"""What to do next, in terms of this program; the client's own advice is about its calls."""


def explain(error: BaseException) -> str:
    """What went wrong and what to do, in one line."""
    from trivet.errors import BucketNotFound, FileNotFound, ProblemError, TrivetError

    if isinstance(error, Failure):
        return error.format_message()
    if isinstance(error, BucketNotFound):
        name = error.problem.get("bucket") or (_file_in(error.problem) or "NAME").partition("/")[0]
        return f"There is no bucket {name}. trivet ls lists those that there are, trivet mb {name} makes it."
    if isinstance(error, FileNotFound) and (name := _file_in(error.problem)):
        return f"{name}: {error.detail} trivet ls shows what there is, trivet versions what there was."
    if isinstance(error, ProblemError) and (error.code in _ADVICE or not error.definite):
        unsure = "" if error.definite else "It may have happened all the same: look before you repeat it."
        return f"{error.detail or error.title or error.status} ({error.code}) {_ADVICE.get(error.code, unsure)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    is_known = isinstance(error, TrivetError | OSError)
    return str(error) if is_known else f"a defect of this program: {type(error).__name__}: {error}. Please report it."


def _file_in(problem: dict[str, Any]) -> str | None:
    """Of the path that was asked for, as `/v1/files/photos/cat.jpg`; calls with a body name none there."""
    _, _, place = str(problem.get("instance") or "").partition("/v1/files/")
    return unquote(place) or None
