"""Consensus members on real sockets that answer what a test says."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from blake3 import blake3

from shared.cluster_keys import derive_peer_keys
from shared.consensus_calls.client import ConsensusClient
from shared.consensus_calls.majority_watch import STATUS_PATH
from shared.contracts.metadata import (
    CreateBucket,
)
from shared.contracts.time import ClockState, Stamp
from shared.errors import (
    NotLeaderError,
    TrivetError,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import ANSWER_MAC_HEADER, AnswerFacts, VerifiedRequest
from shared.roles import Role

ATTEMPT_TIMEOUT_S = 1.0
"""Of members in this process: less, and one that is about to answer would pass for hung on a busy machine."""

DEADLINE_S = 10.0
Reply = tuple[int, dict]
Behaviour = Callable[[str, list[dict]], Awaitable[Reply]]


class HangUpError(Exception):
    """Raised by a behaviour to close the connection without an answer."""


KEYS = derive_peer_keys("s" * 32, Role.GATEWAY)


async def answer_json(scope, send, status: int, answer: dict | bytes) -> None:
    kind = b"application/json" if status < 400 else b"application/problem+json"
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    mac = dict(scope["headers"])[b"authorization"].decode().rpartition("mac=")[2]
    facts = AnswerFacts(status, blake3(content).hexdigest())
    answer_mac = VerifiedRequest(KEYS.to(Role.CONSENSUS).signing, mac).answer_mac(facts).encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(content)).encode()),
        (ANSWER_MAC_HEADER.encode(), answer_mac),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Member:
    """A consensus member that does what it is told: `behaviour` gets the path and the batch, and gives the answer."""

    def __init__(self, member_id: str, behaviour: Behaviour) -> None:
        self.id = member_id
        self.behaviour = behaviour
        self.requests: list[list[dict]] = []
        self.status_answer: dict | list | None = {"reaches_majority": True}
        """To GET /v1/status; None hangs."""

        self.address = PeerAddress(member_id, "", Role.CONSENSUS)

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if scope["path"] == STATUS_PATH:
            if self.status_answer is None:
                await asyncio.Event().wait()
            await answer_json(scope, send, 200, self.status_answer)
            return
        fields = json.loads(body)
        batch = fields["proposals"] if scope["path"] == "/v1/proposals" else fields["queries"]
        self.requests.append(batch)
        try:
            status, answer = await self.behaviour(scope["path"], batch)
        except HangUpError:
            return
        await answer_json(scope, send, status, answer)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.address = PeerAddress(self.id, f"http://127.0.0.1:{listener.getsockname()[1]}", Role.CONSENSUS)
            config = uvicorn.Config(self, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=0)
            server = uvicorn.Server(config)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve(sockets=[listener]))
                try:
                    yield
                finally:
                    server.should_exit = True


def problem(error: TrivetError) -> Reply:
    return error.status, error.to_problem()


def decided(count: int, log_index: int = 7) -> Reply:
    return 200, {
        "results": [
            {"log_index": log_index, "term": 3, "result": {"created": True, "incarnation": i}} for i in range(count)
        ]
    }


async def leads(path: str, batch: list[dict]) -> Reply:
    """Commit every proposal, answer every query with nothing found."""
    if path == "/v1/proposals":
        return decided(len(batch))
    results = [{"answer": _EMPTY_ANSWERS[query["kind"]]} for query in batch]
    return 200, {"log_index": 7, "term": 3, "epoch": 2, "hlc": 1, "results": results}


_EMPTY_ANSWERS = {
    "list_buckets": {"kind": "buckets", "buckets": []},
    "get_bucket": {"kind": "bucket", "bucket": None},
    "get_file": {"kind": "file", "has_bucket": False},
}


async def hangs(path: str, batch: list[dict]) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


async def hangs_up(path: str, batch: list[dict]) -> Reply:
    raise HangUpError


def follows(leader: Member | None = None) -> Behaviour:
    async def behaviour(path: str, batch: list[dict]) -> Reply:
        facts = {} if leader is None else {"leader_id": leader.id, "leader_url": leader.address.url}
        return problem(NotLeaderError("I do not lead.", **facts))

    return behaviour


@asynccontextmanager
async def cluster(*behaviours: Behaviour, **options) -> AsyncIterator[tuple[ConsensusClient, list[Member]]]:
    """Servers with these behaviours, and a client that knows them all."""
    async with AsyncExitStack() as stack:
        members = [Member(f"consensus-{at}", behaviour) for at, behaviour in enumerate(behaviours, 1)]
        for member in members:
            await stack.enter_async_context(member.serving())
        peer_client = await stack.enter_async_context(peers())
        addresses = options.pop("addresses", [member.address for member in members])
        client = ConsensusClient(
            addresses, peer_client, **{"attempt_timeout_s": ATTEMPT_TIMEOUT_S, "deadline_s": DEADLINE_S} | options
        )
        await stack.enter_async_context(client)
        yield client, members


def peers() -> PeerClient:
    return PeerClient(KEYS)


def command(bucket: str = "abc") -> CreateBucket:
    return CreateBucket(bucket=bucket, stamp=Stamp(hlc=1, state=ClockState.LOGICAL))


def closed_address(member_id: str) -> PeerAddress:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return PeerAddress(member_id, f"http://127.0.0.1:{unused.getsockname()[1]}", Role.CONSENSUS)


def gated(gate: asyncio.Event, then: Behaviour) -> Behaviour:
    async def behaviour(path: str, batch: list[dict]) -> Reply:
        await gate.wait()
        return await then(path, batch)

    return behaviour
