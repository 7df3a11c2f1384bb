"""Members of two versions of the peer protocol understand each other, and nobody on the way can choose the older one.

The first version is spoken here by hand, from its description: what shipped members say must not drift with our code.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from blake3 import blake3

from services.consensus.peering.link import SILENT_BEATS
from shared.cluster_keys import ClusterKeys
from tests.integration.consensus.meshes import SECRET, Harness, wait_until

BEAT_S = 0.02
FAR_BEYOND_SILENCE_S = 3 * SILENT_BEATS * BEAT_S
DISK = b"d" * 16
KEY = ClusterKeys.parse(SECRET).signing


def proof(role: bytes, *parts: bytes) -> bytes:
    return hmac.new(KEY.secret, b"trivet peer 1\0" + role + b"\0" + b"\0".join(parts), hashlib.sha256).digest()


def frame(session: bytes, number: int, message: dict[str, Any]) -> bytes:
    payload = msgpack.packb(message)
    return (
        struct.pack(">I", len(payload)) + blake3(struct.pack(">Q", number) + payload, key=session).digest(16) + payload
    )


async def dial(port: int, *, version: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """As the member m1 of that version; returns the connection and its key, or raises IncompleteReadError when refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        nonce, own_nonce = await reader.readexactly(32), secrets.token_bytes(32)
        hello = msgpack.packb([version, KEY.id, "cluster-1", "m1", "m2", "", DISK, {}, own_nonce])
        writer.write(struct.pack(">I", len(hello)) + hello + proof(b"hello", nonce, hello))
        verdict, disk, shown = await reader.readexactly(1), await reader.readexactly(16), await reader.readexactly(32)
    except BaseException:
        writer.close()
        raise
    assert verdict == b"\0"
    assert shown == proof(b"welcome", nonce, own_nonce, verdict, disk)
    return reader, writer, proof(b"session", nonce, own_nonce)


class Acceptor:
    """The member m2, spoken by hand: keeps every hello and all that comes after it."""

    def __init__(self, nonce: Callable[[], bytes]) -> None:
        self._nonce = nonce
        self.versions: list[int] = []
        self.after = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            nonce = self._nonce()
            writer.write(nonce)
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            hello = await reader.readexactly(length)
            assert await reader.readexactly(32) == proof(b"hello", nonce, hello)
            version, *_, their_nonce = msgpack.unpackb(hello)
            self.versions.append(version)
            writer.write(b"\0" + DISK + proof(b"welcome", nonce, their_nonce, b"\0", DISK))
            while data := await reader.read(65536):
                self.after += data
        writer.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path, beat_interval_s=BEAT_S)
    yield made
    for mesh in made.meshes.values():
        await mesh.aclose()


async def test_an_old_dialler_is_heard_and_gets_no_beats(harness: Harness) -> None:
    """Any byte from the acceptor ends a link of version 1, and its silence proves nothing: it has no empty frames."""
    await harness.start("m2", knows_peers=False)
    reader, writer, session = await dial(harness.ports["m2"], version=1)
    writer.write(frame(session, 0, {"type": "first"}))
    await wait_until(lambda: len(harness.received["m2"]) == 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(FAR_BEYOND_SILENCE_S):
            await reader.read(1)
    writer.write(frame(session, 1, {"type": "second"}))
    await wait_until(lambda: [one["type"] for one in harness.received["m2"]] == ["first", "second"])
    writer.close()


async def test_an_old_acceptor_is_spoken_to_in_its_own_version(harness: Harness) -> None:
    """It announces nothing and refuses every version but its own; the link is kept though no beat ever comes."""
    acceptor = Acceptor(lambda: secrets.token_bytes(32))
    async with await asyncio.start_server(acceptor.serve, "127.0.0.1", harness.ports["m2"]):
        first = await harness.start("m1")
        await wait_until(lambda: first.connected_peers() == ["m2"])
        await asyncio.sleep(FAR_BEYOND_SILENCE_S)
        assert acceptor.versions == [1]
        assert acceptor.after == b"", "an old acceptor would take an empty frame for a broken message"
        first.post({"type": "message"}, "m2")
        await wait_until(lambda: b"message" in acceptor.after)
        await first.aclose()


async def test_a_newer_acceptor_is_spoken_to_in_the_newest_version_known_here(harness: Harness) -> None:
    """So that the next version can be rolled out as this one was."""
    acceptor = Acceptor(lambda: b"trivet" + struct.pack(">H", 7) + secrets.token_bytes(24))
    async with await asyncio.start_server(acceptor.serve, "127.0.0.1", harness.ports["m2"]):
        first = await harness.start("m1")
        await wait_until(lambda: acceptor.versions == [2])
        await first.aclose()


@pytest.mark.parametrize("version", [0, 3])
async def test_a_version_that_is_not_known_here_is_refused(harness: Harness, version: int) -> None:
    """A newer dialler has read the announcement, so one that does not keep to it is no member of ours."""
    await harness.start("m2", knows_peers=False)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await dial(harness.ports["m2"], version=version)


async def test_nobody_on_the_way_can_choose_the_older_version(harness: Harness) -> None:
    """The announcement is part of the challenge: who changes it makes the dialler's proof wrong."""
    second = await harness.start("m2", knows_peers=False)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_second, to_second = await asyncio.open_connection("127.0.0.1", harness.ports["m2"])
        nonce = await from_second.readexactly(32)
        assert nonce.startswith(b"trivet")
        writer.write(secrets.token_bytes(8) + nonce[8:])
        with contextlib.suppress(OSError):
            to_second.write(await reader.read(65536))
            writer.write(await from_second.read(65536))
        writer.close()
        to_second.close()
        refused.append(True)

    refused: list[bool] = []
    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        harness.dialled["m2"] = server.sockets[0].getsockname()[1]
        first = await harness.start("m1")
        await wait_until(lambda: len(refused) >= 2)
        assert first.connected_peers() == []
        assert second.connected_peers() == []
        await first.aclose()
