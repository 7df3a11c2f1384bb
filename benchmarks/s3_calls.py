"""The command behind `make bench-s3`: calls of S3 that do much at once, one at a time on a cluster that does nothing else.

1. An upload of 10,000 parts, each a range of one object (UploadPartCopy), is completed: an object of 100 GiB. Goal: 1 s.
2. That object is copied: as one by `/v1`, which has a goal of 50 ms, and by S3, which copies 5 GiB at a time.
3. DeleteObjects of 1,000 keys, in a bucket that keeps no versions and in one that does. Goal: 150 ms.
4. ListObjectsV2 of 1,000 keys deep in a bucket of a million, which is filled on disk as in `make bench-long-life`. Goal: 30 ms.
5. CPU of the proof of a signature, as boto3 signs and as links are signed. Goal: 0.15 ms.

Ends in an error where a median does not reach its goal.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import uvloop
from lxml import etree

from benchmarks.cluster.connection import Address, Answer, Connection
from benchmarks.cluster.credentials import signer
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.process_groups import FOLLOWERS, LEADER, read_cpu_ns, sum_by_group
from benchmarks.cluster.running_cluster import RunningCluster, running_cluster
from benchmarks.cluster.trees import this_tree
from benchmarks.consensus import MEMBERS
from benchmarks.long_life import fill
from benchmarks.measuring import describe_machine, median_and_spread, show
from local_cluster.cluster import Cluster
from local_cluster.errors import LocalClusterError
from local_cluster.free_ports import free_port_offset
from services.gateway.s3.signatures import RawHead, is_proved, signed_head, signing_key
from shared.units import GIB, MIB
from trivet.import_s3.signing import UNSIGNED_PAYLOAD, ClientRequest, Query, Signer

PARTS: Final = 10_000
OBJECT_BYTES: Final = 100 * GIB
DELETED: Final = 1000
LISTED: Final = 1000
PROOFS: Final = 2000
_SOURCE_BYTES: Final = 16 * MIB
_COPY_BYTES: Final = 5 * GIB
_CLIENTS: Final = 16
_AFTERMATH_S: Final = 0.3
_SHOWN_GROUPS: Final = frozenset({"gateway", LEADER, FOLLOWERS})
_BUCKET: Final = "calls"
_ENABLED: Final = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


@dataclass(frozen=True, slots=True)
class Processes:
    """Of a cluster, by name."""

    pids: Mapping[str, int]
    leader: str | None = None

    def cpu_ms(self) -> dict[str, float]:
        """What each group has used so far."""
        return {group: ns / 1e6 for group, ns in sum_by_group(read_cpu_ns(self.pids), self.leader).items()}


@dataclass(slots=True)
class Timed:
    """Milliseconds of one call, by round; `goal_ms` is of the median, None for none. `cpu_ms`: of `processes`, by group."""

    name: str
    goal_ms: float | None
    processes: Processes | None = None
    ms: list[float] = field(default_factory=list)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether the goal is."""
        return self.goal_ms is None or statistics.median(self.ms) <= self.goal_ms

    def row(self) -> list[str]:
        """For the table."""
        goal = "" if self.goal_ms is None else f"{self.goal_ms:g} {'reached' if self.is_met else 'NOT REACHED'}"
        cpu = ", ".join(f"{group} {statistics.median(values):.0f}" for group, values in self.cpu_ms.items())
        return [self.name, median_and_spread(self.ms), cpu, str(len(self.ms)), goal]

    async def measure(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of one more call. Followers may still be at work when it comes: their CPU is read a little later."""
        processes = self.processes
        before_ms = {} if processes is None else processes.cpu_ms()
        began_s = time.perf_counter()
        answer = await call()
        self.ms.append((time.perf_counter() - began_s) * 1e3)
        if processes is not None:
            await asyncio.sleep(_AFTERMATH_S)
            for group, used_ms in processes.cpu_ms().items():
                if group in _SHOWN_GROUPS:
                    self.cpu_ms.setdefault(group, []).append(used_ms - before_ms[group])
        return answer


class S3Calls:
    """Signed requests of one client, on as many connections as it has calls under way."""

    def __init__(self, sign: Signer) -> None:
        host, _, port = sign.host.partition(":")
        self._address, self._signer = Address(host, int(port)), sign
        self._idle: list[Connection] = []

    async def __call__(
        self,
        method: str,
        path: str,
        query: Query = (),
        headers: dict[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> Answer:
        """One request, whose answer is kept.

        Raises:
            BenchmarkError: it was refused.
        """
        asked = ClientRequest(method, path, query, headers or {})
        fields = self._signer.headers(asked, UNSIGNED_PAYLOAD, datetime.now(UTC))
        del fields["host"]
        connection = self._idle.pop() if self._idle else await Connection.open(self._address)
        answer = await connection.request(method, asked.target, [body] if body else [], headers=fields, is_kept=True)
        self._idle.append(connection)
        if answer.status >= 300:
            raise BenchmarkError(f"{method} {path} was answered by {answer.status}: {answer.body[:500]!r}")
        return answer


def main() -> int:
    """Run; 1 when a goal was not reached."""
    parser = argparse.ArgumentParser(prog="benchmarks.s3_calls", description="Calls of S3 that do much at once.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", type=int, default=PARTS)
    parser.add_argument("--files", type=int, default=1_000_000, help="in the bucket that is listed; 0 lists none")
    arguments = parser.parse_args()
    print(describe_machine())
    timed = [_proofs(is_link=False, rounds=arguments.rounds), _proofs(is_link=True, rounds=arguments.rounds)]
    with running_cluster(this_tree()) as cluster:
        timed += uvloop.run(_measure(cluster, arguments.rounds, arguments.parts))
    if arguments.files:
        with tempfile.TemporaryDirectory(prefix="trivet-bench-") as folder:
            timed.append(uvloop.run(_measure_list(Path(folder), arguments.files, arguments.rounds)))
    columns = ["call", "median (range)", "CPU, medians", "calls", "goal"]
    show("Calls of S3, ms", columns, [each.row() for each in timed])
    return 0 if all(each.is_met for each in timed) else 1


async def _measure(cluster: RunningCluster, rounds: int, parts: int) -> list[Timed]:
    if cluster.s3_signer is None:
        raise BenchmarkError("The tree has no access key, and so no S3 port.")
    s3 = S3Calls(cluster.s3_signer)
    await s3("PUT", f"/{_BUCKET}")
    await s3("PUT", f"/{_BUCKET}/source", body=bytes(_SOURCE_BYTES))
    processes = Processes(cluster.pids, cluster.leader())
    timed = [
        await _completions(s3, processes, rounds, parts),
        await _copies_by_v1(cluster.address, processes, rounds),
        await _copies_by_s3(s3, processes, rounds, OBJECT_BYTES // parts * parts),
        await _deletions(s3, processes, "no versions kept", rounds),
    ]
    await s3("PUT", f"/{_BUCKET}", [("versioning", "")], body=_ENABLED)
    return [*timed, await _deletions(s3, processes, "versions kept", rounds)]


# --- one large object -----------------------------------------------------------------------------------------------


async def _completions(s3: S3Calls, processes: Processes, rounds: int, parts: int) -> Timed:
    timed = Timed(f"CompleteMultipartUpload of {parts:,} copied parts", 1000, processes)
    size_bytes = OBJECT_BYTES // parts
    ranges = [(size_bytes * number % MIB, size_bytes) for number in range(parts)]
    for _ in range(rounds):
        upload, document = await _copied_parts(s3, "large", "source", ranges)
        await timed.measure(lambda: s3("POST", f"/{_BUCKET}/large", [("uploadId", upload)], body=document))  # noqa: B023 at once
    return timed


async def _copied_parts(s3: S3Calls, key: str, source: str, ranges: Sequence[tuple[int, int]]) -> tuple[str, bytes]:
    """An upload whose parts are ranges (start and size) of an object: its id, and what completes it."""
    begun = await s3("POST", f"/{_BUCKET}/{key}", [("uploads", "")])
    upload = _text(begun.body, "UploadId")
    etags: dict[int, str] = {}
    left = iter(list(enumerate(ranges, 1)))

    async def client() -> None:
        for number, (start, size_bytes) in left:
            query = [("partNumber", str(number)), ("uploadId", upload)]
            copied_range = f"bytes={start}-{start + size_bytes - 1}"
            headers = {"x-amz-copy-source": f"{_BUCKET}/{source}", "x-amz-copy-source-range": copied_range}
            answer = await s3("PUT", f"/{_BUCKET}/{key}", query, headers)
            etags[number] = _text(answer.body, "ETag")

    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(client())
    rows = (
        f"<Part><ETag>{escape(etag)}</ETag><PartNumber>{number}</PartNumber></Part>"
        for number, etag in sorted(etags.items())
    )
    return upload, f"<CompleteMultipartUpload>{''.join(rows)}</CompleteMultipartUpload>".encode()


async def _copies_by_v1(address: Address, processes: Processes, rounds: int) -> Timed:
    timed = Timed("POST /v1/copy of 100 GiB", 50, processes)
    connection = await Connection.open(address)
    for number in range(rounds):
        body = (
            f'{{"source": {{"bucket": "{_BUCKET}", "key": "large"}}, '
            f'"target": {{"bucket": "{_BUCKET}", "key": "copy-{number}"}}}}'
        ).encode()
        headers = {"content-type": "application/json"}
        answer = await timed.measure(
            lambda: connection.request("POST", "/v1/copy", [body], headers=headers, is_kept=True)  # noqa: B023 at once
        )
        if answer.status >= 300:
            raise BenchmarkError(f"The copy was answered by {answer.status}: {answer.body[:500]!r}")
    return timed


async def _copies_by_s3(s3: S3Calls, processes: Processes, rounds: int, size_bytes: int) -> Timed:
    timed = Timed("100 GiB by UploadPartCopy of 5 GiB, begin to end", None, processes)
    ranges = [(start, min(_COPY_BYTES, size_bytes - start)) for start in range(0, size_bytes, _COPY_BYTES)]

    async def copy() -> Answer:
        upload, document = await _copied_parts(s3, "copied", "large", ranges)
        return await s3("POST", f"/{_BUCKET}/copied", [("uploadId", upload)], body=document)

    for _ in range(rounds):
        await timed.measure(copy)
    return timed


# --- many objects ---------------------------------------------------------------------------------------------------


async def _deletions(s3: S3Calls, processes: Processes, what: str, rounds: int) -> Timed:
    timed = Timed(f"DeleteObjects of {DELETED:,}, {what}", 150, processes)
    keys = [f"deleted/{number:04}" for number in range(DELETED)]
    body = f"<Delete>{''.join(f'<Object><Key>{key}</Key></Object>' for key in keys)}</Delete>".encode()
    headers = {"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
    for _ in range(rounds):
        left = iter(keys)

        async def client() -> None:
            for key in left:  # noqa: B023 ended before the next round
                await s3("PUT", f"/{_BUCKET}/{key}", body=key.encode())

        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(client())
        # What a node still writes of the puts must not count.
        await asyncio.sleep(1)
        answer = await timed.measure(lambda: s3("POST", f"/{_BUCKET}", [("delete", "")], headers, body))
        if answer.body.count(b"<Deleted>") != DELETED:
            raise BenchmarkError(f"Not all were deleted: {answer.body[:500]!r}")
    return timed


async def _measure_list(folder: Path, files: int, rounds: int) -> Timed:
    """The members and a gateway alone: a list asks no storage node."""
    name = f"ListObjectsV2 of {LISTED:,} among {files:,}"
    offset = free_port_offset()
    cluster = Cluster(folder, port_offset=offset)
    await cluster.start(MEMBERS)
    await cluster.stop()
    fill(folder, files)
    try:
        await cluster.start(MEMBERS)
        with suppress(LocalClusterError):
            # It is not ready without storage nodes, and lists all the same.
            await cluster.start(["gateway-1"], timeout_s=1)
        sign = signer(folder, cluster.s3_url.removeprefix("http://"))
        if sign is None:
            raise BenchmarkError("There is no access key.")
        names = [*MEMBERS, "gateway-1"]
        processes = Processes({name: pid for name in names if (pid := cluster.pid(name)) is not None})
        timed, s3 = Timed(name, 30, processes), S3Calls(sign)
        await _wait_until_listed(s3)
        for number in range(rounds * 4):
            # Keys begin with three digits.
            query = [("list-type", "2"), ("start-after", f"{number * 37 % 900:03}")]
            answer = await timed.measure(lambda: s3("GET", "/default", query))  # noqa: B023 at once
            if answer.body.count(b"<Key>") != LISTED:
                raise BenchmarkError(f"Not {LISTED} keys: {answer.body[:500]!r}")
    finally:
        await cluster.stop()
    return timed


async def _wait_until_listed(s3: S3Calls) -> None:
    """Until the gateway knows the root key, which it has the log make."""
    async with asyncio.timeout(60):
        while True:
            with suppress(BenchmarkError, OSError):
                await s3("GET", "/default", [("list-type", "2"), ("max-keys", "1")])
                return
            await asyncio.sleep(0.5)


# --- signatures -----------------------------------------------------------------------------------------------------


def _proofs(*, is_link: bool, rounds: int) -> Timed:
    """CPU of this thread. The key that signs is known, as it is but for the first request of a day."""
    timed = Timed("proof of a signature in " + ("the query" if is_link else "a header"), 0.15)
    sign, now = Signer("TV" + "A" * 18, "s" * 40, "us-east-1", "localhost:9000"), datetime.now(UTC)
    request = ClientRequest("PUT", "/photos/2026/11/a file.jpg", (), {} if is_link else _AS_BOTO3)
    if is_link:
        path, _, query = sign.presigned(request, 600, now).partition("?")
        headers = [(b"host", sign.host.encode()), *_UNSIGNED]
    else:
        path, query = request.target, ""
        sent = sign.headers(request, UNSIGNED_PAYLOAD, now)
        headers = [*((name.encode(), value.encode()) for name, value in sent.items()), *_UNSIGNED]
    key = signing_key(sign.secret, f"{now:%Y%m%d}", sign.region)
    for _ in range(rounds):
        began_s = time.thread_time()
        for _ in range(PROOFS):
            head = RawHead("PUT", path.encode(), query.encode(), headers)
            signed = signed_head(head)
            if signed is None or not is_proved(signed, head, key):
                raise BenchmarkError("The signature is not right.")
        timed.ms.append((time.thread_time() - began_s) / PROOFS * 1e3)
    return timed


_AS_BOTO3: Final = {
    "amz-sdk-invocation-id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "amz-sdk-request": "attempt=1",
    "content-type": "image/jpeg",
    "x-amz-checksum-crc32": "AAAAAA==",
    "x-amz-meta-mtime": "1764400000.123456789",
    "x-amz-sdk-checksum-algorithm": "CRC32",
}
_UNSIGNED: Final = [
    (
        b"user-agent",
        b"Boto3/1.40 md/Botocore#1.40 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11 cfg/retry-mode#legacy",
    ),
    (b"accept-encoding", b"identity"),
    (b"expect", b"100-continue"),
    (b"content-length", b"4096"),
]


def _text(body: bytes, name: str) -> str:
    """The text of the only element of that name."""
    found: str = etree.fromstring(body).findtext(f"{{*}}{name}") or ""
    return found


if __name__ == "__main__":
    sys.exit(main())
