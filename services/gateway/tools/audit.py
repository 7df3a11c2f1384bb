"""The audit trail for operators: `python -m services.gateway.tools.audit export | verify | verify-cluster | verify-log`.

    export --url URL --credential-file FILE --to FILE   copies what the file lacks of the trail; run it again to go on
    verify FILE                                         recomputes the chain of an exported file, without a cluster
    verify-cluster --url URL --credential-file FILE     has a gateway recompute the chain of the cluster
    verify-log FILE                                     recomputes the chains of the lines that a gateway wrote on standard output

URL is that of a gateway's operations listener. The credential is the one line of its file. The command ends with 1, and says
where, when a chain is broken, rows are missing, or the cluster cannot be asked.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import httpx
import msgspec

from shared.audit_chain import (
    LINE_HEAD,
    ChainBrokenError,
    ChainPoint,
    begin_line,
    next_point,
    parse_begin,
    point_of,
    split_line,
)
from shared.private_process import make_process_private
from shared.units import MIB

TIMEOUT_S: Final = 30.0
PROGRESS_ROWS: Final = 100_000
_TAIL_BYTES: Final = 8 * MIB
"""Longer than any row."""


class AuditFailedError(Exception):
    """What is said before the command ends with 1."""


# --- export -------------------------------------------------------------------------------------------------------


def export(client: httpx.Client, path: Path) -> ChainPoint:
    """Append to the file what it lacks of the trail; where it ends then. Every row is checked before it is written.

    Raises:
        AuditFailedError: the file is no part of this cluster's trail, or the cluster cannot be asked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AuditFailedError(f"another export writes to {path}") from error
        point = _end_of(file)
        while True:
            begin, lines = _page(client, 0 if point is None else point.index)
            point = _agreed(file, point, begin)
            if not lines:
                break
            end = _followed(point, lines)
            file.writelines(lines)
            file.flush()
            point = end
        os.fsync(file.fileno())
    return point


def _agreed(file: BinaryIO, point: ChainPoint | None, begin: ChainPoint) -> ChainPoint:
    """A page begins where the file ends; a new file, where the kept part of the trail does."""
    if point is None:
        file.write(begin_line(begin.index, begin.link.hex()))
        return begin
    if begin.index > point.index:
        raise AuditFailedError(
            f"rows behind index {point.index} were cut before they were exported; the trail is kept from behind index "
            f"{begin.index} on: export it to a new file"
        )
    if begin != point:
        raise AuditFailedError(f"index {point.index}: the file is no part of the trail of this cluster")
    return point


def _followed(point: ChainPoint, lines: Iterable[bytes]) -> ChainPoint:
    for line in lines:
        try:
            point = next_point(point, line)
        except ChainBrokenError as error:
            raise AuditFailedError(f"the trail of the cluster is broken behind index {point.index}: {error}") from error
    return point


def _end_of(file: BinaryIO) -> ChainPoint | None:
    """The last row of the file; None when it is empty. A line that an earlier export did not finish is cut off."""
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _TAIL_BYTES))
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    file.seek(size_bytes - len(tail) + len(whole))
    file.truncate()
    if size_bytes == len(tail) and not whole:
        return None
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    try:
        return parse_begin(last) or point_of(last)
    except ChainBrokenError as error:
        raise AuditFailedError(f"the end of the file is no line of a trail: {error}") from error


def _page(client: httpx.Client, after: int) -> tuple[ChainPoint, list[bytes]]:
    first, *lines = _get(client, "/v1/audit", after).splitlines(keepends=True) or [b""]
    begin = parse_begin(first)
    if begin is None:
        raise AuditFailedError("the gateway sent no page of a trail")
    return begin, lines


def _get(client: httpx.Client, path: str, after: int) -> bytes:
    try:
        answer = client.get(path, params={"after": after})
    except httpx.TransportError as error:
        raise AuditFailedError(f"the gateway does not answer: {error}") from error
    if not answer.is_success:
        raise AuditFailedError(f"the gateway answered {answer.status_code}: {_reason(answer.content)}")
    return answer.content


class _Problem(msgspec.Struct):
    detail: str = ""


def _reason(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=_Problem).detail
    except msgspec.MsgspecError:
        return "no problem document"


# --- verify -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """A file whose chain holds: the rows between its ends."""

    begin: ChainPoint
    end: ChainPoint
    rows: int


def verify(path: Path) -> Verified:
    """Recompute the chain of an exported file.

    Raises:
        AuditFailedError: a line does not follow the one before, or the file is none that was exported.
    """
    with path.open("rb") as file:
        begin = parse_begin(file.readline())
        if begin is None:
            raise AuditFailedError("line 1 does not say where the trail begins")
        point, rows = begin, 0
        for line in file:
            try:
                point = next_point(point, line)
            except ChainBrokenError as error:
                raise AuditFailedError(f"line {rows + 2}, behind index {point.index}: {error}") from error
            rows += 1
            if rows % PROGRESS_ROWS == 0:
                _say(f"{rows} rows, up to index {point.index}")
    return Verified(begin, point, rows)


