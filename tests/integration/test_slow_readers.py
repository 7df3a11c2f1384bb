"""Slow downloads while their versions are removed in every way, as real processes: each ends whole, and then the bytes go."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx
import pytest
from blake3 import blake3

from shared.contracts.backups import BeginBackup, EndBackup
from shared.contracts.chunks import InventoryPage
from shared.contracts.time import ClockState, Stamp
from shared.peer_calls.http_client import PeerClient
from shared.units import MIB
from tests.chance import random_bytes
from tests.integration.test_reconcile import DEADLINE_S, SHORT, Bench, N
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PART: Final = 5 * MIB
DOWNLOAD_AGE_S: Final = 30
AWAY_S: Final = 8
"""For so long a reader reads nothing: garbage without a hold is gone from the nodes by then."""

SETTINGS: Final = {
    **SHORT,
    "consensus": {**SHORT["consensus"], "TRIVET_MAX_DOWNLOAD_AGE_S": str(DOWNLOAD_AGE_S)},
    "gateway": {"TRIVET_MAX_DOWNLOAD_AGE_S": str(DOWNLOAD_AGE_S)},
}
ROWS: Final = ("manifests", "manifest_refs", "compositions", "composition_refs", "older_versions", "doomed", "released")


class Files:
    """The public API, as far as these tests go."""

    def __init__(self, bench: Bench) -> None:
        self.http = bench.http

    def bucket(self, name: str, versioning: str) -> None:
        self.http.put(f"/v1/buckets/{name}").raise_for_status()
        if versioning != "off":
            kept = {"superseded_retention_s": 0} if versioning == "not kept" else {}
            settings = {"versioning": "suspended" if versioning == "suspended" else "enabled", **kept}
            self.http.put(f"/v1/buckets/{name}/settings", json=settings).raise_for_status()

    def put(self, bucket: str, key: str, body: bytes) -> int:
        answer = self.http.put(f"/v1/files/{bucket}/{key}", content=body).raise_for_status()
        return int(answer.json()["version"])

    def put_parts(self, bucket: str, key: str, body: bytes) -> int:
        """As an upload by parts."""
        upload = self.begin(bucket, key)
        parts = []
        for number, start in enumerate(range(0, len(body), PART), 1):
            answer = self.http.put(f"/v1/uploads/{upload}/parts/{number}", content=body[start : start + PART])
            parts.append(answer.raise_for_status().json())
        return self.complete(upload, parts)

    def put_copied(self, bucket: str, key: str, body: bytes) -> int:
        """As an upload whose parts are ranges of another file, which goes at once."""
        source = f"source of {key}"
        self.put_parts(bucket, source, body)
        upload = self.begin(bucket, key)
        parts = []
        for number, (start, stop) in enumerate([(0, PART + 3), (PART + 3, len(body))], 1):
            wanted = {"source": {"bucket": bucket, "key": source}, "range_start": start, "range_end": stop}
            answer = self.http.post(f"/v1/uploads/{upload}/parts/{number}/copy", json=wanted)
            parts.append(answer.raise_for_status().json())
        version = self.complete(upload, parts)
        self.delete(bucket, source)
        return version

    def begin(self, bucket: str, key: str) -> str:
        answer = self.http.post("/v1/uploads", json={"bucket": bucket, "key": key}).raise_for_status()
        return str(answer.json()["upload_id"])

    def complete(self, upload: str, parts: list[dict[str, Any]]) -> int:
        wanted = {"parts": [{"number": part["number"], "etag": part["etag"]} for part in parts]}
        answer = self.http.post(f"/v1/uploads/{upload}/complete", json=wanted).raise_for_status()
        return int(answer.json()["version"])

    def delete(self, bucket: str, key: str, version: int | None = None) -> None:
        params = {} if version is None else {"version": version}
        self.http.delete(f"/v1/files/{bucket}/{key}", params=params).raise_for_status()

    def delete_many(self, bucket: str, *files: dict[str, Any]) -> None:
        answer = self.http.post("/v1/batch-delete", json={"bucket": bucket, "files": files}).raise_for_status()
        assert [row["problem"] for row in answer.json()["results"]] == [None] * len(files)

    def rename(self, bucket: str, key: str, to: str) -> None:
        wanted = {"source": {"bucket": bucket, "key": key}, "target": {"bucket": bucket, "key": to}}
        self.http.post("/v1/rename", json=wanted).raise_for_status()

    def delete_all(self, bucket: str) -> None:
        """Every version and marker of a bucket."""
        while rows := self.http.get(f"/v1/versions/{bucket}").raise_for_status().json()["versions"]:
            for row in rows:
                self.delete(bucket, row["key"], row["version"])


@dataclass(frozen=True)
class Way:
    """How a version goes. `remove` gets the files, the bucket and the version under the key `film`.

    Attributes:
        by_version: it is read as an older one, below another.
    """

    versioning: str
    remove: Callable[[Files, str, int], None]
    by_version: bool = False


def _move(files: Files, bucket: str, _version: int) -> None:
    files.rename(bucket, "film", "moved")
    files.delete(bucket, "moved")


def _replace_by_a_move(files: Files, bucket: str, _version: int) -> None:
    files.put(bucket, "other", b"other")
    files.rename(bucket, "other", "film")


def _with_the_bucket(files: Files, bucket: str, _version: int) -> None:
    files.delete(bucket, "film")
    files.http.delete(f"/v1/buckets/{bucket}").raise_for_status()
    files.bucket(bucket, "off")


def _promote(files: Files, bucket: str, version: int) -> None:
    """It is current again under another number, and deleted."""
    newest = files.put(bucket, "film", b"newest")
    files.delete(bucket, "film", newest)
    files.delete(bucket, "film", version)


WAYS: Final = {
    "deleted": Way("off", lambda files, bucket, _: files.delete(bucket, "film")),
    "overwritten": Way("off", lambda files, bucket, _: files.put(bucket, "film", b"new") and None),
    "moved": Way("off", _move),
    "replaced": Way("off", _replace_by_a_move),
    "bucket": Way("off", _with_the_bucket),
    "batch": Way("off", lambda files, bucket, _: files.delete_many(bucket, {"key": "film"})),
    "version": Way("enabled", lambda files, bucket, version: files.delete(bucket, "film", version)),
    "older": Way("enabled", lambda files, bucket, version: files.delete(bucket, "film", version), by_version=True),
    "older-batch": Way(
        "enabled",
        lambda files, bucket, version: files.delete_many(bucket, {"key": "film"}, {"key": "film", "version": version}),
        by_version=True,
    ),
    "promoted": Way("enabled", _promote),
    "not-kept": Way("not kept", lambda files, bucket, _: files.put(bucket, "film", b"new") and None),
    "null": Way("suspended", lambda files, bucket, _: files.delete(bucket, "film")),
}
STORED: Final = {"list": Files.put, "parts": Files.put_parts, "copied": Files.put_copied}


class Download:
    """One that takes its first bytes and then waits. Its socket holds little, so the rest is on the nodes still."""

    def __init__(self, bench: Bench, path: str, version: int | None) -> None:
        small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)]
        self._stack = ExitStack()
        transport = httpx.HTTPTransport(socket_options=small)
        client = httpx.Client(
            base_url=bench.http.base_url, headers=bench.http.headers, transport=transport, timeout=60, trust_env=False
        )
        self._stack.enter_context(client)
        params = {} if version is None else {"version": version}
        answer = self._stack.enter_context(client.stream("GET", path, params=params))
        answer.raise_for_status()
        self._body: Iterator[bytes] = answer.iter_raw(65_536)
        self._begin = next(self._body)

    def finish(self) -> bytes:
        """All of it."""
        with self._stack:
            return self._begin + b"".join(self._body)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A cluster of one gateway and four nodes."""
    made = Bench(tmp_path_factory.mktemp("slow"), 4, SETTINGS)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Nodes:
    """What the nodes hold, asked by one client for all tests: a node remembers only so many senders."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._runner = asyncio.Runner()
        self._client = PeerClient(bench.cluster.keys)

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.__aexit__(None, None, None))
        self._runner.close()

    def counts(self, digests: set[str]) -> Counter[int]:
        """How many of `digests` are on how many nodes."""
        held = [self._runner.run(self._held(node)) for node in self._bench.nodes]
        return Counter(sum(digest in found for found in held) for digest in digests)

    async def _held(self, node: str) -> set[str]:
        found: set[str] = set()
        after: str | None = ""
        while after is not None:
            path, peer = f"/v1/chunks?after={after}", self._bench.cluster.peer(node)
            answer = await self._client.request(peer, "GET", path, timeout_s=10)
            page = InventoryPage.model_validate_json(bytes(answer.content))
            found |= {chunk.digest for chunk in page.chunks}
            after = page.next_after
        return found

    def until_gone(self, digests: set[str]) -> None:
        """Nothing of it is on any node, nor in any member's tables."""
        nowhere = Counter({0: len(digests)})
        elapsed_s = block_until(lambda: self.counts(digests) == nowhere, "the chunks go", DEADLINE_S)
        print(f"gone in {elapsed_s:.1f} s")
        block_until(lambda: left_rows(self._bench) == {}, "every member has forgotten", DEADLINE_S)


