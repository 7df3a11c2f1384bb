"""One version of the peer protocol is spoken; a member of another version is refused with a sentence that says so.

Both sides are spoken here by hand, from the protocol's description, so that it cannot change unnoticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from structlog.testing import capture_logs

from services.consensus.raft.messages import Message, RequestVoteResponse, TimeoutNow
from shared.cluster_keys import SigningKey, derive_peer_keys, seals_of_0_2_0
from shared.roles import Role
from tests.integration.consensus.meshes import SECRET, Harness
from tests.waiting import wait_until

VERSION = 1
VOTE = {"type": "request_vote_response", "term": 4, "vote_granted": True}
DISK = b"d" * 16
KEYS = derive_peer_keys(SECRET, Role.CONSENSUS)
KEY = KEYS.pairs[Role.CONSENSUS, Role.CONSENSUS].signing
SECRET_KEY = seals_of_0_2_0(SECRET).signing
"""With which members of version 0.2.0 prove themselves."""


def proof(role: bytes, *parts: bytes, key: SigningKey = KEY) -> bytes:
    return hmac.new(key.secret, b"trivet peer 1\0" + role + b"\0" + b"\0".join(parts), hashlib.sha256).digest()


def frame(session: bytes, number: int, message: dict[str, Any]) -> bytes:
    payload = msgpack.packb(message)
    return (
        struct.pack(">I", len(payload)) + blake3(struct.pack(">Q", number) + payload, key=session).digest(16) + payload
    )


def heard(harness: Harness) -> list[Message]:
    return [received.message for received in harness.received["m2"]]


def announcement(version: int) -> bytes:
    return b"trivet" + struct.pack(">H", version) + secrets.token_bytes(24)


async def dial(
    port: int, *, version: int = VERSION, key: SigningKey = KEY
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """As the member m1 of that version; returns the connection and its key, or raises IncompleteReadError when refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        nonce, own_nonce = await reader.readexactly(32), secrets.token_bytes(32)
        assert nonce.startswith(b"trivet" + struct.pack(">H", VERSION))
        hello = msgpack.packb([version, key.id, "cluster-1", "m1", "m2", "", DISK, {}, own_nonce])
        writer.write(struct.pack(">I", len(hello)) + hello + proof(b"hello", nonce, hello, key=key))
        verdict, disk, shown = await reader.readexactly(1), await reader.readexactly(16), await reader.readexactly(32)
    except BaseException:
        writer.close()
        raise
    assert verdict == b"\0"
    assert shown == proof(b"welcome", nonce, own_nonce, verdict, disk, key=key)
    return reader, writer, proof(b"session", nonce, own_nonce, key=key)


class Acceptor:
    """The member m2, spoken by hand: announces `nonce`, keeps every hello."""

    def __init__(self, nonce: bytes, key: SigningKey = KEY) -> None:
        self._nonce = nonce
        self._key = key
        self.calls = 0
        self.versions: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            writer.write(self._nonce)
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            hello = await reader.readexactly(length)
            shown = await reader.readexactly(32)
            version, key_id, *_, their_nonce = msgpack.unpackb(hello)
            if key_id == self._key.id:
                assert shown == proof(b"hello", self._nonce, hello, key=self._key)
                self.versions.append(version)
                welcome = proof(b"welcome", self._nonce, their_nonce, b"\0", DISK, key=self._key)
                writer.write(b"\0" + DISK + welcome)
                await reader.read()
        writer.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path)
    yield made
    for mesh in made.meshes.values():
        await mesh.aclose()


async def test_a_dialler_of_this_version_is_heard(harness: Harness) -> None:
    """Hello, frames and their keys are as described."""
    await harness.start("m2", knows_peers=False)
    _, writer, session = await dial(harness.ports["m2"], version=VERSION)
    writer.write(frame(session, 0, {"type": "timeout_now", "term": 3}) + frame(session, 1, VOTE))
    await wait_until(lambda: heard(harness) == [TimeoutNow(3), RequestVoteResponse(4, vote_granted=True)])
    writer.close()


