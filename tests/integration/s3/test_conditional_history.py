"""Sixteen clients want the same key at the same time, by conditional puts, while a storage node and the leader die.

In every round exactly one of them wins, and some order of all that each of them was told explains it: the history of every key is
linearizable. Half of the keys are written on and on (`If-Match`), half are locks as Terraform has them: `If-None-Match: *` takes
one, a deletion gives it back, in a bucket that keeps versions, where the lock is then absent below a delete marker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local_cluster.cluster import Cluster
from tests.faults.checkers.conditional import is_conditional_history_linearizable
from tests.faults.checkers.history import Act, Operation, Outcome, explain
from tests.integration.second_gateway import SecondGateway

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CLIENTS = 16
ROUNDS_PER_KEY = 6
KEYS = 6
GIVE_UP_S = 60.0
"""For one answer; above every deadline of a gateway."""

MOVES_ON_AFTER_S = 40.0
"""For one client to learn what became of its put, whoever died."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to. `status` 0: nothing came."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def outcome(self) -> Outcome:
        """Of a change. S3 says 503 and 409 of what certainly did not happen, and 500 where it is not known."""
        if 200 <= self.status < 300:
            return Outcome.OK
        return Outcome.FAILED if self.status in {403, 404, 409, 412, 503} else Outcome.UNKNOWN

    @property
    def is_refusal_of_the_condition(self) -> bool:
        """404: there is nothing that If-Match could be."""
        return self.status in {404, 412}


@dataclass
class S3Clients:
    """Signed requests to the gateways in turn, each sent once: clients that try again by themselves hide what they were told."""

    endpoints: list[str]
    credentials: Credentials
    bucket: str
    session: aiohttp.ClientSession
    statuses: Counter[int] = field(default_factory=Counter)

    async def send(
        self, number: int, method: str, key: str = "", *, query: str = "", body: bytes = b"", **headers: str
    ) -> Answer:
        """One request of the client `number`."""
        url = f"{self.endpoints[number % len(self.endpoints)]}/{self.bucket}" + (f"/{key}" if key else "") + query
        request = AWSRequest(method, url, data=body, headers={name.replace("_", "-"): v for name, v in headers.items()})
        S3SigV4Auth(self.credentials, "s3", "us-east-1").add_auth(request)
        try:
            signed: dict[str, str] = dict(request.headers.items())
            async with self.session.request(method, url, data=body or None, headers=signed) as received:
                answer = Answer(
                    received.status, await received.read(), {k.lower(): v for k, v in received.headers.items()}
                )
        except (aiohttp.ClientError, TimeoutError, OSError):
            answer = Answer(0, b"", {})
        self.statuses[answer.status] += 1
        return answer


@dataclass
class Contest:
    """The rounds of one key, and everything that anybody was told about it.

    Attributes:
        etag: of the value that all clients know; None while the key is absent.
        under_way: set when `victims_die_at` of the puts of this round are on their way.
    """

    clients: S3Clients
    key: str
    values: Iterator[int]
    history: list[Operation] = field(default_factory=list)
    value: str | None = None
    etag: str | None = None
    sent: int = 0
    victims_die_at: int = 0
    under_way: asyncio.Event = field(default_factory=asyncio.Event)

    async def round(self) -> list[str]:
        """All clients at once. What is wrong, in words; then what is there is known to all."""
        before = len(self.history)
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._compete(number))
        was = self.value
        await self.read(0)
        winners = [one.value for one in self.history[before:] if one.act == Act.WRITE and one.outcome == Outcome.OK]
        unknown = [one for one in self.history if one.outcome == Outcome.UNKNOWN]
        if any(one.act == Act.DELETE for one in unknown):
            return []  # it may have given the lock back in mid-round; the checker of the whole history judges that
        if len(winners) > 1:
            return [f"{self.key}: {len(winners)} clients won"]
        if winners and self.value != winners[0]:
            return [f"{self.key}: {winners[0]} won, {self.value} is there"]
        if not winners and self.value not in {one.value for one in unknown}:
            return [f"{self.key}: nobody won; there was {was}, there is {self.value}"]
        return []

    async def _compete(self, number: int) -> None:
        """Put until there is an answer that says who won; then look."""
        expected, etag, give_up = self.value, self.etag, time.monotonic() + MOVES_ON_AFTER_S
        while True:
            value = f"{self.key}-{next(self.values)}"
            condition = {"if_none_match": "*"} if etag is None else {"if_match": f'"{etag}"'}
            operation = Operation(
                Act.WRITE, self.key, value, float(time.monotonic_ns()), expected=expected, is_conditional=True
            )
            self.history.append(operation)
            self.sent += 1
            if self.sent == self.victims_die_at:
                self.under_way.set()
            answer = await self.clients.send(number, "PUT", self.key, body=value.encode(), **condition)
            settle(operation, answer)
            if answer.outcome != Outcome.FAILED or answer.is_refusal_of_the_condition:
                break
            assert answer.status in {409, 503}, answer
            assert time.monotonic() < give_up, f"{self.key}: {answer}"
            # As a polite client does.
            await asyncio.sleep(0.1)
        await self._look(number)

    async def _look(self, number: int) -> Answer:
        called = float(time.monotonic_ns())
        answer = await self.clients.send(number, "GET", self.key)
        if answer.status in {200, 404}:
            value = answer.body.decode() if answer.status == 200 else None
            returned = float(time.monotonic_ns())
            self.history.append(Operation(Act.READ, self.key, value, called, returned, Outcome.OK, where=f"{number}"))
        return answer

    async def read(self, number: int) -> None:
        """What is there, as soon as anybody says it."""
        give_up = time.monotonic() + MOVES_ON_AFTER_S
        while (answer := await self._look(number)).status not in {200, 404}:
            assert time.monotonic() < give_up, f"{self.key}: {answer}"
            await asyncio.sleep(0.1)
        is_there = answer.status == 200
        self.value = answer.body.decode() if is_there else None
        self.etag = answer.headers["etag"].strip('"') if is_there else None

    async def give_back(self) -> None:
        """Delete the key until that has certainly happened."""
        give_up = time.monotonic() + MOVES_ON_AFTER_S
        outcome = None
        while outcome != Outcome.OK:
            assert time.monotonic() < give_up, self.key
            operation = Operation(Act.DELETE, self.key, None, float(time.monotonic_ns()))
            self.history.append(operation)
            answer = await self.clients.send(0, "DELETE", self.key)
            settle(operation, answer)
            outcome = answer.outcome
        await self.read(0)


