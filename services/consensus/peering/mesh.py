"""Raft messages over warm, authenticated TCP connections between the members.

Why not raftos' UDP: 64 KB per message, a public default key, identity by source address (C-7). Why not HTTP: a vote must
not wait for a connection, and a frame here costs microseconds.

Each member dials every other one and sends on its own connection only. A connection opens with a challenge:

    acceptor -> dialler   nonce (32 bytes, the first 8 of which name the protocol and its version)
    dialler  -> acceptor  hello {version, cluster_id, from, to, address, disk, disk identities, nonce} + HMAC over it and the
                          acceptor's nonce
    acceptor -> dialler   verdict, disk + HMAC over them and both nonces, so that the dialler knows whom it talks to

Both sides refuse a member whose disk is not the one they know under its name (`disk_identities`), and one that speaks another
version: the log says what it was, and nothing is guessed.

Then frames of msgpack go one way and beats the other (`link`). A connection that ends, or over which nothing gets through
any more, is replaced after a random wait, whose bound doubles for as long as that does not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import random
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgpack
import structlog

from services.consensus.peering.disk_identities import DISK_ID_BYTES, DiskIdentities
from services.consensus.peering.link import (
    BEAT_INTERVAL_S,
    MAX_FRAME_BYTES,
    IncomingLink,
    LinkError,
    LinkKeys,
    OutgoingLink,
)
from services.consensus.raft.configuration import Configuration
from services.consensus.raft.messages import MalformedMessageError, Message, Received, decode, encode
from shared.background_tasks import BackgroundTasks
from shared.backoff import Backoff
from shared.cluster_keys import PeerKeys, SigningKey
from shared.roles import Role
from shared.units import KIB

logger = structlog.get_logger(__name__)

RECONNECT_S: Final = 0.05
RECONNECT_MAX_S: Final = 1.0
HANDSHAKE_TIMEOUT_S: Final = 2.0
PROTOCOL_VERSION: Final = 1
_ANNOUNCEMENT: Final = struct.Struct(">6sH")
_PROTOCOL_NAME: Final = b"trivet"
_NONCE_BYTES: Final = 32
_MAC_BYTES: Final = 32
_ACCEPTED: Final = b"\x00"
_UNKNOWN_DISK: Final = b"\x01"
MAX_HELLO_BYTES: Final = 4 * KIB
"""Enough for the longest names and addresses of the largest group; read before anything is proved."""
_READ_BUFFER_BYTES: Final = 64 * KIB
HANDSHAKE_LIMIT: Final = 64
_LENGTH: Final = struct.Struct(">I")


class HandshakeError(Exception):
    """The other side did not prove that it is a member, or it belongs to another cluster."""


def _proof(key: SigningKey, role: bytes, *parts: bytes) -> bytes:
    return hmac.new(key.secret, b"trivet peer 1\0" + role + b"\0" + b"\0".join(parts), hashlib.sha256).digest()


def _link_keys(key: SigningKey, acceptor_nonce: bytes, dialler_nonce: bytes) -> LinkKeys:
    return LinkKeys(
        frames=_proof(key, b"session", acceptor_nonce, dialler_nonce),
        beats=_proof(key, b"beats", acceptor_nonce, dialler_nonce),
    )


def _check_announcement(peer: str, nonce: bytes) -> None:
    name, version = _ANNOUNCEMENT.unpack_from(nonce)
    if name != _PROTOCOL_NAME:
        raise HandshakeError(f"what listens at the address of {peer} does not speak the peer protocol")
    _check_version(peer, version)


def _check_version(peer: str, version: object) -> None:
    if version != PROTOCOL_VERSION:
        raise HandshakeError(
            f"{peer} speaks version {version} of the peer protocol, this member only {PROTOCOL_VERSION}: "
            "run the same version of Trivet on both"
        )


class PeerMesh:
    """The `Network` of the engine, over TCP.

    Invariant: a message handed to `on_message` came from the member named in it, on a connection of this cluster.
    """

    def __init__(
        self,
        member_id: str,
        cluster_id: str,
        keys: PeerKeys,
        disks: DiskIdentities,
        *,
        host: str,
        port: int,
        beat_interval_s: float = BEAT_INTERVAL_S,
        handshake_limit: int = HANDSHAKE_LIMIT,
    ) -> None:
        self._id = member_id
        self._disks = disks
        self._cluster_id = cluster_id
        # No key that another role has is among them: gateways and storage nodes cannot vote.
        self._keys = keys.pairs[Role.CONSENSUS, Role.CONSENSUS]
        self._host = host
        self._port = port
        self._beat_interval_s = beat_interval_s
        self._own_address = ""
        self._addresses: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._callers: Counter[str] = Counter()
        self._links: dict[str, OutgoingLink] = {}
        self._diallers: dict[str, asyncio.Task[None]] = {}
        self._tasks = BackgroundTasks(limit=256)
        self._handshake_limit = handshake_limit
        self._accepted_links: dict[asyncio.Task[object], asyncio.StreamWriter] = {}
        self._handshakes: dict[asyncio.StreamWriter, None] = {}
        """Connections whose caller has proved nothing yet, oldest first."""
        self._server: asyncio.Server | None = None
        self._disowned_by: set[str] = set()
        self.on_message: Callable[[Received[Message]], None] = _ignore
        self.on_link_change: Callable[[str], None] = _ignore

    async def start(self) -> None:
        """Listen for the other members. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accepted, self._host, self._port, limit=_READ_BUFFER_BYTES)

    async def aclose(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        await self._tasks.aclose()
        for writer in self._accepted_links.values():
            writer.transport.abort()
        # Not cancelled: each ends by itself at the end of its connection.
        await asyncio.gather(*self._accepted_links, return_exceptions=True)

    @property
    def is_disowned(self) -> bool:
        """Whether others know this member's name with another disk."""
        return bool(self._disowned_by)

    def connected_peers(self) -> list[str]:
        """To whom messages can go out now."""
        return sorted(self._links)

    def round_trip_ms(self, peer: str) -> int | None:
        """How long a message there and its answer take now; None when there is no link, or not for long enough."""
        link = self._links.get(peer)
        return None if link is None else link.round_trip_ms

    def configure(self, configuration: Configuration) -> None:
        """See `Network`: keep a warm connection to each other member, drop the rest.

        A member that was removed is answered for as long as it calls: it may be the leader that must learn from us that
        its removal is committed.
        """
        own = configuration.find(self._id)
        self._own_address = own.peer_address if own else self._own_address
        self._wanted = {m.id: m.peer_address for m in configuration.members if m.id != self._id}
        for peer in list(self._diallers):
            self._drop_if_unwanted(peer)
        for peer, address in self._wanted.items():
            self._dial(peer, address)

    def post(self, message: Message, destination: str) -> None:
        """See `Network`."""
        link = self._links.get(destination)
        if link is None:
            return
        payload = encode(message)
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError(f"a message of {len(payload)} bytes cannot be framed")
        if not link.send(payload):
            # What was dropped must be sent again: the engine goes back to what it knows.
            self.on_link_change(destination)

    # --- dialling -----------------------------------------------------------------------------------------------

    def _dial(self, peer: str, address: str) -> None:
        if peer not in self._diallers:
            self._addresses[peer] = address
            self._diallers[peer] = self._tasks.start(f"peer link to {peer}", self._keep_connected(peer, address))

    def _drop_if_unwanted(self, peer: str) -> None:
        wanted, current = self._wanted.get(peer), self._addresses.get(peer)
        is_calling = self._callers[peer] > 0
        if peer in self._diallers and wanted != current and not (wanted is None and is_calling):
            self._drop(peer)

    def _drop(self, peer: str) -> None:
        self._diallers.pop(peer).cancel()
        self._addresses.pop(peer, None)
        link = self._links.pop(peer, None)
        if link is not None:
            link.abort()

    async def _keep_connected(self, peer: str, address: str) -> None:
        retry, complaint = Backoff(RECONNECT_S, RECONNECT_MAX_S, random.random), ""
        host, _, port = address.rpartition(":")
        while True:
            try:
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        link = await self._introduce(peer, reader, writer)
                    except BaseException:
                        await _close(writer)
                        raise
                has_carried = await self._hold(peer, link, writer)
            except (LinkError, HandshakeError) as error:
                if str(error) != complaint:  # once, not at every attempt
                    logger.warning("peer link refused", peer=peer, reason=str(error))
                has_carried, complaint = False, str(error)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                logger.debug("peer not reachable", peer=peer, error=repr(error))
                has_carried = False
            if has_carried:
                retry.succeeded()
                complaint = ""
            await asyncio.sleep(retry.failed())

    async def _hold(self, peer: str, link: OutgoingLink, writer: asyncio.StreamWriter) -> bool:
        """The link is up until it ends. Returns whether it was of any use."""
        self._links[peer] = link
        self.on_link_change(peer)
        try:
            await link.hold(self._beat_interval_s)
        finally:
            await _close(writer)
            if self._links.get(peer) is link:
                del self._links[peer]
                self.on_link_change(peer)
        if link.is_dead:
            logger.warning("nothing gets through to a member any more: dialling it again", peer=peer)
        return link.has_carried

    async def _introduce(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> OutgoingLink:
        key = self._keys.signing
        their_nonce = await reader.readexactly(_NONCE_BYTES)
        _check_announcement(peer, their_nonce)
        own_nonce = secrets.token_bytes(_NONCE_BYTES)
        hello = bytes(
            msgpack.packb(
                [
                    PROTOCOL_VERSION,
                    key.id,
                    self._cluster_id,
                    self._id,
                    peer,
                    self._own_address,
                    self._disks.own,
                    {member: disk for member, disk in self._disks.known.items() if member in self._wanted},
                    own_nonce,
                ]
            )
        )
        writer.write(_LENGTH.pack(len(hello)) + hello + _proof(key, b"hello", their_nonce, hello))
        verdict, disk = await reader.readexactly(1), await reader.readexactly(DISK_ID_BYTES)
        proof = await reader.readexactly(_MAC_BYTES)
        if not hmac.compare_digest(proof, _proof(key, b"welcome", their_nonce, own_nonce, verdict, disk)):
            raise HandshakeError(f"{peer} does not know the key of this member")
        if verdict != _ACCEPTED:
            self._disowned_by.add(peer)
            raise HandshakeError(f"{peer} knows this member with another disk")
        self._disowned_by.discard(peer)
        if not self._disks.accept(peer, disk):
            raise HandshakeError(f"{peer} has another disk than before")
        keys = _link_keys(key, their_nonce, own_nonce)
        return OutgoingLink(reader, writer, keys)

    # --- accepting ----------------------------------------------------------------------------------------------

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's server makes this task and forgets it; without a list of them nothing would end at `aclose`.
        task = asyncio.current_task()
        assert task is not None
        self._accepted_links[task] = writer
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                with self._handshake_slot(writer):
                    peer, link = await self._welcome(reader, writer)
            self._callers[peer] += 1
            try:
                await link.receive(lambda payload: self._deliver(payload, peer), self._beat_interval_s)
            finally:
                if link.is_dead:
                    logger.warning("nothing comes from a member any more: closing its connection", peer=peer)
                self._callers[peer] -= 1
                if self._wanted:  # a member that was never initialised answers whoever has called
                    self._drop_if_unwanted(peer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except (HandshakeError, LinkError, MalformedMessageError) as error:
            logger.warning("peer connection refused", reason=str(error))
        finally:
            del self._accepted_links[task]
            await _close(writer)

    def _deliver(self, payload: bytes, peer: str) -> None:
        received = decode(payload, peer)
        if received is not None:
            self.on_message(received)

    @contextlib.contextmanager
    def _handshake_slot(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """One of few. When all are taken the oldest is cut off: a member needs milliseconds, who waits has nothing to say."""
        if len(self._handshakes) >= self._handshake_limit:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.transport.abort()
        self._handshakes[writer] = None
        try:
            yield
        finally:
            self._handshakes.pop(writer, None)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, IncomingLink]:
        own_nonce = _ANNOUNCEMENT.pack(_PROTOCOL_NAME, PROTOCOL_VERSION) + secrets.token_bytes(
            _NONCE_BYTES - _ANNOUNCEMENT.size
        )
        writer.write(own_nonce)
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_HELLO_BYTES:
            raise HandshakeError("the hello is too long")
        hello = await reader.readexactly(length)
        proof = await reader.readexactly(_MAC_BYTES)
        caller = _parse_hello(hello)
        key = self._keys.find(caller.key_id)
        if key is None or not hmac.compare_digest(proof, _proof(key, b"hello", own_nonce, hello)):
            raise HandshakeError("the caller has no key of a member of this cluster, or runs version 0.2.0")
        _check_version(caller.member, caller.version)
        if (caller.cluster_id, caller.destination) != (self._cluster_id, self._id):
            raise HandshakeError(f"a stranger called: {caller}")
        is_known = self._disks.accept(caller.member, caller.disk)
        verdict = _ACCEPTED if is_known else _UNKNOWN_DISK
        writer.write(
            verdict + self._disks.own + _proof(key, b"welcome", own_nonce, caller.nonce, verdict, self._disks.own)
        )
        if not is_known:
            await writer.drain()
            raise HandshakeError(f"{caller.member} has another disk than before; it must come back under a new id")
        self._disks.learn({member: disk for member, disk in caller.disk_identities.items() if member != self._id})
        if caller.address:
            # A member that was never initialised learns from its callers whom it can answer.
            self._dial(caller.member, caller.address)
        keys = _link_keys(key, own_nonce, caller.nonce)
        return caller.member, IncomingLink(reader, writer, keys)


async def _close(writer: asyncio.StreamWriter) -> None:
    # Not close(): it would wait until a peer that no longer reads has taken everything.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class _Hello(NamedTuple):
    version: int
    key_id: str
    cluster_id: str
    member: str
    destination: str
    address: str
    disk: bytes
    disk_identities: dict[str, str]
    nonce: bytes


def _parse_hello(hello: bytes) -> _Hello:
    try:
        return _Hello(*msgpack.unpackb(hello))
    except (ValueError, TypeError) as error:
        raise HandshakeError("the hello is malformed") from error


def _ignore(_: object) -> None:
    pass
