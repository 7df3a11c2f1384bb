"""Who may speak to an internal port: requests signed with the key of a pair of roles, for one destination, once (X-14, X-161).

The key says what the caller is (`VerifiedRequest.caller`): nobody else has it but the destination's own role.

A signature covers method, raw path with query, destination, nonce and the digest of the body. A chunk's digest is its
name, so a chunk upload is never hashed a second time for the signature.

No clock is involved, because a node with a wrong clock must still be able to store and heal. Freshness comes from the
receiver's *boot id*, a random name that it makes at start: a request is signed for `storage-2/<boot id>`, and a caller
that does not know the boot id yet learns it from the 401 answer (as in HTTP digest authentication). Within one boot a
nonce is `<sender instance>.<counter>`, and the receiver keeps a sliding window per sender (as IPsec does, RFC 6479), so a
recorded request is refused both in the same boot and in every later one.

An answer carries a MAC over the request's MAC, its own status, its `x-trivet-...` headers and the digest of its body
(`ANSWER_MAC_HEADER`, X-100). Only the destination can make it, so another program on its port cannot acknowledge anything, and
no answer fits another request. Not hashed for it are a chunk, which the request names by its digest, a stream, whose digest is
in a header, and what stands behind the head of a batch, which has the digests.
"""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3

from shared.cluster_keys import PeerKeys, SigningKey
from shared.errors import ForbiddenError, SignatureRejectedError
from shared.peer_address import PeerAddress
from shared.roles import Role

SCHEME: Final = "Trivet-HMAC"
BODY_DIGEST_HEADER: Final = "x-trivet-body-digest"
COVERED_PREFIX: Final = "x-trivet-"
ANSWER_MAC_HEADER: Final = "x-trivet-answer-mac"
EMPTY_BODY_DIGEST: Final = blake3(b"").hexdigest()

_BOOT_ID: Final = re.compile("[0-9a-f]{16}")
_KNOWS_PAIRS: Final = 'keys="pairs"'
"""In a challenge, for version 0.3.0: it would sign with the cluster secret, where it still has that, for who does not say it."""
_WINDOW: Final = 8192
_WINDOW_MASK: Final = (1 << _WINDOW) - 1
_MAX_SENDERS: Final = 1024


def _mac(key: SigningKey, *parts: str) -> str:
    # In one call: half the cost of an HMAC object.
    return hmac.digest(key.secret, "\n".join(parts).encode(), "sha256").hex()


class AnswerFacts(NamedTuple):
    """What the MAC of an answer is over, beside its request.

    Attributes:
        body_digest: BLAKE3 in hex of the body, of the head of a frame (`shared.contracts.chunk_batches`), or empty for a body
            that something else proves.
        headers: names in lower case and values of those headers that begin with `COVERED_PREFIX`, but for the MAC itself.
    """

    status: int
    body_digest: str
    headers: Iterable[tuple[str, str]] = ()


def _answer_mac(key: SigningKey, request_mac: str, facts: AnswerFacts) -> str:
    said = sorted([f"{name}:{value}" for name, value in facts.headers])
    return _mac(key, "answer", request_mac, str(facts.status), facts.body_digest, *said)


class SignedRequest(NamedTuple):
    """A signature that was sent, and by which its answer is known. `authorization` is the header's value."""

    authorization: str
    key: SigningKey
    mac: str

    def is_answered_by(self, facts: AnswerFacts, answer_mac: str | None) -> bool:
        """Whether the service that the request was signed for gave an answer with these facts and this MAC."""
        expected = _answer_mac(self.key, self.mac, facts)
        return hmac.compare_digest(expected.encode(), (answer_mac or "").encode())


