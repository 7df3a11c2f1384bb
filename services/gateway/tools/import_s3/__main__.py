"""The command line of the importer."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx

from services.gateway.tools.import_s3.store import Store, StoreError
from services.gateway.tools.import_s3.walk import Import, Moved, Report
from shared.private_process import make_process_private
from shared.units import MIB

DEFAULT_TARGET: Final = "http://127.0.0.1:9000"
DEFAULT_KEY_FILE: Final = Path(".local/secrets/root-key")
_SHOWN_PROBLEMS: Final = 20


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m services.gateway.tools.import_s3",
        description="Bring buckets over from another S3 server, with versions, metadata and tags (docs/migrate.md).",
        epilog="A key file has an id and a secret, on two lines or with a dot or a space between them.",
    )
    top.add_argument("buckets", nargs="*", help="all that the source shows, if none is named")
    top.add_argument("--source", required=True, metavar="URL")
    top.add_argument("--source-key", required=True, type=Path, metavar="FILE")
    top.add_argument("--source-region", default="us-east-1", metavar="NAME")
    top.add_argument("--target", default=DEFAULT_TARGET, metavar="URL", help=f"Trivet's S3 port ({DEFAULT_TARGET})")
    top.add_argument("--target-key", default=DEFAULT_KEY_FILE, type=Path, metavar="FILE", help=f"({DEFAULT_KEY_FILE})")
    top.add_argument("--target-region", default="us-east-1", metavar="NAME")
    top.add_argument("--workers", type=int, default=16, help="keys at a time (16)")
    top.add_argument("--current-only", action="store_true", help="leave out versions that were superseded")
    top.add_argument("--compare-only", action="store_true", help="bring nothing over")
    top.add_argument("--read-all", action="store_true", help="compare by reading all bytes, also where ETags are equal")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends with 1 when anything differs."""
    make_process_private()
    asked = parser().parse_args(arguments)
    try:
        with (
            closing(_open(asked.source, asked.source_key, asked.source_region, asked.workers)) as source,
            closing(_open(asked.target, asked.target_key, asked.target_region, asked.workers)) as target,
        ):
            reports = _run(asked, source, target)
    except (StoreError, httpx.HTTPError, ValueError) as error:
        raise SystemExit(f"trivet: {error}") from error
    raise SystemExit(0 if all(report.is_complete for report in reports) else 1)


def _run(asked: argparse.Namespace, source: Store, target: Store) -> list[Report]:
    work = Import(
        source,
        target,
        workers=asked.workers,
        has_versions=not asked.current_only,
        reads_all=asked.read_all,
        pause=threading.Event().wait,
    )
    reports = []
    for bucket in asked.buckets or source.buckets():
        copied = Moved() if asked.compare_only else work.copy_bucket(bucket)
        report = work.compare(bucket)
        _show(report, copied)
        reports.append(report)
    return reports


def _show(report: Report, copied: Moved) -> None:
    verdict = "complete" if report.is_complete else "DIFFERS"
    lines = [f"{report.bucket}: {verdict}; {copied.count} brought over, {report.read_to_compare} read to be compared"]
    for name, counts in (("source", report.source), ("target", report.target)):
        lines.append(
            f"  {name}: {counts.keys} keys, {counts.versions} versions, {counts.markers} delete markers, "
            f"{counts.size_bytes / MIB:.1f} MiB"
        )
    lines += [f"  {key!r}: {problem}" for key, problem in report.problems[:_SHOWN_PROBLEMS]]
    lines += [f"  {key!r}: {failure}" for key, failure in list(copied.failures.items())[:_SHOWN_PROBLEMS]]
    if len(report.problems) > _SHOWN_PROBLEMS:
        lines.append(f"  and {len(report.problems) - _SHOWN_PROBLEMS} keys more")
    sys.stdout.write("\n".join(lines) + "\n")


def _open(url: str, key_file: Path, region: str, workers: int) -> Store:
    key, secret = read_key(key_file)
    return Store(url, key, secret, region, connections=2 * workers)


def read_key(path: Path) -> tuple[str, str]:
    """Id and secret. Raises ValueError, which shows nothing of what the file has."""
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    words = text.split() if len(text.split()) == 2 else text.split(".", 1)
    if len(words) != 2 or not all(words):
        raise ValueError(f"{path} has no id and secret, on two lines or with a dot or a space between them")
    return words[0], words[1]


if __name__ == "__main__":
    main()
