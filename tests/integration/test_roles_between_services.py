"""What a process can do with the keys of its own role at the real ports of the others: its work, and nothing else.

Requests are written by hand where the wire itself is the question.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.contracts.metadata import DeleteBucket, GetBucket, PassTime, Proposal, ProposalBatch, ReadBatch
from shared.contracts.references import CondemnChunks
from shared.contracts.time import ClockState, Stamp
from shared.errors import ForbiddenError, NotLeaderError, SignatureRejectedError, TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.peer_calls.request_signing import (
    ANSWER_MAC_HEADER,
    BODY_DIGEST_HEADER,
    COVERED_PREFIX,
    AnswerFacts,
    RequestSigner,
    SignedRequest,
    parse_challenge,
)
from shared.roles import Role

pytestmark = pytest.mark.cluster

STAMP = Stamp(hlc=1, state=ClockState.LOGICAL)
CHUNK = b"a chunk of nobody"
CALLERS = (Role.GATEWAY, Role.STORAGE, Role.CONSENSUS, Role.OPERATOR)


async def sent_as(cluster: Cluster, role: Role, service: str, method: str, path: str, body: bytes | None) -> str:
    """What became of a request that is signed with the keys of `role`: `done`, or the code of the refusal."""
    async with PeerClient(cluster.keys_of(role)) as client:
        for peer in map(
            cluster.peer, ("consensus-1", "consensus-2", "consensus-3") if service == "consensus" else (service,)
        ):
            try:
                headers = {"content-type": "application/json"}
                await client.request(peer, method, path, timeout_s=10, content=body, headers=headers)
            except NotLeaderError:
                continue
            except TrivetError as error:
                return error.code
            return "done"
    return NotLeaderError.code


def proposal_of(command: PassTime | CondemnChunks | DeleteBucket) -> bytes:
    return ProposalBatch(proposals=[Proposal(request_id="r" * 16, command=command)]).model_dump_json().encode()


HEARTBEAT_OF_NOBODY = b"{}"
"""Malformed, so that who may send it changes nothing by it: 400 comes after the role was looked at."""


@pytest.mark.parametrize(
    ("service", "method", "path", "body", "roles"),
    [
        ("consensus", "POST", "/v1/nodes/storage-1/heartbeat", HEARTBEAT_OF_NOBODY, {Role.STORAGE}),
        ("consensus", "POST", "/v1/cluster/init", b"{}", {Role.OPERATOR}),
        ("consensus", "POST", "/v1/members", b"{}", {Role.OPERATOR}),
        ("consensus", "GET", "/v1/status", None, set(CALLERS)),
        ("storage-1", "POST", "/v1/chunks/confirm", b"{}", {Role.STORAGE}),
        ("storage-1", "GET", "/v1/status", None, {Role.OPERATOR}),
        ("storage-1", "PUT", f"/v1/chunks/{blake3(CHUNK).hexdigest()}", CHUNK, {Role.GATEWAY, Role.OPERATOR}),
        ("clock-1", "GET", "/v1/time", None, set(CALLERS)),
    ],
)
async def test_a_route_is_answered_to_its_roles_alone(
    cluster: Cluster, service: str, method: str, path: str, body: bytes | None, roles: set[Role]
) -> None:
    """With the keys that processes of each role really have."""
    for role in CALLERS:
        if (role, cluster.peer(service + "-1" if service == "consensus" else service).role) == (
            Role.CONSENSUS,
            Role.STORAGE,
        ):
            continue  # members have no keys for storage nodes
        code = await sent_as(cluster, role, service, method, path, body)
        assert (code != ForbiddenError.code) == (role in roles), (role, code)


async def test_a_command_is_taken_from_its_roles_alone(cluster: Cluster, bucket: str) -> None:
    """A storage node deletes no bucket, a gateway condemns no chunk, and nobody passes the log's time."""
    delete = proposal_of(DeleteBucket(bucket="default", stamp=STAMP))
    condemn = proposal_of(CondemnChunks(digests=bytes(32), start_indexes=[1], stamp=STAMP))
    time = proposal_of(PassTime(elapsed_ms=1, cursor_retention_s=1, tombstone_retention_s=1, stamp=STAMP))
    path = "/v1/proposals"
    for role in (Role.STORAGE, Role.CONSENSUS, Role.OPERATOR):
        assert await sent_as(cluster, role, "consensus", "POST", path, delete) == "forbidden", role
    for role in CALLERS:
        assert await sent_as(cluster, role, "consensus", "POST", path, time) == "forbidden", role
    for role in (Role.GATEWAY, Role.CONSENSUS, Role.OPERATOR):
        assert await sent_as(cluster, role, "consensus", "POST", path, condemn) == "forbidden", role
    question = ReadBatch(queries=[GetBucket(bucket=bucket)]).model_dump_json().encode()
    assert await sent_as(cluster, Role.STORAGE, "consensus", "POST", "/v1/reads", question) == "forbidden"
    assert await sent_as(cluster, Role.GATEWAY, "consensus", "POST", "/v1/reads", question) == "done"


