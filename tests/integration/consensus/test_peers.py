"""Raft's transport over real sockets: authentic, ordered, warm; nothing from strangers gets through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import pytest
from structlog.testing import capture_logs

from services.consensus.duties.membership import MAX_MEMBERS
from services.consensus.peering.disk_identities import DiskIdentities
from services.consensus.peering.link import MAX_FRAME_BYTES, SILENT_BEATS
from services.consensus.peering.mesh import MAX_HELLO_BYTES, PeerMesh
from services.consensus.raft.configuration import Configuration
from shared.cluster_keys import derive_peer_keys
from shared.contracts.cluster import ConsensusMember
from shared.roles import Role
from tests.free_ports import free_port
from tests.integration.consensus.meshes import OTHER_SECRET, SECRET, Harness, message
from tests.waiting import wait_until

BEAT_BYTES = 8 + 16


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path)
    yield made
    for mesh in made.meshes.values():
        await mesh.aclose()


async def test_messages_arrive_in_order_with_their_sender(harness: Harness) -> None:
    """One connection carries everything of one member, in order."""
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    for number in range(500):
        first.post(message("test", number=number, body=b"x" * number), "m2")
    await wait_until(lambda: len(harness.received["m2"]) == 500)
    assert [received.message.offset for received in harness.received["m2"]] == list(range(500))
    assert {received.sender for received in harness.received["m2"]} == {"m1"}


async def test_a_member_without_configuration_learns_whom_to_answer(harness: Harness) -> None:
    """Before the cluster is made, only its first member knows the others; they answer it all the same."""
    first = await harness.start("m1")
    second = await harness.start("m2", knows_peers=False)
    await wait_until(lambda: first.connected_peers() == ["m2"] and second.connected_peers() == ["m1"])
    second.post(message("answer"), "m1")
    await wait_until(lambda: len(harness.received["m1"]) == 1)


async def test_a_link_comes_back_after_a_restart_and_says_so(harness: Harness) -> None:
    """The engine hears of a lost link, because what was in flight is gone."""
    first = await harness.start("m1")
    second = await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    changes: list[str] = []
    first.on_link_change = changes.append
    await second.aclose()
    await wait_until(lambda: not first.connected_peers())
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    assert changes == ["m2", "m2"]


@pytest.mark.parametrize(
    ("secret", "cluster_id"), [(OTHER_SECRET, "cluster-1"), (SECRET, "cluster-2")], ids=["secret", "cluster"]
)
async def test_a_stranger_is_never_connected(harness: Harness, secret: str, cluster_id: str) -> None:
    """Neither a wrong secret nor another cluster's member gets a message through, in either direction."""
    first = await harness.start("m1")
    stranger = await harness.start("m2", keys=derive_peer_keys(secret, Role.CONSENSUS), cluster_id=cluster_id)
    refusals = 0
    with contextlib.suppress(AssertionError):
        await wait_until(lambda: bool(first.connected_peers() or stranger.connected_peers()), within_s=1.0)
        refusals = -1
    assert refusals == 0, "the stranger was connected"
    first.post(message("secret"), "m2")
    stranger.post(message("forged"), "m1")
    assert harness.received == {"m1": [], "m2": []}


async def test_a_rotated_secret_connects_old_and_new(harness: Harness) -> None:
    """While a secret is rotated, each side accepts both."""
    first = await harness.start("m1", keys=derive_peer_keys(f"{SECRET}\n{OTHER_SECRET}", Role.CONSENSUS))
    second = await harness.start("m2", keys=derive_peer_keys(f"{OTHER_SECRET}\n{SECRET}", Role.CONSENSUS))
    await wait_until(lambda: bool(first.connected_peers()) and bool(second.connected_peers()))


class TamperingRelay:
    """Stands between two members and changes what passes."""

    def __init__(
        self, target_port: int, change: Callable[[bytes], bytes], change_answer: Callable[[bytes], bytes] = bytes
    ) -> None:
        self.target_port = target_port
        self.change = change
        self.change_answer = change_answer
        self.port = free_port()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, change: Callable[[bytes], bytes]
        ) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(change(data))
            sink.close()

        await asyncio.gather(pump(reader, upstream, self.change), pump(upstream_reader, writer, self.change_answer))


@pytest.mark.parametrize("attack", ["flip", "repeat"])
async def test_a_changed_or_repeated_frame_ends_the_connection(harness: Harness, attack: str) -> None:
    """Frames are numbered and authenticated: nothing that was tampered with is delivered."""

    def change(data: bytes) -> bytes:
        if b"m" * 50 not in data:
            return data
        return data.replace(b"m" * 50, b"n" * 50) if attack == "flip" else data + data

    async with TamperingRelay(harness.ports["m2"], change) as relay:
        disks = DiskIdentities(harness.folder / "m1")
        mesh = PeerMesh(
            "m1", "cluster-1", derive_peer_keys(SECRET, Role.CONSENSUS), disks, host="127.0.0.1", port=free_port()
        )
        await mesh.start()
        harness.meshes["m1"] = mesh
        await harness.start("m2", knows_peers=False)
        own = ConsensusMember(id="m1", url="http://m1", peer_address="")
        via = ConsensusMember(id="m2", url="http://m2", peer_address=f"127.0.0.1:{relay.port}")
        losses: list[str] = []
        mesh.on_link_change = losses.append
        mesh.configure(Configuration("cluster-1", (own, via)))
        await wait_until(lambda: mesh.connected_peers() == ["m2"])
        mesh.post(message("marked", body=b"m" * 50), "m2")
        await wait_until(lambda: losses.count("m2") >= 2)
    bodies = [received.message.data for received in harness.received["m2"]]
    assert bodies == ([] if attack == "flip" else [b"m" * 50])