@pytest.fixture(scope="module")
def nodes(bench: Bench) -> Iterator[Nodes]:
    """The nodes of that cluster."""
    with Nodes(bench) as asked:
        yield asked


def chunks_of(body: bytes, *, part: int) -> set[str]:
    parts = [body[start : start + part] for start in range(0, len(body), part)]
    return {blake3(each[at : at + MIB]).hexdigest() for each in parts for at in range(0, len(each), MIB)}


def pass_seconds(seconds: float) -> None:
    """Garbage needs time to go; nothing tells of what is not deleted."""
    until_s = time.monotonic() + seconds
    block_until(lambda: time.monotonic() >= until_s, "some time passes", seconds + DEADLINE_S)


@pytest.mark.parametrize(
    "stored", [pytest.param(stored, marks=() if stored == "parts" else pytest.mark.slow) for stored in STORED]
)
def test_a_slow_download_ends_whole_however_its_version_goes(bench: Bench, nodes: Nodes, stored: str) -> None:
    """Nothing of it is missing; after the longest download everything is gone from every node and every member."""
    files, bodies = Files(bench), {name: random_bytes(2 * PART + MIB + 7) for name in WAYS}
    versions: dict[str, int] = {}
    for name, way in WAYS.items():
        files.bucket(f"{stored}-{name}", way.versioning)
        versions[name] = STORED[stored](files, f"{stored}-{name}", "film", bodies[name])
        if way.by_version:
            files.put(f"{stored}-{name}", "film", b"newer")
    downloads: dict[str, Download] = {}
    for name, way in WAYS.items():
        path, version = f"/v1/files/{stored}-{name}/film", versions[name]
        downloads[name] = Download(bench, path, version if way.by_version else None)
        way.remove(files, f"{stored}-{name}", version)
        answer = bench.http.get(path, params={"version": version})
        assert answer.status_code == 404, f"{name}: the version is there still"
    pass_seconds(AWAY_S)
    for name, download in downloads.items():
        assert download.finish() == bodies[name], name
    part = 2 * PART + MIB + 7 if stored == "list" else PART
    digests = set().union(*(chunks_of(body, part=part) for body in bodies.values()))
    assert nodes.counts(digests)[0] == 0, "everything is kept for the longest download"
    for name in WAYS:
        files.delete_all(f"{stored}-{name}")
    nodes.until_gone(digests)


