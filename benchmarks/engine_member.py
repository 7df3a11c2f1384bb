"""One consensus member with the real engine, log and transport, and a state machine that does nothing.

Started by `benchmarks.consensus`: it shows what the engine itself costs, without metadata and without HTTP. Clients speak
length-prefixed msgpack: {"id", "op": "put" | "read" | "status", "payload"}.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import uvloop

from services.consensus.member import Member
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.peering.mesh import PeerMesh
from services.consensus.persistence.hard_state import FileHardState
from services.consensus.persistence.log_store import SqliteLogStore
from services.consensus.persistence.runner import ThreadRunner
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.ports import Entry, Snapshot, SnapshotMeta
from services.consensus.raft.seam import configure_raftos
from shared.background_tasks import BackgroundTasks
from shared.cluster_keys import derive_peer_keys
from shared.contracts.cluster import ConsensusMember
from shared.errors import TrivetError
from shared.roles import Role

LENGTH = struct.Struct(">I")


class NoOpMachine:
    """A `StateMachine` without state: the cost that remains is the engine's."""

    last_applied = 0
    installed: SnapshotMeta | None = None

    def checkpoint(self) -> int:
        """There is nothing to lose; the log is cut all the same, because that costs the engine something."""
        return self.last_applied

    def take_snapshot(self) -> Snapshot:
        """Raises NotImplementedError: members of the benchmark start together and need none."""
        raise NotImplementedError

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Raises NotImplementedError."""
        raise NotImplementedError

    def install(self, meta: SnapshotMeta) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError

    def apply(self, first_index: int, entries: Sequence[Entry]) -> list[Any]:
        """Answer with the index."""
        self.last_applied = first_index + len(entries) - 1
        return list(range(first_index, first_index + len(entries)))


class ClientPort:
    """Answers clients on one socket each; requests of one client may overlap."""

    def __init__(self, node: Member, tasks: BackgroundTasks) -> None:
        self._node = node
        self._tasks = tasks

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client hangs up."""
        try:
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                request = msgpack.unpackb(await reader.readexactly(length))
                self._tasks.start("request", self._answer(request, writer))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = await self._do(request)
        except TrivetError as error:
            answer["error"] = error.code
        raw = bytes(msgpack.packb(answer))
        writer.write(LENGTH.pack(len(raw)) + raw)

    async def _do(self, request: dict[str, Any]) -> Any:
        if request["op"] == "put":
            (waiting,) = self._node.propose([request["payload"]])
            return await waiting
        if request["op"] == "read":
            return await self._node.read_barrier()
        return {"leads": self._node.leader_role is not None, "term": self._node.raft.storage.term}


async def run(number: int, ports: list[int], folder: Path, secret: str) -> None:
    """Member `number` (from 0) of the cluster on `ports`; its client port is its peer port + 100."""
    configure_raftos(heartbeat_interval_ms=100, election_timeout_min_ms=2000, election_timeout_max_ms=4000)
    name = f"m{number + 1}"
    members = tuple(
        ConsensusMember(id=f"m{i + 1}", url="http://unused", peer_address=f"127.0.0.1:{port}")
        for i, port in enumerate(ports)
    )
    mesh = PeerMesh(
        name,
        "bench",
        derive_peer_keys(secret, Role.CONSENSUS),
        DiskIdentities(folder),
        host="127.0.0.1",
        port=ports[number],
    )
    node = Member(
        name,
        log_store=SqliteLogStore(folder),
        hard_state=FileHardState(folder),
        log_runner=ThreadRunner("log"),
        apply_runner=ThreadRunner("apply"),
        compaction_runner=ThreadRunner("compaction"),
        network=mesh,
        state_machine=NoOpMachine(),
        on_fatal=_fail,
    )
    mesh.on_message = node.receive
    mesh.on_link_change = node.link_changed
    await mesh.start()
    node.start()
    if number == 0:
        node.bootstrap(Configuration("bench", members))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with BackgroundTasks(limit=4096) as tasks:
        server = await asyncio.start_server(ClientPort(node, tasks).serve, "127.0.0.1", ports[number] + 100)
        await stopped.wait()
        server.close()
        node.stop()
        await mesh.aclose()


def _fail(error: BaseException) -> None:
    raise SystemExit(f"the disk failed: {error}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser()
    parser.add_argument("number", type=int)
    parser.add_argument("ports")
    parser.add_argument("folder", type=Path)
    parser.add_argument("secret_file", type=Path)
    arguments = parser.parse_args()
    ports = [int(port) for port in arguments.ports.split(",")]
    uvloop.run(run(arguments.number, ports, arguments.folder, arguments.secret_file.read_text()))


if __name__ == "__main__":
    main()