@pytest.mark.parametrize("attack", ["flip", "repeat"])
async def test_a_changed_or_repeated_beat_ends_the_connection(harness: Harness, attack: str) -> None:
    """Who keeps a dead connection alive by inventing that bytes arrived could keep a cluster without a leader."""
    harness.beat_interval_s = 0.02
    beats: list[bytes] = []

    def change(data: bytes) -> bytes:
        if len(data) != BEAT_BYTES:
            return data
        beats.append(data)
        return bytes([data[0] ^ 1]) + data[1:] if attack == "flip" else beats[0]

    async with TamperingRelay(harness.ports["m2"], bytes, change) as relay:
        harness.dialled["m2"] = relay.port
        await harness.start("m2", knows_peers=False)
        first = await harness.start("m1")
        losses: list[str] = []
        first.on_link_change = losses.append
        await wait_until(lambda: losses.count("m2") >= 2)
        await first.aclose()
    assert len(beats) < SILENT_BEATS


async def test_an_endless_frame_is_refused(harness: Harness) -> None:
    """A frame's length is bounded before its bytes are read."""
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    with pytest.raises(ValueError, match="cannot be framed"):
        first.post(message("huge", body=b"x" * (MAX_FRAME_BYTES + 1)), "m2")


async def test_a_member_that_lost_its_disk_is_refused_and_told(harness: Harness) -> None:
    """Under its old name it could vote twice; both directions are refused, for good."""
    first = await harness.start("m1")
    second = await harness.start("m2")
    await wait_until(lambda: bool(first.connected_peers()) and bool(second.connected_peers()))
    await second.aclose()
    await wait_until(lambda: not first.connected_peers())
    wiped = await harness.start("m2", disk="m2 with a new disk")
    await wait_until(lambda: wiped.is_disowned)
    wiped.post(message("vote"), "m1")
    assert not first.connected_peers()
    await wiped.aclose()
    assert harness.received["m1"] == []
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])


async def test_strangers_that_say_nothing_hold_few_connections_and_keep_no_member_out(harness: Harness) -> None:
    """One more than the limit ends the oldest; a member proves itself at once, and its connection is then no stranger's."""
    harness.handshake_limit = 8
    first = await harness.start("m1")
    second = await harness.start("m2")
    await wait_until(lambda: bool(first.connected_peers()) and bool(second.connected_peers()))
    strangers = [await asyncio.open_connection("127.0.0.1", harness.ports["m2"]) for _ in range(3 * 8)]
    for reader, _ in strangers:
        await reader.readexactly(32)
    assert len(second._handshakes) <= 8
    ended = [reader.read() for reader, _ in strangers[: 2 * 8]]
    with contextlib.suppress(ConnectionError):
        assert await asyncio.gather(*ended) == [b""] * len(ended)
    assert not strangers[-1][0].at_eof(), "the youngest one still has its time"
    assert first.connected_peers() == ["m2"]
    await first.aclose()
    await harness.start("m1")
    await wait_until(lambda: harness.meshes["m1"].connected_peers() == ["m2"])
    for _, writer in strangers:
        writer.close()


@pytest.mark.parametrize(
    ("length", "sent_bytes", "reason"),
    [
        (MAX_HELLO_BYTES, MAX_HELLO_BYTES, "malformed"),
        (MAX_HELLO_BYTES + 1, 0, "too long"),
        (0xFFFFFFFF, 0, "too long"),
    ],
)
async def test_a_hello_is_bounded_before_its_bytes_are_read(
    harness: Harness, length: int, sent_bytes: int, reason: str
) -> None:
    """Nobody has proved anything yet: one byte more than the bound ends the connection at once, whether it comes or not."""
    await harness.start("m2", knows_peers=False)
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.ports["m2"])
    with capture_logs() as logs:
        await reader.readexactly(32)
        writer.write(length.to_bytes(4, "big") + b"\0" * sent_bytes + b"\0" * 32)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await wait_until(lambda: bool(logs))
    assert reason in logs[0]["reason"]
    writer.close()


async def test_the_hello_of_the_largest_group_fits(harness: Harness) -> None:
    """Nine members with the longest names and addresses, all of whose disks are known."""
    names = ["m1", "m2", *(f"{number}".ljust(63, "x") for number in range(MAX_MEMBERS - 2))]
    disks = DiskIdentities(harness.folder / "m1")
    disks.learn({name: b"d".hex() * 16 for name in names[2:]})
    first = await harness.start("m1", knows_peers=False)
    await harness.start("m2", knows_peers=False)
    address = {"m1": f"{'h' * 253}:65535", "m2": f"127.0.0.1:{harness.ports['m2']}"}
    members = [
        ConsensusMember(id=name, url="http://h", peer_address=address.get(name, "127.0.0.1:1")) for name in names
    ]
    first.configure(Configuration("cluster-1", tuple(members)))
    await wait_until(lambda: first.connected_peers() == ["m2"])