def test_a_backup_keeps_what_is_removed_while_it_copies(bench: Bench, nodes: Nodes) -> None:
    """A version of parts and an upload under way; both are kept beyond the longest download, and go once it ends."""
    files, body, part = Files(bench), random_bytes(2 * PART), random_bytes(PART)
    files.bucket("pinned", "enabled")
    version = files.put_parts("pinned", "film", body)
    upload = files.begin("pinned", "other")
    bench.http.put(f"/v1/uploads/{upload}/parts/1", content=part).raise_for_status()
    digests = chunks_of(body, part=PART) | chunks_of(part, part=PART)
    everywhere = Counter({N: len(digests)})
    block_until(lambda: nodes.counts(digests) == everywhere, "every chunk has its replicas", DEADLINE_S)
    stamp = Stamp(hlc=1, state=ClockState.LOGICAL)
    bench.propose(BeginBackup(backup_id="copy", owner="a test", lease_s=600, stamp=stamp))
    files.delete("pinned", "film", version)
    bench.http.delete(f"/v1/uploads/{upload}").raise_for_status()
    pass_seconds(DOWNLOAD_AGE_S + AWAY_S)
    assert nodes.counts(digests) == everywhere
    bench.propose(EndBackup(backup_id="copy", stamp=stamp))
    nodes.until_gone(digests)


def left_rows(bench: Bench) -> dict[str, int]:
    """Of what files by parts and older versions leave in the tables of the members, those that are there."""
    found = {}
    for member in ("consensus-1", "consensus-2", "consensus-3"):
        path = bench.cluster.layout.data_dir(member) / "metadata.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            for table in ROWS:
                (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                found[f"{member} {table}"] = int(count)
    return {name: count for name, count in found.items() if count}
