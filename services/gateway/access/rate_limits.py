"""How often a principal may ask, and how fast it may send and receive, at this gateway. Pure but for a monotonic clock.

Requests have a token bucket (RFC 2697 calls its parts rate and burst): what comes without a token is refused before its body
is read, with the time at which there is one. Bytes are not refused but paced: each piece of a body gets the place behind those
before it, whichever transfer of the principal they were of, and waits for its turn. So the transfers of one principal share its
rate in the order in which they move, and none of them can push another one out.

Clients without a credential have one principal, and nothing in common: each address counts by itself, or one of them could use
up what the others may have. An IPv6 client has a whole /64 to choose addresses from, which counts as one.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

from services.gateway.access.principal import Principal
from shared.contracts.access import ANONYMOUS, SYSTEM, IdentityLimits
from shared.errors import TooManyRequestsError
from shared.units import KIB

BURST_S: Final = 1.0
"""For so long a principal may catch up on what it did not use."""

ACCOUNTS_MAX: Final = 10_000
"""Identities, and addresses without a credential, that are remembered each; those that asked last."""

BACKLOG_MAX_S: Final = 10.0
PIECE_BYTES: Final = 64 * KIB
"""As the server hands them out."""

_NETWORK_BYTES: Final = 8
Clock = Callable[[], float]


class BodyPace:
    """The bytes of all transfers of one principal, one behind the other.

    Invariant: what was moved since any moment is at most the rate times the time since then, and `BURST_S` more, but for the
    last piece.
    """

    __slots__ = ("_clock", "_free_at_s", "bytes_per_s", "waited_s")

    def __init__(self, bytes_per_s: int, clock: Clock) -> None:
        self._clock = clock
        self._free_at_s = clock() - BURST_S
        self.bytes_per_s = bytes_per_s
        self.waited_s = 0.0

    def turn(self, size_bytes: int) -> float:
        """Take the next place for so many bytes: the seconds until it is their turn."""
        now_s = self._clock()
        begins_at_s = max(self._free_at_s, now_s - BURST_S)
        self._free_at_s = begins_at_s + size_bytes / self.bytes_per_s
        wait_s = max(0.0, begins_at_s - now_s)
        self.waited_s += wait_s
        return wait_s

    @property
    def piece_bytes(self) -> int:
        """How much to move at once, so that a client that is held back still sees something every second."""
        return max(4 * KIB, self.bytes_per_s)

    def check_backlog(self) -> None:
        """No transfer begins that would wait for long. Raises TooManyRequestsError."""
        backlog_s = self._free_at_s - self._clock()
        # One piece alone may take longer than that, at a very low rate.
        if backlog_s > max(BACKLOG_MAX_S, 2 * PIECE_BYTES / self.bytes_per_s):
            raise _refusal("bytes", self.bytes_per_s, backlog_s - BACKLOG_MAX_S)


class _Tokens:
    """Requests that may be made now."""

    __slots__ = ("_at_s", "_clock", "_left")

    def __init__(self, per_s: int, clock: Clock) -> None:
        self._clock = clock
        self._at_s = clock()
        self._left = _burst(per_s)

    def take(self, per_s: int) -> None:
        """One of them. Raises TooManyRequestsError."""
        now_s = self._clock()
        left = min(_burst(per_s), self._left + (now_s - self._at_s) * per_s)
        self._at_s = now_s
        if left < 1:
            self._left = left
            raise _refusal("requests", per_s, (1 - left) / per_s)
        self._left = left - 1


def _burst(per_s: int) -> float:
    return max(1.0, per_s * BURST_S)


class _Account:
    """Of one identity or address."""

    __slots__ = ("pace", "tokens")

    def __init__(self) -> None:
        self.tokens: _Tokens | None = None
        self.pace: BodyPace | None = None


class RateLimits:
    """Of all who ask this gateway.

    Attributes:
        refused_count: requests that were refused.
    """

    def __init__(self, anonymous: IdentityLimits, clock: Clock | None = None) -> None:
        """`anonymous`: of each address that sends no credential."""
        self._anonymous = anonymous
        self._clock = clock or time.monotonic
        self._identities: OrderedDict[str, _Account] = OrderedDict()
        self._addresses: OrderedDict[str, _Account] = OrderedDict()
        self._forgotten_waits_s = 0.0
        self.refused_count = 0

    def admit(self, principal: Principal, address: str) -> BodyPace | None:
        """Count one request, before its body; the pace of the bodies that it moves, None where there is none to keep.

        Raises:
            TooManyRequestsError: there were too many; says when the next one may come.
        """
        is_anonymous = principal.id == ANONYMOUS
        limits = self._anonymous if is_anonymous else principal.limits
        if (limits.requests_per_s is None and limits.bytes_per_s is None) or principal.id == SYSTEM:
            return None
        account = self._account(
            *((self._addresses, network_of(address)) if is_anonymous else (self._identities, principal.id))
        )
        if limits.requests_per_s is not None:
            if account.tokens is None:
                account.tokens = _Tokens(limits.requests_per_s, self._clock)
            try:
                account.tokens.take(limits.requests_per_s)
            except TooManyRequestsError:
                self.refused_count += 1
                raise
        return self._pace(account, limits.bytes_per_s)

    def _account(self, accounts: OrderedDict[str, _Account], name: str) -> _Account:
        account = accounts.get(name)
        if account is None:
            account = accounts[name] = _Account()
            if len(accounts) > ACCOUNTS_MAX:
                _, forgotten = accounts.popitem(last=False)
                self._forgotten_waits_s += 0.0 if forgotten.pace is None else forgotten.pace.waited_s
        accounts.move_to_end(name)
        return account

    def _pace(self, account: _Account, bytes_per_s: int | None) -> BodyPace | None:
        if bytes_per_s is None:
            return None
        if account.pace is None:
            account.pace = BodyPace(bytes_per_s, self._clock)
        account.pace.bytes_per_s = bytes_per_s
        return account.pace

    def statistics(self) -> dict[str, float]:
        """For metrics."""
        accounts = [*self._identities.values(), *self._addresses.values()]
        paced_s = sum(account.pace.waited_s for account in accounts if account.pace is not None)
        return {
            "refused": self.refused_count,
            "accounts": len(accounts),
            "paced_s": paced_s + self._forgotten_waits_s,
        }


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one."""
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found.ipv4_mapped) if found.ipv4_mapped else found.packed[:_NETWORK_BYTES].hex()


def _refusal(unit: str, limit: int, wait_s: float) -> TooManyRequestsError:
    return TooManyRequestsError(
        f"This is more than {limit} {unit} per second.",
        retry_after_s=max(1, math.ceil(wait_s)),
        unit=unit,
        limit=limit,
    )