class _Found(msgspec.Struct):
    """The fields of `services.gateway.api.audit_models.TrailVerification` that matter here."""

    rows: int
    end: dict[str, int | str]
    problem: str | None
    broken_index: int | None
    next_after: int | None


def verify_cluster(client: httpx.Client) -> tuple[int, int]:
    """Have the gateway recompute the whole chain; how many rows there are, and the index of the last one.

    Raises:
        AuditFailedError: it is broken, or the cluster cannot be asked.
    """
    rows = after = 0
    while True:
        try:
            found = msgspec.json.decode(_get(client, "/v1/audit/verify", after), type=_Found)
        except msgspec.MsgspecError as error:
            raise AuditFailedError(f"the gateway sent no result: {error}") from error
        rows += found.rows
        if found.problem is not None:
            raise AuditFailedError(f"the trail is broken at index {found.broken_index}: {found.problem}")
        if found.next_after is None:
            return rows, int(found.end["index"])
        after = found.next_after
        _say(f"{rows} rows, up to index {after}")


class _Line(msgspec.Struct):
    """The fields of `services.gateway.access_log.AccessLine` that matter here."""

    index: int
    event: str
    count: int = 0


@dataclass(slots=True)
class VerifiedLog:
    """Lines of gateways whose chains hold.

    Attributes:
        starts: chains that begin in the file, each a start of a gateway.
        lines: of them all.
        dropped: lines that were not written, as the gateways say themselves.
        begins_in_middle: what stood before the first line is in another file.
    """

    starts: int = 0
    lines: int = 0
    dropped: int = 0
    begins_in_middle: bool = False


def verify_log(path: Path) -> VerifiedLog:
    """Recompute the chains in the log of one gateway; lines of other kinds are passed over.

    Raises:
        AuditFailedError: a line does not follow the one before.
    """
    found, point = VerifiedLog(), None
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.startswith(LINE_HEAD):
                continue
            try:
                point = _next_of_log(found, point, line)
            except ChainBrokenError as error:
                raise AuditFailedError(f"line {number}: {error}") from error
            found.lines += 1
    return found


def _next_of_log(found: VerifiedLog, point: ChainPoint | None, line: bytes) -> ChainPoint:
    _, row = split_line(line)
    try:
        read = msgspec.json.decode(row, type=_Line)
    except msgspec.MsgspecError as error:
        raise ChainBrokenError(f"it is no line of a gateway: {error}") from error
    found.dropped += read.count
    if read.event == "start":
        found.starts += 1
        return next_point(ChainPoint(), line)
    if point is None:
        found.begins_in_middle = True
        return point_of(line)
    return next_point(point, line)


# --- the command --------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _client(url: str, credential_file: Path) -> httpx.Client:
    try:
        credential = credential_file.read_text().strip()
    except OSError as error:
        raise AuditFailedError(f"cannot read {credential_file}: {error.strerror}") from error
    headers = {"authorization": f"Bearer {credential}"}
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)


def _run(arguments: argparse.Namespace) -> None:
    match arguments.act:
        case "export":
            with _client(arguments.url, arguments.credential_file) as client:
                end = export(client, arguments.to)
            _say(f"{arguments.to} ends at index {end.index}, link {end.link.hex()}")
        case "verify":
            found = verify(arguments.file)
            _say(
                f"{found.rows} rows follow each other, from behind index {found.begin.index}, link {found.begin.link.hex()}, "
                f"to index {found.end.index}, link {found.end.link.hex()}"
            )
        case "verify-cluster":
            with _client(arguments.url, arguments.credential_file) as client:
                rows, index = verify_cluster(client)
            _say(f"{rows} rows follow each other, to index {index}")
        case "verify-log":
            log = verify_log(arguments.file)
            _say(
                f"{log.lines} lines of {log.starts} starts follow each other; {log.dropped} were not written"
                + ("; the first ones go on from another file" if log.begins_in_middle else "")
            )


def main() -> None:
    """Entry point."""
    make_process_private()
    parser = argparse.ArgumentParser(
        prog="python -m services.gateway.tools.audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    acts = parser.add_subparsers(dest="act", required=True)
    to_cluster = argparse.ArgumentParser(add_help=False)
    to_cluster.add_argument("--url", required=True, help="of a gateway's operations listener: http://127.0.0.1:8090")
    to_cluster.add_argument("--credential-file", required=True, type=Path, help="one line: the root key, or another's")
    exporting = acts.add_parser("export", parents=[to_cluster], help="copy what a file lacks of the trail")
    exporting.add_argument("--to", required=True, type=Path, help="made, or gone on with")
    acts.add_parser("verify", help="recompute the chain of an exported file").add_argument("file", type=Path)
    acts.add_parser("verify-cluster", parents=[to_cluster], help="recompute the chain of the cluster")
    acts.add_parser("verify-log", help="recompute the chains of a gateway's lines").add_argument("file", type=Path)
    try:
        _run(parser.parse_args())
    except (AuditFailedError, OSError) as error:
        sys.stderr.write(f"trivet: {error}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
