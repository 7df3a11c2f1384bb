"""Three real consensus members as processes, with a proxy before each peer port so that connections can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgpack

from services.consensus.callers import ROUTE_CALLERS
from services.consensus.settings import ConsensusSettings
from shared.cluster_keys import PeerKeys, derive_peer_keys, key_file
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.base import WireModel
from shared.contracts.cluster import (
    AddMemberRequest,
    ConsensusMember,
    InitRequest,
    InitResponse,
    MembersResponse,
    MemberStatus,
)
from shared.errors import ConflictError, NotLeaderError, TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from tests.callers import ClientOfEveryRole
from tests.free_ports import free_port_offset
from tests.log_lines import records

CLUSTER_ID = "test-cluster"
READY_DEADLINE_S = 60.0
SPARES = 8
REPOSITORY = Path(__file__).parents[3]


class Cuts:
    """Which directed links (source id, destination id) carry nothing now: as a pulled cable, nobody is told."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()

    def isolate(self, member: str, others: list[str]) -> None:
        self._set({(member, other) for other in others} | {(other, member) for other in others})

    def silence(self, member: str, others: list[str]) -> None:
        """One way only: it hears the others, they do not hear it."""
        self._set({(member, other) for other in others})

    def heal(self) -> None:
        self._set(set())

    def _set(self, pairs: set[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until_open(self, source: str, destination: str) -> None:
        while (source, destination) in self._pairs:
            await self._changed.wait()


class PeerProxy:
    """Stands before one member's peer port and learns from the handshake who is calling."""

    def __init__(self, member: str, port: int, target_port: int, cuts: Cuts) -> None:
        self._member = member
        self._port = port
        self._target_port = target_port
        self._cuts = cuts
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connection_count(self) -> int:
        """How many there are now."""
        return len(self._tasks)

    def half_open(self) -> None:
        """Connections that exist swallow everything from now on, and every byte is acknowledged; new ones work."""
        self._half_open |= self._tasks

    @property
    def half_open_count(self) -> int:
        """How many of those are still open at some end."""
        return len(self._half_open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._half_open.discard)
        # Also of a task that was cancelled before it began.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
            writer.write(await upstream_reader.readexactly(32))
            head = await reader.readexactly(4)
            hello = await reader.readexactly(struct.unpack(">I", head)[0])
            source = msgpack.unpackb(hello)[3]
            await self._cuts.wait_until_open(source, self._member)
            upstream.write(head + hello)
            task = asyncio.current_task()

            def is_half_open() -> bool:
                return task in self._half_open

            await asyncio.gather(
                self._pump(reader, upstream, source, self._member, is_half_open),
                self._pump(upstream_reader, writer, self._member, source, is_half_open),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in (upstream, writer):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: str,
        destination: str,
        is_half_open: Callable[[], bool],
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self._cuts.wait_until_open(source, destination)
                if not is_half_open():
                    writer.write(data)
                    await writer.drain()
        except OSError:
            if not is_half_open():
                raise
        if not is_half_open():
            raise ConnectionResetError
        # Neither side of a half-open connection hears that the other one has ended it.


class Members:
    """The processes, by number 0 to 2; the first is asked to make the cluster."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str] | None = None,
        *,
        cluster_id: str = CLUSTER_ID,
        in_place_of: Members | None = None,
    ) -> None:
        self._folder = folder
        self._cluster_id = cluster_id
        self._common_settings = settings or {}
        offset = free_port_offset() if in_place_of is None else in_place_of.port_offset
        self.port_offset = offset
        self._http_ports = [8201 + offset + number for number in range(3)]
        self._peer_ports = [8251 + offset + number for number in range(3)]
        self._proxy_ports = [8101 + offset + number for number in range(3)]
        self._spare_ports = [
            (8310 + offset + number, 8330 + offset + number, 8350 + offset + number) for number in range(SPARES)
        ]
        self._retired: set[int] = set()
        self._slots: dict[int, tuple[tuple[int, int, int], PeerProxy]] = {}
        self._founding_proxies: list[PeerProxy] = []
        self._secret = secrets.token_hex(32) if in_place_of is None else in_place_of._secret
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.cuts = Cuts()
        self.addresses = [
            PeerAddress(f"consensus-{number + 1}", f"http://127.0.0.1:{port}", Role.CONSENSUS)
            for number, port in enumerate(self._http_ports)
        ]
        self.settings: dict[int, dict[str, str]] = {}
        self.programs: dict[int, list[str]] = {}
        """What runs instead of the member's own program, by number."""
        self.wrappers: dict[int, list[str]] = {}
        """What stands before its command, by number."""

    @property
    def keys(self) -> PeerKeys:
        return derive_peer_keys(self._secret, Role.GATEWAY)

    def operations(self, number: int) -> PeerAddress:
        """Its operations listener, which tells why it is not ready."""
        port = self._http_ports[number] + ConsensusSettings.OPERATIONS_DISTANCE
        return PeerAddress(self.addresses[number].id, f"http://127.0.0.1:{port}", Role.CONSENSUS)

    async def start_spare(self) -> AddMemberRequest:
        """One more process with an empty folder and a new id, behind a proxy, and the request that adds it."""
        number = len(self.addresses)
        ports = http_port, peer_port, proxy_port = self._spare_ports.pop(0)
        self._http_ports.append(http_port)
        self._peer_ports.append(peer_port)
        address = PeerAddress(f"consensus-{number + 1}", f"http://127.0.0.1:{http_port}", Role.CONSENSUS)
        self.addresses.append(address)
        proxy = PeerProxy(address.id, proxy_port, peer_port, self.cuts)
        await self._stack.enter_async_context(proxy)
        self._slots[number] = (ports, proxy)
        self.start(number)
        return AddMemberRequest(id=address.id, url=address.url, peer_address=f"127.0.0.1:{proxy_port}")

    def retire_process(self, number: int) -> None:
        """A member ends for good; its ports are not used again before `retire`."""
        self._retired.add(number)
        self.kill(number)

    async def retire(self, number: int) -> None:
        """A member that was removed ends for good; its ports may be used again."""
        self.retire_process(number)
        if number in self._slots:
            ports, proxy = self._slots.pop(number)
            await proxy.__aexit__()
            self._spare_ports.append(ports)

    def is_retired(self, number: int) -> bool:
        return number in self._retired

    def start_ended(self) -> None:
        """Whoever belongs to the group and has ended runs again."""
        for number in self._processes:
            if number not in self._retired and not self.is_running(number):
                self.start(number)

    def is_running(self, number: int) -> bool:
        return number in self._processes and self._processes[number].poll() is None

    async def change(
        self,
        client: PeerClient,
        method: str,
        path: str,
        body: WireModel | None = None,
        *,
        within_s: float = READY_DEADLINE_S,
    ) -> MembersResponse:
        """One change of the membership, at whoever leads; tried again while another change is under way."""
        async with asyncio.timeout(within_s):
            while True:
                leader = self.addresses[await self.leader(client)]
                try:
                    return await client.call(leader, method, path, MembersResponse, body=body, timeout_s=5.0)
                except ConflictError:
                    await asyncio.sleep(0.05)
                except TrivetError as error:
                    if error.status not in {421, 503}:
                        raise
                    await asyncio.sleep(0.05)

    def start(self, number: int) -> None:
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(REPOSITORY),
            "TRIVET_NODE_ID": f"consensus-{number + 1}",
            "TRIVET_CLUSTER_ID": self._cluster_id,
            "TRIVET_PEER_KEYS": key_file(self._secret, Role.CONSENSUS),
            "TRIVET_PORT": str(self._http_ports[number]),
            "TRIVET_PEER_PORT": str(self._peer_ports[number]),
            "TRIVET_DATA_DIR": str(self._folder / f"consensus-{number + 1}"),
        }
        environment |= self._common_settings | self.settings.get(number, {})
        log = (self._folder / f"consensus-{number + 1}.log").open("ab")
        with log:
            self._processes[number] = subprocess.Popen(
                [
                    *self.wrappers.get(number, []),
                    sys.executable,
                    *self.programs.get(number, ["-m", "services.consensus.main"]),
                ],
                env=environment,
                stderr=log,
            )

    def send_signal(self, number: int, kind: signal.Signals) -> None:
        self._processes[number].send_signal(kind)

    def pid(self, number: int) -> int:
        return self._processes[number].pid

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()

    def log_events(self, number: int, event: str) -> list[dict[str, Any]]:
        """What the member logged under that name, over all its lives."""
        found = records(self._folder / f"consensus-{number + 1}.log")
        return [record for record in found if record.get("event") == event]

    def has_ended(self, number: int) -> bool:
        return self._processes[number].poll() is not None

    def exit_code(self, number: int) -> int | None:
        """How it ended; None while it runs."""
        return self._processes[number].poll()

    def wait_ended(self, number: int, *, within_s: float) -> int:
        return self._processes[number].wait(timeout=within_s)

    def isolate(self, number: int, *, both_ways: bool = True) -> None:
        """Cut one member from the others; clients still reach it."""
        others = [address.id for other, address in enumerate(self.addresses) if other != number]
        cut = self.cuts.isolate if both_ways else self.cuts.silence
        cut(self.addresses[number].id, others)

    @property
    def connection_count(self) -> int:
        """How many connections there are between the founders."""
        return sum(proxy.connection_count for proxy in self._founding_proxies)

    def half_open(self) -> None:
        """Every connection between the founders carries nothing from now on, and nobody is told; new ones work."""
        for proxy in self._founding_proxies:
            proxy.half_open()

    @property
    def half_open_count(self) -> int:
        """Of those, how many some member still holds."""
        return sum(proxy.half_open_count for proxy in self._founding_proxies)

    def founders(self) -> list[ConsensusMember]:
        """The first voters."""
        return [
            ConsensusMember(id=address.id, url=address.url, peer_address=f"127.0.0.1:{port}")
            for address, port in zip(self.addresses, self._proxy_ports, strict=True)
        ]

    async def initialise(self, client: PeerClient) -> None:
        request = InitRequest(
            cluster_id=self._cluster_id, members=self.founders(), admitted_nodes=["storage-1", "storage-2"]
        )
        member = self.addresses[0]
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                try:
                    await client.call(member, "POST", "/v1/cluster/init", InitResponse, body=request, timeout_s=5.0)
                except NotLeaderError as error:
                    if "leader_url" in error.facts:
                        member = PeerAddress(error.facts["leader_id"], error.facts["leader_url"], Role.CONSENSUS)
                except TrivetError:
                    member = self.addresses[0]
                else:
                    return
                await asyncio.sleep(0.1)

    async def status(self, client: PeerClient, number: int) -> MemberStatus:
        return await client.call(self.addresses[number], "GET", "/v1/status", MemberStatus, timeout_s=2.0)

    async def wait_until_answering(self, client: PeerClient, number: int) -> None:
        """It has started, and its folder is there."""
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                with contextlib.suppress(TrivetError):
                    await self.status(client, number)
                    return
                await asyncio.sleep(0.05)

    async def leader(self, client: PeerClient) -> int:
        async with asyncio.timeout(READY_DEADLINE_S):
            while True:
                for number in range(len(self.addresses)):
                    with contextlib.suppress(TrivetError):
                        if (await self.status(client, number)).role == "leader":
                            return number
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self, *, is_new: bool = True) -> AsyncIterator[tuple[PeerClient, ConsensusClient]]:
        async with contextlib.AsyncExitStack() as stack:
            self._stack = stack
            self._proxies = await stack.enter_async_context(contextlib.AsyncExitStack())
            for address, port, target in zip(self.addresses, self._proxy_ports, self._peer_ports, strict=True):
                proxy = PeerProxy(address.id, port, target, self.cuts)
                self._founding_proxies.append(await self._proxies.enter_async_context(proxy))
            stack.callback(self._kill_all)
            for number in range(3):
                self.start(number)
            client = await stack.enter_async_context(ClientOfEveryRole(self._secret, ROUTE_CALLERS))
            if is_new:
                await self.initialise(client)
            for number in range(3):
                await self.wait_until_answering(client, number)
            yield client, ConsensusClient(self.addresses, client)

    async def close(self) -> None:
        """Everything dies at once, and the ports are free for others."""
        self._kill_all()
        await self._proxies.aclose()

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
