"""`trivet import`: buckets of another S3 server."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import words
from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.lazy import Command
from trivet.cli.output import Output
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet.import_s3.walk import Counts, Moved, Report

DEFAULT_S3_URL: Final = "http://127.0.0.1:9000"
SCHEME: Final = "s3://"
_SHOWN_PROBLEMS: Final = 20


@click.command("import", cls=Command)
@click.argument("buckets", nargs=-1, metavar="[s3://BUCKET]...")
@click.option("--source", required=True, metavar="URL", help="The server that is moved from.")
@click.option(
    "--source-key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="An access key of it."
)
@click.option("--source-region", default="us-east-1", show_default=True, metavar="NAME", help="That it signs for.")
@click.option(
    "--s3-url",
    envvar="TRIVET_S3_URL",
    default=DEFAULT_S3_URL,
    show_default=True,
    metavar="URL",
    help="Trivet's S3 port.",
)
@click.option("--s3-region", default="us-east-1", show_default=True, metavar="NAME", help="That Trivet is set to.")
@click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Keys at a time.")
@click.option("--current-only", is_flag=True, help="Leave out versions that were superseded.")
@click.option("--compare-only", is_flag=True, help="Bring nothing over.")
@click.option("--read-all", is_flag=True, help="Compare by reading all bytes, also where ETags are equal.")
@click.pass_obj
def import_s3(session: Session, /, buckets: tuple[str, ...], **chosen: Any) -> None:
    """Bring buckets over from another S3 server.

    Versions, delete markers, metadata and tags go over, and both sides are compared at the end; without a bucket, all that the
    source shows. Interrupted, the same command goes on. The source is left as it is. --source-key is a file with an id and a
    secret, on two lines or with a dot or a space between them; the key to Trivet is that of every command. Ends with 1 if
    anything differs. With --json each line is a bucket: bucket, is_complete, brought_over, read_to_compare, source, target and
    problems.
    """
    import httpx

    from trivet.import_s3.store import Store, StoreError
    from trivet.import_s3.walk import Import, Moved
    from trivet.import_s3.xml_documents import MalformedError

    session.interrupted = "Interrupted. The same command goes on where this one stopped."
    connections = 2 * chosen["workers"]
    try:
        source_key, source_secret = read_key(chosen["source_key"])
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    target_key, target_secret = _own_key(session)
    is_complete = True
    try:
        with (
            closing(Store(chosen["source"], source_key, source_secret, chosen["source_region"], connections)) as source,
            closing(Store(chosen["s3_url"], target_key, target_secret, chosen["s3_region"], connections)) as target,
        ):
            work = Import(
                source,
                target,
                workers=chosen["workers"],
                has_versions=not chosen["current_only"],
                reads_all=chosen["read_all"],
                pause=threading.Event().wait,
            )
            for bucket in [name.removeprefix(SCHEME).rstrip("/") for name in buckets] or source.buckets():
                moved = Moved() if chosen["compare_only"] else work.copy_bucket(bucket)
                report = work.compare(bucket)
                is_complete = is_complete and report.is_complete
                _show(session.output, report, moved)
    except httpx.HTTPError as error:
        raise Failure(f"a server cannot be reached: {error}", ExitCode.UNAVAILABLE) from error
    except (StoreError, MalformedError) as error:
        raise Failure(str(error), _code_of(error)) from error
    if not is_complete:
        raise click.exceptions.Exit(int(ExitCode.FAILED))


def read_key(path: Path) -> tuple[str, str]:
    """Id and secret. Raises ValueError, which shows nothing of what the file has."""
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    parts = text.split() if len(text.split()) == 2 else text.split(".", 1)
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{path} has no id and secret, on two lines or with a dot or a space between them")
    return parts[0], parts[1]


def _own_key(session: Session) -> tuple[str, str]:
    from trivet.config import resolve
    from trivet.errors import ConfigError

    chosen = session.options
    key = resolve(chosen.url, chosen.key, profile=chosen.profile).key
    if key is None:
        raise ConfigError("Trivet's S3 port needs a key: set --key or TRIVET_KEY to a file that holds one.")
    return key.id, key.secret


def _code_of(error: Exception) -> ExitCode:
    status = getattr(error, "status", 0)
    by_status = {401: ExitCode.NOT_ALLOWED, 403: ExitCode.NOT_ALLOWED, 404: ExitCode.NOT_FOUND, 507: ExitCode.FULL}
    return by_status.get(status, ExitCode.UNAVAILABLE if getattr(error, "may_pass", False) else ExitCode.FAILED)


def _show(output: Output, report: Report, moved: Moved) -> None:
    problems = [*report.problems, *moved.failures.items()]
    if output.is_json:
        output.document(
            {
                "bucket": report.bucket,
                "is_complete": report.is_complete,
                "brought_over": moved.count,
                "read_to_compare": report.read_to_compare,
                "source": _counts(report.source),
                "target": _counts(report.target),
                "problems": dict(problems),
            }
        )
        return
    verdict = output.paint("complete", "good") if report.is_complete else output.paint("DIFFERS", "bad")
    output.result(
        f"{report.bucket}: {verdict}; {moved.count} brought over, {report.read_to_compare} read to be compared"
    )
    for name, counts in (("source", report.source), ("target", report.target)):
        output.result(
            f"  {name}: {counts.keys} keys, {counts.versions} versions, {counts.markers} delete markers, "
            f"{words.size(counts.size_bytes)}"
        )
    for key, problem in problems[:_SHOWN_PROBLEMS]:
        output.result(f"  {words.visible(key)!r}: {problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        output.result(f"  and {len(problems) - _SHOWN_PROBLEMS} keys more")
    output.flush()


def _counts(counts: Counts) -> dict[str, int]:
    return {
        "keys": counts.keys,
        "versions": counts.versions,
        "markers": counts.markers,
        "size_bytes": counts.size_bytes,
    }