@contextmanager
def wire(peer: PeerAddress) -> Iterator[socket.socket]:
    host, _, port = peer.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def exchange(peer: PeerAddress, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own; status, headers and body of the answer."""
    with wire(peer) as connection:
        connection.sendall(
            f"{head}\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    start, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = start.decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in fields.items()}, content


def signed_head(
    signer: RequestSigner, peer: PeerAddress, method: str, path: str, body: bytes
) -> tuple[SignedRequest, str]:
    digest = blake3(body).hexdigest()
    signed = signer.sign(method, path, peer, digest)
    return (
        signed,
        f"{method} {path} HTTP/1.1\r\nauthorization: {signed.authorization}\r\n{BODY_DIGEST_HEADER}: {digest}",
    )


def knowing(signer: RequestSigner, peer: PeerAddress) -> RequestSigner:
    """With the boot that the service says in its challenge, which names neither keys nor roles of others."""
    status, headers, _ = exchange(peer, "GET /v1/status HTTP/1.1")
    challenge = parse_challenge(headers["www-authenticate"])
    assert status == 401
    assert challenge is not None
    signer.learn(peer.id, challenge)
    return signer


@pytest.mark.parametrize("service", ["storage-1", "consensus-1", "clock-1"])
def test_an_answer_on_the_wire_is_authenticated_with_its_body(cluster: Cluster, service: str) -> None:
    """A success and a refusal; one byte of the body more or less, and the MAC is another one."""
    peer = cluster.peer(service)
    signer = knowing(RequestSigner(cluster.keys), peer)
    path = "/v1/time" if service == "clock-1" else "/v1/status"
    for method, target in (("GET", path), ("GET", "/v1/nowhere"), ("DELETE", path)):
        signed, head = signed_head(signer, peer, method, target, b"")
        status, headers, body = exchange(peer, head)
        assert status == {path: {"GET": 200, "DELETE": 405}[method], "/v1/nowhere": 404}[target]
        json.loads(body)
        covered = [
            (name, value)
            for name, value in headers.items()
            if name.startswith(COVERED_PREFIX) and name != ANSWER_MAC_HEADER
        ]
        facts = AnswerFacts(status, blake3(body).hexdigest(), covered)
        mac = headers[ANSWER_MAC_HEADER]
        assert signed.is_answered_by(facts, mac)
        for other in (body[:-1], body + b" ", b""):
            assert not signed.is_answered_by(facts._replace(body_digest=blake3(other).hexdigest()), mac)
        assert not signed.is_answered_by(facts._replace(body_digest=""), mac)


def test_a_recorded_request_of_one_pair_is_refused_elsewhere(cluster: Cluster) -> None:
    """Sent again to the same node, and to a node of another role, byte for byte."""
    storage, member = cluster.peer("storage-1"), cluster.peer("consensus-1")
    signer = knowing(RequestSigner(cluster.keys), storage)
    _, head = signed_head(signer, storage, "GET", "/v1/status", b"")
    assert exchange(storage, head)[0] == 200
    for peer in (storage, cluster.peer("storage-2"), member):
        status, _, body = exchange(peer, head)
        assert (status, json.loads(body)["code"]) == (401, SignatureRejectedError.code)


def test_no_process_is_told_the_cluster_secret(cluster: Cluster) -> None:
    """Neither its file nor its bytes stand in what any process was started with."""
    secret_file = cluster.layout.secrets / "cluster-secret"
    secret = secret_file.read_text().strip()
    for spec in cluster.plan.processes:
        told = " ".join([*spec.command, *spec.environment.values()])
        assert str(secret_file) not in told
        assert secret not in told
        for value in spec.environment.values():
            if "/secrets/" in value:
                with open(value, encoding="utf-8") as file:  # noqa: PTH123 - a value of the environment
                    assert secret not in file.read()
