"""The program: its commands by name, and what it ends with when one of them fails."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import click

from trivet.cli.exit_codes import ExitCode, exit_code_of
from trivet.cli.failures import Failure, explain
from trivet.cli.lazy import Entry, Group
from trivet.cli.session import Session

ENTRIES: Final[Mapping[str, Entry]] = {
    "cp": Entry("cp:cp", "Copy files to, from or within the store."),
    "sync": Entry("sync:sync", "Make one folder or bucket like another, moving only what differs."),
    "ls": Entry("ls:ls", "List buckets, or the files below an address."),
    "tree": Entry("tree:tree", "Draw the files below an address as a tree."),
    "cat": Entry("cat:cat", "Write files to standard output."),
    "stat": Entry("stat:stat", "Show what is known about a file or a bucket."),
    "du": Entry("du:du", "Add up the sizes of what is below an address."),
    "mv": Entry("mv:mv", "Rename files within the store, without moving their bytes."),
    "rm": Entry("rm:rm", "Delete files."),
    "versions": Entry("versions:versions", "List the versions of a file, the newest first."),
    "restore": Entry("versions:restore", "Make an older version of a file the current one."),
    "share": Entry("share:share", "Make a link that works without a key until it expires."),
    "mb": Entry("buckets:mb", "Make buckets."),
    "rb": Entry("buckets:rb", "Delete buckets."),
    "buckets": Entry("buckets:buckets", "List, make, delete and set up buckets."),
    "cluster": Entry("cluster:cluster", "Look at the cluster and change which nodes it has."),
    "keys": Entry("keys:keys", "Make, list, replace and delete access keys."),
    "doctor": Entry("doctor:doctor", "Find what is wrong, and say what to do."),
    "import": Entry("import_s3:import_s3", "Bring buckets over from another S3 server."),
    "profile": Entry("profile:profile", "Keep addresses and keys of stores under names."),
    "completion": Entry(
        "completion:completion", "Print what makes a shell complete commands, options, buckets and keys."
    ),
}
SECTIONS: Final[Mapping[str, Sequence[str]]] = {
    "Files": ("cp", "sync", "ls", "tree", "cat", "stat", "du", "mv", "rm", "versions", "restore", "share"),
    "Buckets": ("mb", "rb", "buckets"),
    "Running a store": ("cluster", "keys", "doctor", "import"),
    "This program": ("profile", "completion"),
}
COMPLETE_VARIABLE: Final = "_TRIVET_COMPLETE"
_GARBAGE_OBJECTS: Final = 50_000


@click.group(cls=Group, name="trivet", entries=ENTRIES, sections=SECTIONS)
@click.version_option(package_name="trivet-client", message="%(prog)s %(version)s")
@click.pass_context
def program(context: click.Context) -> None:
    """Work with a Trivet store: copy files in and out, share them, look after the cluster.

    A file of the store is trivet://BUCKET/KEY, or BUCKET/KEY in short. Which store it is, and with which key, is said by options,
    by TRIVET_URL and TRIVET_KEY, or by a profile.
    """
    context.ensure_object(Session)


def main() -> NoReturn:
    """Entry point of the program."""
    # Nearly all that a call makes, modules first, lives until its end: it need not be looked through for garbage again and again.
    gc.set_threshold(_GARBAGE_OBJECTS)
    for stream in (sys.stdout, sys.stderr):
        # A name of this machine need not be UTF-8, and a terminal need not show every character.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _end(run(Session(), sys.argv[1:]))


def run(session: Session, arguments: Sequence[str]) -> int:
    """Run the program and return the code that it ends with; whatever fails is one line on standard error."""
    if COMPLETE_VARIABLE in os.environ:
        from trivet.cli import shells

        shells.register()
    try:
        result = program.main(
            list(arguments), prog_name="trivet", standalone_mode=False, obj=session, complete_var=COMPLETE_VARIABLE
        )
        session.output.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail(session, str(session.interrupted) or "Interrupted.", ExitCode.INTERRUPTED)
    except (BrokenPipeError, SystemExit):
        # Click makes the latter of the former, and of nothing else.
        _silence(sys.stdout)
        return ExitCode.CLOSED_PIPE
    except click.ClickException as error:
        return _fail_by_click(session, error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person gets a sentence, never a traceback
        return _fail_by(session, error)
    return result if isinstance(result, int) else ExitCode.DONE


def _fail_by_click(session: Session, error: click.ClickException) -> int:
    said = error.format_message().rstrip()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # Its message is the whole help. Nothing was asked for, so it is no result.
        if session.output.is_json:
            return _fail(session, "Missing command.", ExitCode.USAGE)
        click.echo(said, err=True)
        return ExitCode.USAGE
    if isinstance(error, Failure):
        return _fail(session, said, error.code)
    if not isinstance(error, click.UsageError):
        return _fail(session, said, ExitCode.FAILED)
    hint = f" {error.ctx.command_path} --help shows how to call it." if error.ctx and "--help" not in said else ""
    return _fail(session, said + hint, ExitCode.USAGE)


def _fail_by(session: Session, error: Exception) -> int:
    from trivet import errors

    code = exit_code_of(error)
    if isinstance(error, errors.TrivetError):
        return _fail(session, explain(error), code, getattr(error, "problem", None))
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(session, place + explain(error), code)
    if session.options.verbose:
        import traceback

        traceback.print_exc()
    return _fail(
        session, f"a defect of this program: {type(error).__name__}: {error}. -v shows where; please report it.", code
    )


def _fail(session: Session, message: str, code: ExitCode, problem: Mapping[str, object] | None = None) -> int:
    try:
        session.output.fail(message, int(code), problem)
    except BrokenPipeError:
        _silence(sys.stderr)
    return code


def _end(code: int) -> NoReturn:
    """End the process at once: an interpreter that takes itself apart, object by object, makes a short call longer.

    Nothing waits for that: loops and their threads ended with the command, and the client registers nothing for the end.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            code = code or ExitCode.CLOSED_PIPE
        except (OSError, ValueError):
            code = code or ExitCode.FAILED
    os._exit(code)


def _silence(stream: object) -> None:
    """What is still to be written goes nowhere, and is no error: the reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined] # both callers hand a file over


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