class RequestSigner:
    """Signs the requests of one process. One instance per process: the nonce counter is its own."""

    def __init__(self, keys: PeerKeys) -> None:
        self._keys = keys
        self._instance = secrets.token_hex(8)
        self._counter = itertools.count(1)
        self._boots: dict[str, str] = {}

    def learn(self, destination: str, boot_id: str) -> None:
        """Remember what `destination` said in a 401."""
        self._boots[destination] = boot_id

    def sign(self, method: str, raw_target: str, peer: PeerAddress, body_digest: str) -> SignedRequest:
        """Sign a request for `peer`. `raw_target` is path and query as they go over the wire.

        Raises:
            ForbiddenError: this process has no key for such a peer; definite.
        """
        ring = self._keys.to(peer.role)
        if ring is None:
            raise ForbiddenError(f"A {self._keys.role} has no key for calls to a {peer.role}.")
        key = ring.signing
        boot = self._boots.get(peer.id, "unknown")
        nonce = f"{self._instance}.{next(self._counter)}"
        mac = _mac(key, method, raw_target, peer.id, boot, nonce, body_digest)
        return SignedRequest(f"{SCHEME} key={key.id},boot={boot},nonce={nonce},mac={mac}", key, mac)


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose signature was accepted."""

    key: SigningKey = field(repr=False)
    mac: str

    @property
    def caller(self) -> Role:
        """What the sender has proved to be."""
        return self.key.sender

    def answer_mac(self, facts: AnswerFacts) -> str:
        """The value of `ANSWER_MAC_HEADER` in an answer of these facts."""
        return _answer_mac(self.key, self.mac, facts)


class _ReplayWindow:
    """Which counters of one sender were seen: everything below `highest - _WINDOW` counts as seen."""

    __slots__ = ("bits", "highest")

    def __init__(self) -> None:
        self.highest = 0
        self.bits = 0

    def accept(self, counter: int) -> bool:
        if counter > self.highest:
            shift = min(counter - self.highest, _WINDOW)
            self.bits = ((self.bits << shift) | 1) & _WINDOW_MASK
            self.highest = counter
            return True
        age = self.highest - counter
        if age >= _WINDOW or self.bits >> age & 1:
            return False
        self.bits |= 1 << age
        return True


class RequestVerifier:
    """Verifies the requests that arrive at one process."""

    def __init__(self, keys: PeerKeys, node_id: str) -> None:
        self._keys = keys.accepted()
        self._node_id = node_id
        self.boot_id = secrets.token_hex(8)
        self._windows: dict[tuple[str, str], _ReplayWindow] = {}
        """By id of the key and instance: who has another key must not use up the counters of a sender whose name it has seen."""

    def challenge(self) -> str:
        """The WWW-Authenticate header's value of a 401 answer."""
        return f'{SCHEME} destination="{self._node_id}", boot="{self.boot_id}", {_KNOWS_PAIRS}'

    def verify(self, method: str, raw_target: str, authorization: str | None, body_digest: str) -> VerifiedRequest:
        """Accept one request, once.

        Raises:
            SignatureRejectedError: definite; the caller may sign again with the boot id of `challenge`.
        """
        fields = _parse(authorization)
        key = self._keys.find(fields.get("key", ""))
        nonce = fields.get("nonce", "")
        if key is None:
            if "key" not in fields:
                raise SignatureRejectedError("This port takes requests signed with a key of this cluster only.")
            raise SignatureRejectedError(
                "The request is signed with a key that this service does not have: the sender is of another role or "
                "cluster, runs version 0.2.0, or in a rotation it signs with a new key before every service accepts that."
            )
        expected = _mac(key, method, raw_target, self._node_id, fields.get("boot", ""), nonce, body_digest)
        # As bytes: compare_digest raises on text that is not ASCII, and a header may hold any byte.
        if not hmac.compare_digest(expected.encode(), fields.get("mac", "").encode()):
            raise SignatureRejectedError("The signature does not fit this request and destination.")
        if fields.get("boot") != self.boot_id:
            raise SignatureRejectedError("The request was signed for another boot of this service.")
        instance, _, counter = nonce.partition(".")
        if not counter.isdecimal() or len(counter) > 20 or not self._window(key, instance).accept(int(counter)):
            raise SignatureRejectedError("The request was sent before.")
        return VerifiedRequest(key, expected)

    def _window(self, key: SigningKey, instance: str) -> _ReplayWindow:
        window = self._windows.get((key.id, instance))
        if window is None:
            if len(self._windows) >= _MAX_SENDERS:
                # Forgetting a window would let its requests be replayed; a new boot id makes them worthless instead.
                self._windows.clear()
                self.boot_id = secrets.token_hex(8)
                raise SignatureRejectedError("Too many senders; sign again for the new boot of this service.")
            window = self._windows[key.id, instance] = _ReplayWindow()
        return window


def parse_challenge(header: str | None) -> str | None:
    """The boot id in a WWW-Authenticate header of ours, or None."""
    if not header or not header.startswith(SCHEME):
        return None
    _, _, rest = header.partition('boot="')
    boot, quote, _ = rest.partition('"')
    return boot if quote and _BOOT_ID.fullmatch(boot) else None


def _parse(authorization: str | None) -> dict[str, str]:
    scheme, _, rest = (authorization or "").partition(" ")
    if scheme != SCHEME or len(rest) > 512:
        return {}
    pairs = (part.partition("=") for part in rest.split(","))
    return {name: value for name, _, value in pairs}
