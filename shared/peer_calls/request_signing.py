"""Who may speak to an internal port: requests signed with the cluster secret, for one destination, once (X-14).

A signature covers method, raw path with query, destination, nonce and the digest of the body. A chunk's digest is its
name, so a chunk upload is never hashed a second time for the signature.

No clock is involved, because a node with a wrong clock must still be able to store and heal. Freshness comes from the
receiver's *boot id*, a random name that it makes at start: a request is signed for `storage-2/<boot id>`, and a caller
that does not know the boot id yet learns it from the 401 answer (as in HTTP digest authentication). Within one boot a
nonce is `<sender instance>.<counter>`, and the receiver keeps a sliding window per sender (as IPsec does, RFC 6479), so a
recorded request is refused both in the same boot and in every later one.

An answer carries a MAC over the request's MAC and its own status (`ANSWER_MAC_HEADER`). Only the destination can make it,
so another program on its port cannot acknowledge anything, and no answer fits another request. It does not cover the body,
but for the head of a batch, where each item has a status of its own.
"""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from shared.cluster_keys import ClusterKeys, SigningKey
from shared.errors import SignatureRejectedError

SCHEME: Final = "Trivet-HMAC"
BODY_DIGEST_HEADER: Final = "x-trivet-body-digest"
ANSWER_MAC_HEADER: Final = "x-trivet-answer-mac"
EMPTY_BODY_DIGEST: Final = blake3(b"").hexdigest()

_BOOT_ID: Final = re.compile("[0-9a-f]{16}")
_WINDOW: Final = 8192
_WINDOW_MASK: Final = (1 << _WINDOW) - 1
_MAX_SENDERS: Final = 1024


def _mac(key: SigningKey, *parts: str) -> str:
    # In one call: half the cost of an HMAC object.
    return hmac.digest(key.secret, "\n".join(parts).encode(), "sha256").hex()


def _answer_mac(key: SigningKey, request_mac: str, status: int, head_digest: str) -> str:
    return _mac(key, "answer", request_mac, str(status), *([head_digest] if head_digest else []))


class RequestSigner:
    """Signs the requests of one process. One instance per process: the nonce counter is its own."""

    def __init__(self, keys: ClusterKeys) -> None:
        self._keys = keys
        self._instance = secrets.token_hex(8)
        self._counter = itertools.count(1)
        self._boots: dict[str, str] = {}

    def learn_boot(self, destination: str, boot_id: str) -> None:
        """Remember the boot id that `destination` announced in a 401."""
        self._boots[destination] = boot_id

    def authorization(self, method: str, raw_target: str, destination: str, body_digest: str) -> str:
        """The Authorization header's value. `raw_target` is path and query as they go over the wire."""
        key = self._keys.signing
        nonce = f"{self._instance}.{next(self._counter)}"
        boot = self._boots.get(destination, "unknown")
        mac = _mac(key, method, raw_target, destination, boot, nonce, body_digest)
        return f"{SCHEME} key={key.id},boot={boot},nonce={nonce},mac={mac}"

    def is_answer_of_destination(
        self, authorization: str, status: int, answer_mac: str | None, head_digest: str = ""
    ) -> bool:
        """Whether the service that the request `authorization` was signed for gave an answer with this status and MAC.

        `head_digest`: of the head of a frame (`shared.contracts.chunk_batches`), hex; empty for every other answer.
        """
        expected = _answer_mac(self._keys.signing, authorization.rpartition("mac=")[2], status, head_digest)
        return hmac.compare_digest(expected.encode(), (answer_mac or "").encode())


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose signature was accepted."""

    key: SigningKey = field(repr=False)
    mac: str

    def answer_mac(self, status: int, head_digest: str = "") -> str:
        """The value of `ANSWER_MAC_HEADER` in an answer with this status; `head_digest` of a frame's head, hex."""
        return _answer_mac(self.key, self.mac, status, head_digest)


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

    def __init__(self, keys: ClusterKeys, node_id: str) -> None:
        self._keys = keys
        self._node_id = node_id
        self.boot_id = secrets.token_hex(8)
        self._windows: dict[str, _ReplayWindow] = {}

    def challenge(self) -> str:
        """The WWW-Authenticate header's value of a 401 answer."""
        return f'{SCHEME} destination="{self._node_id}", boot="{self.boot_id}"'

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
                raise SignatureRejectedError("This port takes requests signed with the cluster secret only.")
            raise SignatureRejectedError(
                "The request is signed with a secret that this service does not have: in a rotation every service must "
                "accept the new secret before any signs with it."
            )
        expected = _mac(key, method, raw_target, self._node_id, fields.get("boot", ""), nonce, body_digest)
        # As bytes: compare_digest raises on text that is not ASCII, and a header may hold any byte.
        if not hmac.compare_digest(expected.encode(), fields.get("mac", "").encode()):
            raise SignatureRejectedError("The signature does not fit this request and destination.")
        if fields.get("boot") != self.boot_id:
            raise SignatureRejectedError("The request was signed for another boot of this service.")
        instance, _, counter = nonce.partition(".")
        if not counter.isdecimal() or len(counter) > 20 or not self._window(instance).accept(int(counter)):
            raise SignatureRejectedError("The request was sent before.")
        return VerifiedRequest(key, expected)

    def _window(self, instance: str) -> _ReplayWindow:
        window = self._windows.get(instance)
        if window is None:
            if len(self._windows) >= _MAX_SENDERS:
                # Forgetting a window would let its requests be replayed; a new boot id makes them worthless instead.
                self._windows.clear()
                self.boot_id = secrets.token_hex(8)
                raise SignatureRejectedError("Too many senders; sign again for the new boot of this service.")
            window = self._windows[instance] = _ReplayWindow()
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
