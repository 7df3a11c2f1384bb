"""What it costs to know who asks: CPU of one thread per request by bearer, by link and by a signature of S3; and of all keys.

Bearers and links go through the door of a gateway with nothing behind it, so its look at the path, the policy and the limits are
in the figure. A signature of S3 is proved with a signing key that was derived before, as for all but the first of a day.
The copy of the keys is read page by page in the form that it has on the wire; what the leader does for it is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final, cast

from starlette import types as asgi

from benchmarks.measuring import describe_machine, median_and_spread, show
from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl, KeySecret
from services.gateway.access.credentials import invalid_credential
from services.gateway.access.key_table import KeyTable
from services.gateway.access.key_use import KeyUse
from services.gateway.access.principal import UNKNOWN
from services.gateway.access.rate_limits import RateLimits
from services.gateway.access.refusals import Refusals
from services.gateway.access.sealing import Sealer
from services.gateway.access.transport import TransportRules
from services.gateway.access_log import silent_log
from services.gateway.api.door import Door
from services.gateway.api.door_routes import PUBLIC, RouteTable
from services.gateway.api.services import RunningGateway
from services.gateway.ports import Clock, Metadata
from services.gateway.s3.signatures import RawHead, SigningKeys, is_proved, signed_head, signing_key
from shared.access_keys import bearer_of, draw_key_id, draw_secret
from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ReadContext
from shared.contracts.access import (
    ACCESS_PAGE_MAX,
    AccessChanges,
    AccessKey,
    Action,
    Identity,
    IdentityLimits,
    ListAccessChanges,
    Scope,
    SealedRow,
)
from shared.contracts.metadata import ReadResult, ReadResults
from shared.contracts.read_results import decode_read_results, encode_read_results
from shared.contracts.time import ClockState, Stamp
from shared.links import make_link
from trivet.import_s3.signing import UNSIGNED_PAYLOAD, ClientRequest, Signer

_REALM: Final = "5" * 32
_REGION: Final = "us-east-1"
_KEYS_PER_IDENTITY: Final = 4
_CALLS_TOGETHER: Final = 100
"""Are timed at once: the clock of a thread counts in steps of several microseconds."""


class StandingClock:
    """`ports.Clock` that shows when it was made."""

    def __init__(self) -> None:
        self._stamp = Stamp(hlc=int(datetime.now(UTC).timestamp()) << 32, state=ClockState.LOGICAL)

    def stamp(self) -> Stamp:
        """Always the same."""
        return self._stamp


class Rows:
    """All identities and keys as they come over the wire; the first key has a secret that is known here."""

    def __init__(self, key_count: int) -> None:
        self.sealer = Sealer(["k" * 64])
        self.key_id, self.secret = draw_key_id(), draw_secret()
        self._pages = list(self._written(key_count))
        self._next = 0

    @property
    def size_bytes(self) -> int:
        """On the wire."""
        return sum(map(len, self._pages))

    async def read(self, query: ListAccessChanges, *, deadline_s: float | None = None) -> tuple[Any, ReadContext]:
        """See `ports.Metadata`."""
        del deadline_s
        self._next = 0 if query.walk is None else self._next + 1
        answers = decode_read_results(self._pages[self._next])
        return answers.results[0].answer, ReadContext(1, 1, 1, 1, "c", answers.access_index)

    def _written(self, key_count: int) -> Iterator[bytes]:
        scopes = [
            Scope(actions=[Action.READ, Action.WRITE], bucket="default", prefix="photos/"),
            Scope(actions=[Action.LIST], bucket="default"),
        ]
        sealed = self.sealer.seal(_REALM, self.key_id, 0, self.secret)
        for begin in range(0, key_count, ACCESS_PAGE_MAX):
            numbers = range(begin, min(key_count, begin + ACCESS_PAGE_MAX))
            keys = [
                AccessKey(
                    id=draw_key_id() if number else self.key_id,
                    identity=f"{number // _KEYS_PER_IDENTITY:064x}",
                    slot=number % _KEYS_PER_IDENTITY,
                    secret=SealedRow(
                        sealed.sealing_key,
                        secrets.token_bytes(len(sealed.sealed)) if number else sealed.sealed,
                        secrets.token_bytes(32) if number else sealed.bearer_mac,
                    ),
                    created_ns=number,
                    changed_index=number + 1,
                )
                for number in numbers
            ]
            identities = [
                Identity(
                    id=f"{number // _KEYS_PER_IDENTITY:064x}",
                    name=f"application {number}",
                    scopes=scopes,
                    created_ns=number,
                    changed_index=number + 1,
                )
                for number in numbers
                if number % _KEYS_PER_IDENTITY == 0
            ]
            is_last = numbers.stop == key_count
            page = AccessChanges(
                realm=_REALM,
                is_full=begin == 0,
                identities=identities,
                keys=keys,
                next_after=None if is_last else numbers.stop,
                walk=None if is_last else key_count,
                access_index=key_count,
            )
            yield encode_read_results(
                ReadResults(
                    log_index=1, term=1, epoch=1, hlc=1, access_index=key_count, results=[ReadResult(answer=page)]
                )
            )


async def time_load(rows: Rows, tasks: BackgroundTasks) -> tuple[float, float]:
    """Seconds of CPU to read all rows, and the bytes that are held then."""
    began_s = time.process_time()
    await KeyTable(cast("Metadata", rows), tasks).refresh()
    took_s = time.process_time() - began_s
    tracemalloc.start()
    table = KeyTable(cast("Metadata", rows), tasks)
    await table.refresh()
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return took_s, float(held_bytes)


async def time_calls(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Microseconds of CPU of one call."""
    await call()
    took = []
    for _ in range(max(1, calls // _CALLS_TOGETHER)):
        began_ns = time.thread_time_ns()
        for _ in range(_CALLS_TOGETHER):
            await call()
        took.append((time.thread_time_ns() - began_ns) / 1000 / _CALLS_TOGETHER)
    return statistics.median(took)


async def _answer(_scope: asgi.Scope, _receive: asgi.Receive, send: asgi.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def _receive() -> asgi.Message:
    return {"type": "http.disconnect"}


class Asked:
    """One gateway's door, and requests of each kind."""

    def __init__(self, control: AccessControl, rows: Rows) -> None:
        self._control = control
        self._rows = rows
        self._signing_keys = SigningKeys()
        services = SimpleNamespace(access=control, rates=RateLimits(IdentityLimits()), access_log=silent_log())
        gateway = cast("RunningGateway", SimpleNamespace(services=services))
        self._door: asgi.ASGIApp = Door(
            _answer, gateway=gateway, routes=RouteTable(PUBLIC), rules=TransportRules(), marks=lambda _: []
        )
        self._bearer = [(b"authorization", bearer_of(f"{rows.key_id}.{rows.secret}").encode())]
        link = make_link(
            rows.key_id,
            rows.secret,
            method="GET",
            bucket="default",
            key="photos/one.jpg",
            expires_s=int(datetime.now(UTC).timestamp()) + 3600,
        )
        self._link_query = link.partition("?")[2].encode()
        request = ClientRequest("GET", "/default/photos/one.jpg", headers={"range": "bytes=0-99"})
        signer = Signer(rows.key_id, rows.secret, _REGION, "127.0.0.1:9000")
        sent = signer.headers(request, UNSIGNED_PAYLOAD, datetime.now(UTC))
        headers = [(name.encode(), value.encode()) for name, value in sent.items()]
        self._head = RawHead("GET", b"/default/photos/one.jpg", b"", headers)

    async def by_bearer(self) -> None:
        """A bearer that was right before."""
        await self._through_the_door(b"", self._bearer)

    async def by_link(self) -> None:
        """A link for a GET."""
        await self._through_the_door(self._link_query, [])

    async def by_signature(self) -> None:
        """The head of a GET that is signed by Signature Version 4; raises unless it is right."""
        signed = signed_head(self._head)
        assert signed is not None

        def check(secret: KeySecret | None) -> None:
            if secret is None:
                raise invalid_credential()
            key = self._signing_keys.find(signed, secret.sealed)
            if key is None:
                key = signing_key(secret.plain() or "", signed.date, signed.region)
                self._signing_keys.put(signed, secret.sealed, key)
            if not is_proved(signed, self._head, key):
                raise invalid_credential()

        await self._control.identify_by_signature(AccessContext(UNKNOWN, "127.0.0.1"), signed.key, check)

    async def _through_the_door(self, query: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/files/default/photos/one.jpg",
            "raw_path": b"/v1/files/default/photos/one.jpg",
            "query_string": query,
            "headers": [(b"host", b"127.0.0.1:8080"), (b"accept", b"*/*"), *headers],
            "client": ("127.0.0.1", 1),
        }
        statuses = []

        async def send(message: asgi.Message) -> None:
            statuses.append(message.get("status"))

        await self._door(scope, _receive, send)
        if statuses[0] != 200:
            raise ValueError(f"the door answered {statuses[0]}")


async def measure(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    rows = Rows(arguments.keys)
    async with BackgroundTasks() as tasks:
        loads = [await time_load(rows, tasks) for _ in range(arguments.runs)]
        table = KeyTable(cast("Metadata", rows), tasks)
        await table.refresh()
        clock = cast("Clock", StandingClock())
        control = AccessControl(
            table, rows.sealer, clock, KeyUse(cast("Metadata", rows), table, clock), Refusals(silent_log())
        )
        asked = Asked(control, rows)
        kinds = {
            "bearer, cached principal, whole door (at most 20)": asked.by_bearer,
            "link, whole door (at most 60)": asked.by_link,
            "Signature Version 4, head (at most 150)": asked.by_signature,
        }
        found = {
            name: [await time_calls(call, arguments.calls) for _ in range(arguments.runs)]
            for name, call in kinds.items()
        }
    show(
        "Credentials, microseconds of CPU per request, median (min-max)",
        ("credential", "us"),
        [[name, median_and_spread(column)] for name, column in found.items()],
    )
    seconds, held = zip(*loads, strict=True)
    show(
        f"The copy of {len(table):,} keys of a gateway, {rows.size_bytes / 1e6:.0f} MB on the wire, median (min-max)",
        ("seconds of CPU to read it (at most 2)", "MiB held (at most 100)"),
        [[median_and_spread(seconds), median_and_spread([size / 2**20 for size in held])]],
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--keys", type=int, default=100_000)
    arguments = parser.parse_args()
    print(describe_machine())
    asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
