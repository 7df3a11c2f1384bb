"""A storage node over its real port: routes, signatures, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import random

import httpx
import pytest

from shared.cluster_keys import derive_peer_keys, key_file
from shared.contracts.chunk_batches import (
    BATCH_PATH,
    BatchAnswer,
    BatchRequest,
    Failed,
    Found,
    GetItem,
    PutItem,
    Stored,
    encode_head,
    split_frame,
)
from shared.disk.data_folder import claim_data_dir
from shared.errors import (
    ChunkNotFoundError,
    DigestMismatchError,
    DiskFullError,
    InvalidNameError,
    InvalidRequestError,
    PayloadTooLargeError,
    RangeNotSatisfiableError,
)
from shared.peer_calls.request_signing import (
    ANSWER_MAC_HEADER,
    BODY_DIGEST_HEADER,
    AnswerFacts,
    RequestSigner,
    SignedRequest,
    parse_challenge,
)
from shared.roles import Role
from shared.units import MIB
from tests.chance import random_bytes
from tests.integration.storage.support import CLUSTER_ID, SECRET, RedisServer, StorageProcess, digest_of

LARGE, SMALL = (random.Random(size).randbytes(size) for size in (1024 * 1024, 4096))
_PATIENT = {"TRIVET_REDIS_DEADLINE_MS": "5000", "TRIVET_REDIS_RECORD_DEADLINE_MS": "5000"}
"""A busy test machine is no hung Redis."""


@pytest.fixture(params=["disk", "redis", "tiered"])
def node(request, start_node, redis):
    return start_node(mode=request.param, redis=redis)


async def test_a_chunk_goes_in_and_out_in_every_mode(node, client_of):
    """Every call of the contract does what it says, for a small, a large and an empty chunk."""
    client = client_of(node)
    for body in (SMALL, LARGE, b""):
        digest = digest_of(body)
        with pytest.raises(ChunkNotFoundError):
            await client.get(digest)
        with pytest.raises(ChunkNotFoundError):
            await client.delete(digest)
        stored = await client.put(body, start_index=5)
        assert stored["created"] is True
        assert stored["size_bytes"] == len(body)
        assert (await client.put(body, start_index=3))["created"] is False
        assert await client.get(digest) == body
        assert (await client.head(digest)).headers["content-length"] == str(len(body))
        assert await client.has(["0" * 64, digest], start_index=9) == [digest]
        await client.delete(digest)
        with pytest.raises(ChunkNotFoundError):
            await client.get(digest)
        assert await client.has([digest]) == []


@pytest.mark.parametrize("mode", ["disk", "redis", "tiered"])
async def test_a_full_node_says_so_serves_and_comes_back(mode, tmp_path, start_node, client_of):
    """From the first 507 on; a deletion is enough to have it take writes again."""
    redis = RedisServer(tmp_path / "small-redis", maxmemory="12mb")
    redis.start()
    try:
        node = start_node(mode=mode, redis=redis, extra={"TRIVET_CAPACITY_BYTES": str(6 * MIB), **_PATIENT})
        client = client_of(node)
        assert (await client.status())["is_accepting_writes"] is True
        assert await client.metric("trivet_storage_full") == 0
        held: list[bytes] = []

        async def fill() -> None:
            while len(held) < 20:
                body = random_bytes(MIB)
                await client.put(body)
                held.append(body)

        with pytest.raises(DiskFullError):
            await fill()
        assert (await client.status())["is_accepting_writes"] is False
        assert await client.metric("trivet_storage_full") == 1
        assert await client.metric("trivet_storage_used_bytes") >= len(held) * MIB
        if mode != "redis":
            assert await client.metric("trivet_storage_capacity_bytes") == 6 * MIB
            assert await client.metric('trivet_storage_disk_bytes{part="free"}') > 0
            assert await client.metric('trivet_storage_disk_inodes{part="used"}') > 0
        assert [await client.get(digest_of(body)) for body in held] == held
        for body in held[:2]:
            await client.delete(digest_of(body))
        assert (await client.status())["is_accepting_writes"] is True
        assert await client.metric("trivet_storage_full") == 0
        await client.put(random_bytes(MIB))
    finally:
        redis.kill()


@pytest.mark.parametrize("flush_interval_s", ["0.1", "600"])
async def test_a_full_node_refuses_small_chunks_too(flush_interval_s, start_node, redis, client_of):
    """Those that go through Redis as well: what Redis acknowledges has to find room on disk some time later."""
    extra = {"TRIVET_CAPACITY_BYTES": str(MIB), "TRIVET_FLUSH_INTERVAL_S": flush_interval_s}
    node = start_node(mode="tiered", redis=redis, extra=extra | _PATIENT)
    client = client_of(node)
    held = [random_bytes(1000)]
    await client.put(held[0])
    for size_bytes in (600_000, 400_000, 40_000):
        with contextlib.suppress(DiskFullError):
            await client.put(random_bytes(size_bytes))

    async def fill() -> None:
        while len(held) < 1000:
            body = random_bytes(1000)
            await client.put(body)
            held.append(body)

    with pytest.raises(DiskFullError) as caught:
        await fill()
    assert caught.value.definite
    await client.put(held[0])  # it is held: that needs no room
    assert [await client.get(digest_of(body)) for body in held[-3:]] == held[-3:]
    await client.delete(digest_of(held[0]))


async def test_what_is_held_can_be_compared_and_listed(node, client_of):
    """The sums of the groups lead to those of the partitions, and these to the chunks; pages are bounded and go on."""
    client = client_of(node)
    assert (await client.ask("/v1/partitions"))["partitions"] == []
    assert await client.ask("/v1/chunks") == {"chunks": [], "next_after": None}
    bodies = [random_bytes(size) for size in [3000] * 30 + [80_000]]
    held = {digest_of(body): len(body) for body in bodies}
    for index, body in enumerate(bodies):
        await client.put(body, start_index=index)
    groups = (await client.ask("/v1/partitions"))["partitions"]
    assert [group["prefix"] for group in groups] == sorted({digest[:2] for digest in held})
    listed = []
    for group in groups:
        parts = (await client.ask(f"/v1/partitions/{group['prefix']}"))["partitions"]
        assert sum(int(part["checksum"], 16) for part in parts) % 2**256 == int(group["checksum"], 16)
        for part in parts:
            page = await client.ask(f"/v1/chunks?prefix={part['prefix']}")
            assert len(page["chunks"]) == part["chunk_count"]
            assert sum(chunk["size_bytes"] for chunk in page["chunks"]) == part["used_bytes"]
            assert sum(int(chunk["digest"], 16) for chunk in page["chunks"]) % 2**256 == int(part["checksum"], 16)
            listed += page["chunks"]
    assert [(chunk["digest"], chunk["size_bytes"]) for chunk in listed] == sorted(held.items())
    assert {chunk["digest"]: chunk["start_index"] for chunk in listed} == dict(zip(held, range(31), strict=True))
    first = await client.ask("/v1/chunks?limit=20")
    rest = await client.ask(f"/v1/chunks?limit=20&after={first['next_after']}")
    assert (len(first["chunks"]), rest["next_after"]) == (20, None)
    assert first["chunks"] + rest["chunks"] == listed
    for path in ("/v1/chunks?limit=1001", "/v1/chunks?prefix=AB", "/v1/chunks?after=ab", "/v1/partitions/g0"):
        with pytest.raises(InvalidRequestError):
            await client.ask(path)


async def test_a_range_is_cut_from_a_verified_chunk(node, client_of):
    """Single ranges are honoured, other forms ignored, impossible ones refused."""
    client = client_of(node)
    await client.put(LARGE)
    digest = digest_of(LARGE)
    assert await client.get(digest, "bytes=10-19") == LARGE[10:20]
    assert await client.get(digest, "bytes=-7") == LARGE[-7:]
    assert await client.get(digest, "bytes=1048570-") == LARGE[1048570:]
    assert await client.get(digest, "bytes=1048575-9999999") == LARGE[-1:]
    assert await client.get(digest, "bytes=0-1,5-6") == LARGE
    assert await client.get(digest, "bytes=9-3") == LARGE
    with pytest.raises(RangeNotSatisfiableError):
        await client.get(digest, "bytes=1048576-")
    with pytest.raises(RangeNotSatisfiableError):
        await client.get(digest, "bytes=-0")


async def test_bad_requests_get_typed_problems_and_store_nothing(start_node, client_of):
    """Wrong digest, wrong name, wrong index, too large: each has its code, and nothing is kept."""
    node = start_node(mode="disk", extra={"TRIVET_MAX_CHUNK_BYTES": "524288"})
    client = client_of(node)
    wrong = digest_of(b"something else")
    with pytest.raises(DigestMismatchError):
        await client.put(SMALL, digest=wrong)
    with pytest.raises(InvalidNameError):
        await client.put(SMALL, digest="A" * 64)
    with pytest.raises(InvalidNameError):
        await client.get("abc")
    with pytest.raises(InvalidRequestError):
        await client.put(SMALL, start_index=-1)
    with pytest.raises(InvalidNameError):
        await client.has(["../../etc/passwd"])
    too_large = bytes(524289)
    with pytest.raises(PayloadTooLargeError):
        await client.put(too_large)
    assert await client.has([wrong, digest_of(SMALL), digest_of(too_large)]) == []
    assert (await client.status())["chunk_count"] == 0
    assert not list((node.data_dir / "tmp").iterdir())


async def test_a_batch_is_signed_by_its_head_and_proved_by_its_digests(node) -> None:
    """Bytes that are not those of a digest fail alone; another head does nothing; the answer's head is authenticated."""
    signer = RequestSigner(derive_peer_keys(SECRET, Role.GATEWAY))
    put = PutItem(bytes.fromhex(digest_of(SMALL)), len(SMALL), 5)
    other = PutItem(bytes.fromhex(digest_of(b"other")), 5, 5)
    get = GetItem(bytes.fromhex(digest_of(SMALL)))
    async with httpx.AsyncClient(base_url=node.peer.url, timeout=30) as client:  # noqa: TID251 - what the wire sees

        async def send(head: bytes, body: bytes, signed: bytes) -> tuple[SignedRequest, httpx.Response]:
            digest = digest_of(signed)
            signature = signer.sign("POST", BATCH_PATH, node.peer, digest)
            headers = {"authorization": signature.authorization, BODY_DIGEST_HEADER: digest}
            return signature, await client.post(BATCH_PATH, content=head + body, headers=headers)

        head = encode_head(BatchRequest([put, other]))
        _, refused = await send(head, SMALL + b"wrong", head)
        boot = parse_challenge(refused.headers["www-authenticate"])
        assert boot is not None
        signer.learn(node.node_id, boot)
        forged = encode_head(BatchRequest([PutItem(put.digest, put.size_bytes, 50), other]))
        _, refused = await send(forged, SMALL + b"wrong", head)
        assert (refused.status_code, refused.json()["code"]) == (401, "signature_rejected")
        signature, answer = await send(head, SMALL + b"wrong", head)
        signed, found, _ = split_frame(answer.content, BatchAnswer)
        stored, failed = found.results
        assert stored == Stored(created=True)
        assert isinstance(failed, Failed)
        assert failed.problem["code"] == DigestMismatchError.code
        mac = answer.headers[ANSWER_MAC_HEADER]
        facts = AnswerFacts(200, digest_of(signed))
        assert signature.is_answered_by(facts, mac)
        assert not signature.is_answered_by(facts._replace(body_digest=""), mac)
        head = encode_head(BatchRequest([get]))
        _, answer = await send(head, b"", head)
        _, found, rest = split_frame(answer.content, BatchAnswer)
        assert (found.results, bytes(rest)) == ([Found(len(SMALL))], SMALL)


