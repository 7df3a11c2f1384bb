"""Members' transports alone, over real sockets, and a relay between two of them that can stop carrying."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.peering.link import BEAT_INTERVAL_S
from services.consensus.peering.mesh import HANDSHAKE_LIMIT, PeerMesh
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.messages import InstallSnapshot, Message, Received
from services.consensus.raft.ports import SnapshotFields
from shared.cluster_keys import PeerKeys, derive_peer_keys
from shared.contracts.cluster import ConsensusMember
from shared.roles import Role
from shared.units import KIB
from tests.free_ports import free_port

PIECE_BYTES = 8 * KIB
SECRET = "a" * 32
OTHER_SECRET = "b" * 32


def message(name: str, *, number: int = 0, body: bytes = b"") -> InstallSnapshot:
    """Something to send that carries bytes."""
    return InstallSnapshot(1, name, SnapshotFields(0, 0, 0, b"", 0, b""), number, body)


class Harness:
    """Meshes by member id, each with what it received.

    Attributes:
        dialled: the port that others are told of each member: its own, or that of whatever stands before it.
    """

    def __init__(
        self, folder: Path, *, beat_interval_s: float = BEAT_INTERVAL_S, handshake_limit: int = HANDSHAKE_LIMIT
    ) -> None:
        self.folder = folder
        self.handshake_limit = handshake_limit
        self.beat_interval_s = beat_interval_s
        self.ports = {name: free_port() for name in ("m1", "m2")}
        self.dialled = dict(self.ports)
        self.meshes: dict[str, PeerMesh] = {}
        self.received: dict[str, list[Received[Message]]] = {"m1": [], "m2": []}

    def configuration(self) -> Configuration:
        return Configuration(
            "cluster-1",
            tuple(
                ConsensusMember(id=name, url=f"http://{name}", peer_address=f"127.0.0.1:{port}")
                for name, port in self.dialled.items()
            ),
        )

    async def start(
        self,
        name: str,
        *,
        keys: PeerKeys | None = None,
        cluster_id: str = "cluster-1",
        knows_peers: bool = True,
        disk: str | None = None,
    ) -> PeerMesh:
        disks = DiskIdentities(self.folder / (disk or name))
        mesh = PeerMesh(
            name,
            cluster_id,
            keys or derive_peer_keys(SECRET, Role.CONSENSUS),
            disks,
            host="127.0.0.1",
            port=self.ports[name],
            beat_interval_s=self.beat_interval_s,
            handshake_limit=self.handshake_limit,
        )
        mesh.on_message = self.received[name].append
        await mesh.start()
        if knows_peers:
            mesh.configure(self.configuration())
        self.meshes[name] = mesh
        return mesh


class _Passage:
    """One connection through a middlebox, and what is swallowed on it: every byte is acknowledged, nobody is told."""

    def __init__(self, *, answer_bytes_left: int | None) -> None:
        self.swallows_requests = False
        self.swallows_answers = False
        self.answer_bytes_left = answer_bytes_left
        self.ends: list[asyncio.StreamWriter] = []

    def swallow(self) -> None:
        self.swallows_requests = self.swallows_answers = True

    async def carry_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause_s: float) -> None:
        while data := await reader.read(PIECE_BYTES):
            await asyncio.sleep(pause_s)
            if not self.swallows_requests:
                writer.write(data)
                await writer.drain()

    async def carry_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE_BYTES):
            if self.swallows_answers:
                continue
            if self.answer_bytes_left is not None:
                data = data[: self.answer_bytes_left]
                self.answer_bytes_left -= len(data)
            if self.answer_bytes_left == 0:
                self.swallow()
            writer.write(data)


class BrokenMiddlebox:
    """Stands between two members. What it does to connections that exist says nothing about those made later.

    Attributes:
        accepted_count, open_count: connections ever, and those that at least one side has not closed.
        answer_bytes: so many bytes of answers pass on a new connection, then nothing any more; None for no limit.
        pause_s: before every piece of requests, so that a connection is slow.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._passages: list[_Passage] = []
        self.port = free_port()
        self.accepted_count = 0
        self.answer_bytes: int | None = None
        self.pause_s = 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=2 * PIECE_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for passage in self._passages:
            for end in passage.ends:
                end.transport.abort()
        async with asyncio.timeout(5):
            while self._passages:  # noqa: ASYNC110 polls what has no event
                await asyncio.sleep(0.005)

    @property
    def open_count(self) -> int:
        return len(self._passages)

    def swallow(self, *, requests: bool = True, answers: bool = True) -> None:
        """From now on, on the connections that exist."""
        for passage in self._passages:
            passage.swallows_requests |= requests
            passage.swallows_answers |= answers

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted_count += 1
        passage = _Passage(answer_bytes_left=self.answer_bytes)
        if self.answer_bytes == 0:
            passage.swallow()
        self._passages.append(passage)
        try:
            upstream_reader, upstream = await asyncio.open_connection(
                "127.0.0.1", self._target_port, limit=2 * PIECE_BYTES
            )
        except OSError:
            self._passages.remove(passage)
            writer.transport.abort()
            return
        passage.ends += [writer, upstream]
        carriers = [
            asyncio.ensure_future(passage.carry_requests(reader, upstream, self.pause_s)),
            asyncio.ensure_future(passage.carry_answers(upstream_reader, writer)),
        ]
        await asyncio.wait(carriers, return_when=asyncio.FIRST_COMPLETED)
        if passage.swallows_requests or passage.swallows_answers:
            # The end of a connection is not passed on either: each side has to find out by itself.
            await asyncio.wait(carriers)
        for carrier in carriers:
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)
        self._passages.remove(passage)
        for end in passage.ends:
            end.transport.abort()