@pytest.mark.parametrize("sender", [Role.GATEWAY, Role.STORAGE, Role.OPERATOR])
async def test_only_members_are_welcome(harness: Harness, sender: Role) -> None:
    """A key by which another role calls members over HTTP opens no link, nor what 0.2.0 has: nobody else votes."""
    mesh = await harness.start("m2", knows_peers=False)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await dial(harness.ports["m2"], key=KEYS.pairs[sender, Role.CONSENSUS].signing)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await dial(harness.ports["m2"], key=SECRET_KEY)
    assert mesh.connected_peers() == []


async def test_a_kind_of_message_that_only_a_later_version_knows_is_passed_over(harness: Harness) -> None:
    """During an upgrade the link stands, and what comes behind it is heard."""
    await harness.start("m2", knows_peers=False)
    _, writer, session = await dial(harness.ports["m2"], version=VERSION)
    writer.write(frame(session, 0, {"type": "of_a_later_version", "news": [1]}) + frame(session, 1, VOTE))
    await wait_until(lambda: heard(harness) == [RequestVoteResponse(4, vote_granted=True)])
    writer.close()


async def test_a_message_that_is_none_ends_the_connection(harness: Harness) -> None:
    """The log says from whom it came; the engine never sees it."""
    await harness.start("m2", knows_peers=False)
    reader, writer, session = await dial(harness.ports["m2"], version=VERSION)
    with capture_logs() as logs:
        writer.write(frame(session, 0, VOTE | {"vote_granted": "yes"}))
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
    assert any("m1 sent what is no message" in str(entry.get("reason")) for entry in logs)
    assert heard(harness) == []
    writer.close()


async def test_an_acceptor_of_this_version_is_spoken_to(harness: Harness) -> None:
    """Its announcement and its proof are as described."""
    acceptor = Acceptor(announcement(VERSION))
    async with await asyncio.start_server(acceptor.serve, "127.0.0.1", harness.ports["m2"]):
        first = await harness.start("m1")
        await wait_until(lambda: first.connected_peers() == ["m2"])
        assert acceptor.versions == [VERSION]
        await first.aclose()


@pytest.mark.parametrize("version", [0, 2])
async def test_a_dialler_of_another_version_is_refused_with_a_sentence(harness: Harness, version: int) -> None:
    """It is a member, by its proof; the log names both versions."""
    await harness.start("m2", knows_peers=False)
    with capture_logs() as logs:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await dial(harness.ports["m2"], version=version)
        await wait_until(lambda: bool(logs))
    assert f"m1 speaks version {version} of the peer protocol, this member only {VERSION}" in logs[0]["reason"]


@pytest.mark.parametrize(
    ("nonce", "sentence"),
    [
        (announcement(2), f"m2 speaks version 2 of the peer protocol, this member only {VERSION}"),
        (b"nonsense" * 4, "does not speak the peer protocol"),
    ],
    ids=["newer", "stranger"],
)
async def test_an_acceptor_of_another_version_gets_no_hello_and_one_warning(
    harness: Harness, nonce: bytes, sentence: str
) -> None:
    """However often it is dialled."""
    acceptor = Acceptor(nonce)
    with capture_logs() as logs:
        async with await asyncio.start_server(acceptor.serve, "127.0.0.1", harness.ports["m2"]):
            first = await harness.start("m1")
            await wait_until(lambda: acceptor.calls >= 3)
            await first.aclose()
    assert acceptor.versions == []
    warnings = [log["reason"] for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == 1
    assert sentence in warnings[0]


async def test_the_announcement_is_part_of_the_challenge(harness: Harness) -> None:
    """Who changes it on the way makes the dialler's proof wrong, so nobody can choose a version for two members."""
    second = await harness.start("m2", knows_peers=False)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_second, to_second = await asyncio.open_connection("127.0.0.1", harness.ports["m2"])
        nonce = await from_second.readexactly(32)
        writer.write(nonce[:31] + bytes([nonce[31] ^ 1]))
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