async def test_without_a_right_signature_nothing_is_said(start_node):
    """Every route but health and documentation answers 401 to a caller without, or with a foreign, signature."""
    node = start_node(mode="disk")
    digest = digest_of(SMALL)
    forged = {"authorization": "Trivet-HMAC key=00000000,boot=x,nonce=a.1,mac=00", "x-trivet-body-digest": digest}
    async with httpx.AsyncClient(base_url=node.peer.url, timeout=30) as client:  # noqa: TID251 - a stranger
        description = (await client.get("/openapi.json")).json()
        client.headers.update(forged)
        tried = 0
        for path, operations in description["paths"].items():
            if path in {"/healthz", "/readyz"}:
                continue
            for method in operations:
                answer = await client.request(
                    method, path.replace("{digest}", digest).replace("{group}", "00"), content=b""
                )
                assert answer.status_code == 401, (method, path)
                tried += 1
        assert tried == 14
        assert (await client.get("/metrics")).status_code == 401


def test_the_description_documents_every_answer(start_node):
    """The OpenAPI document names the refusals of every route and the body of a put."""
    node = start_node(mode="disk")
    paths = httpx.get(f"{node.peer.url}/openapi.json", timeout=30).json()["paths"]
    chunk = paths["/v1/chunks/{digest}"]
    assert {"200", "201", "400", "401", "413", "503", "507"} <= chunk["put"]["responses"].keys()
    assert {"200", "206", "400", "401", "404", "416", "503"} <= chunk["get"]["responses"].keys()
    assert {"204", "404", "503"} <= chunk["delete"]["responses"].keys()
    assert "application/octet-stream" in chunk["put"]["requestBody"]["content"]
    assert all(operation["summary"] for path in paths.values() for operation in path.values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"TRIVET_PEER_KEYS": ""}, "peer keys are missing"),
        ({"TRIVET_PEER_KEYS": SECRET}, "begins with a line such as `role storage`"),
        ({"TRIVET_PEER_KEYS": key_file(SECRET, Role.GATEWAY)}, "the keys are those of a gateway; this is a storage"),
        ({"TRIVET_STORAGE_MODE": "tiered"}, "needs TRIVET_REDIS_URL"),
        ({"TRIVET_CLUSTER_ID": "another-cluster"}, "belongs to cluster storage-test-cluster"),
        ({"TRIVET_NODE_ID": "storage-9"}, "belongs to node storage-1"),
    ],
)
def test_a_wrong_start_is_refused_with_one_sentence(tmp_path, change, sentence):
    """A node without its secret, or on a folder of somebody else, ends with exit code 78 and says why."""
    (tmp_path / "data").mkdir()
    os.close(claim_data_dir(tmp_path / "data", CLUSTER_ID, "storage-1").lock_fd)
    refused = StorageProcess(tmp_path, mode="disk", extra=change).run_to_end()
    assert refused.returncode == 78
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert SECRET not in refused.stderr


def test_a_folder_in_use_or_of_strangers_is_refused(tmp_path, start_node):
    """Two processes never share a folder, and a folder that is not a storage node's is left alone."""
    node = start_node(mode="disk")
    second = StorageProcess(node.folder, mode="disk").run_to_end()
    assert second.returncode == 78
    assert "in use" in second.stderr
    stranger = StorageProcess(tmp_path / "strange", mode="disk")
    stranger.data_dir.mkdir(parents=True)
    (stranger.data_dir / "holiday.jpg").write_bytes(b"x")
    assert "holiday.jpg" in stranger.run_to_end().stderr
    assert [path.name for path in stranger.data_dir.iterdir() if path.name != "lock"] == ["holiday.jpg"]


def test_a_folder_of_a_newer_format_is_refused(tmp_path):
    """A folder that a later version wrote is not touched."""
    node = StorageProcess(tmp_path, mode="disk")
    os.close(claim_data_dir(node.data_dir, CLUSTER_ID, "storage-1").lock_fd)
    path = node.data_dir / "identity.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
    refused = node.run_to_end()
    assert refused.returncode == 78
    assert "format 2" in refused.stderr
