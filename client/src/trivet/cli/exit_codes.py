"""What the program ends with, and which error means what. A test holds docs/cli.md, "Exit codes", against it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Codes that scripts may rely on.

    Attributes:
        DONE: everything that was asked for is done.
        FAILED: something else failed; or some of several files did, or differ.
        USAGE: the arguments or the configuration are wrong; nothing was tried.
        NOT_FOUND: the file, version, bucket, node or key is not there.
        REFUSED: a condition does not hold, a conflict, a quota, or a question that was answered with no.
        NOT_ALLOWED: no key, a wrong one, or one that may not do this.
        UNAVAILABLE: the store cannot be reached or cannot do it now; the same call may succeed later.
        FULL: there is no room left.
        DAMAGED: the bytes that came are not those that were stored.
        INTERRUPTED: Ctrl-C.
        CLOSED_PIPE: the reader of the output went away, as `head` does.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    NOT_ALLOWED = 5
    UNAVAILABLE = 6
    FULL = 7
    DAMAGED = 8
    INTERRUPTED = 130
    CLOSED_PIPE = 141


def exit_code_of(error: BaseException) -> ExitCode:
    """The code that the program ends with when `error` stopped it."""
    from trivet import errors  # imported late: `--help` needs none of it

    table: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
        ((errors.ConfigError,), ExitCode.USAGE),
        ((errors.BadRequest,), ExitCode.USAGE),
        ((errors.NotFound, FileNotFoundError), ExitCode.NOT_FOUND),
        ((errors.Unauthorized,), ExitCode.NOT_ALLOWED),
        ((errors.QuotaExceeded,), ExitCode.REFUSED),
        ((errors.Forbidden,), ExitCode.NOT_ALLOWED),
        ((errors.Conflict, errors.PreconditionFailed, errors.TransferInProgress), ExitCode.REFUSED),
        ((errors.OutOfSpace,), ExitCode.FULL),
        ((errors.DigestMismatch,), ExitCode.DAMAGED),
        (
            (
                errors.TooManyRequests,
                errors.Unavailable,
                errors.CursorExpired,
                errors.ConnectionFailed,
                errors.BrokenDownload,
            ),
            ExitCode.UNAVAILABLE,
        ),
    )
    for classes, code in table:
        if isinstance(error, classes):
            return code
    return ExitCode.FAILED