def settle(operation: Operation, answer: Answer) -> None:
    """What is known of it now. A refusal for another reason says nothing about the condition."""
    operation.where, operation.outcome = f"{answer.status}", answer.outcome
    if answer.outcome != Outcome.UNKNOWN:
        operation.returned = float(time.monotonic_ns())
    if answer.outcome == Outcome.FAILED and not answer.is_refusal_of_the_condition:
        operation.is_conditional = False


@pytest.fixture
def endpoints(cluster: Cluster, tmp_path: Path) -> Iterator[list[str]]:
    """The S3 ports of two gateways."""
    with SecondGateway(cluster, tmp_path / "second.log") as second:
        yield [cluster.s3_url, second.s3_url]


@asynccontextmanager
async def clients_of(cluster: Cluster, endpoints: list[str]) -> AsyncIterator[S3Clients]:
    """With a bucket of their own, which keeps versions."""
    key, _, secret = cluster.root_key.partition(".")
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        bucket = f"contest-{random.SystemRandom().randrange(1 << 40):010x}"
        clients = S3Clients(endpoints, Credentials(key, secret), bucket, session)
        assert (await clients.send(0, "PUT")).status == 200
        versioning = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        assert (await clients.send(0, "PUT", query="?versioning", body=versioning)).status == 200
        yield clients


async def leader_of(cluster: Cluster, session: aiohttp.ClientSession) -> str:
    """Who leads now, as soon as there is somebody."""
    while True:
        async with session.get(f"{cluster.gateway_url}/v1/cluster", headers=cluster.bearer) as answer:
            if answer.ok and (leader := (await answer.json())["leader"]) is not None:
                return str(leader)
        await asyncio.sleep(0.1)


async def kill_in_mid_round(cluster: Cluster, contest: Contest, victims: list[str]) -> str:
    """When some of the puts are on their way. Says what it did."""
    await contest.under_way.wait()
    for name in victims:
        cluster.kill(name)
    return f"{contest.key}: {' and '.join(victims) or 'nobody'} after {contest.sent} puts were sent"


async def test_one_of_sixteen_wins_every_round_whoever_dies(cluster, endpoints, seed) -> None:
    """A storage node dies, the leader, and both at once, in mid-round; the rounds after it do without them."""
    draw, values = random.Random(seed), iter(range(1 << 62))
    wrong: list[str] = []
    killed: list[str] = []
    deaths: list[list[str]] = [
        ["leader"],
        ["leader"],
        ["storage-2"],
        ["storage-1", "leader"],
        ["storage-3", "leader"],
        [],
    ]
    contests: list[Contest] = []
    async with clients_of(cluster, endpoints) as clients:
        for number in range(KEYS):
            contest = Contest(clients, f"{'lock' if number % 2 else 'register'}-{number}", values)
            contests.append(contest)
            for turn in range(ROUNDS_PER_KEY):
                chosen = deaths[number] if turn == 2 else []
                leader = await leader_of(cluster, clients.session) if "leader" in chosen else ""
                victims = [leader if victim == "leader" else victim for victim in chosen]
                contest.sent, contest.victims_die_at = 0, draw.randrange(1, CLIENTS + 1)
                contest.under_way.clear()
                async with asyncio.TaskGroup() as group:
                    nemesis = group.create_task(kill_in_mid_round(cluster, contest, victims))
                    judged = group.create_task(contest.round())
                killed.append(nemesis.result())
                wrong += judged.result()
                if number % 2:
                    await contest.give_back()
            await cluster.start()
    summary: dict[str, Any] = {"statuses": dict(clients.statuses), "rounds": KEYS * ROUNDS_PER_KEY, "seed": seed}
    print(summary, sum(len(contest.history) for contest in contests), "operations")
    print("\n".join(line for line in killed if "nobody" not in line))
    assert not wrong, wrong
    for contest in contests:
        assert is_conditional_history_linearizable(contest.history), explain(contest.history)
