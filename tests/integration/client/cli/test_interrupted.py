"""Copies of large files that are interrupted, and go on."""

from __future__ import annotations

import asyncio
import signal

import pytest
from blake3 import blake3

from tests.chance import random_bytes
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

SIZE_BYTES = 40 << 20
SLOW_BYTES_PER_S = 10 << 20
RANGE_BYTES = 16 << 20


@pytest.fixture
def slow_key(trivet, bucket, operations):
    """A key by which bytes come and go so slowly that there is time to interrupt them."""
    made = trivet("keys", "create", "slow", "--allow", f"read,write,list@{bucket}", "--json").document
    answer = operations.patch(f"/v1/identities/{made['identity']}", json={"limits": {"bytes_per_s": SLOW_BYTES_PER_S}})
    assert answer.status_code == 200, answer.text
    path = trivet.folder / "slow.key"
    path.write_text(made["line"])
    yield path
    trivet("keys", "delete", made["identity"], "--yes")


@pytest.fixture
def data(trivet) -> bytes:
    found = random_bytes(SIZE_BYTES)
    (trivet.folder / "film").write_bytes(found)
    return found


def parts_of(gateway, bucket) -> int:
    """Of the one upload under way."""
    uploads = gateway.get("/v1/uploads", params={"bucket": bucket}).json()["uploads"]
    return len(gateway.get(f"/v1/uploads/{uploads[0]['upload_id']}").json()["parts"]) if uploads else 0


UP = ("--part-size", "5MiB", "--parallel", "1")


@pytest.mark.parametrize(("interruption", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_upload_goes_on_where_it_was(trivet, bucket, gateway, slow_key, data, interruption, code) -> None:
    """After Ctrl-C and after the death of the program: parts that are there are not sent again."""
    with trivet.start("cp", "film", f"{bucket}/film", *UP, "--key", slow_key) as process:
        block_until(lambda: parts_of(gateway, bucket) >= 2, "two parts are stored")
        process.send_signal(interruption)
        assert process.wait(20) == code
        said = process.stderr.read().decode()
    if code == 130:
        assert said.strip() == "trivet: Interrupted. The same command goes on where this one stopped."
    assert trivet("ls", f"{bucket}/film", ends_with=3).out == "", "nothing is visible of it"
    copied = trivet("cp", "film", f"{bucket}/film", *UP)
    assert "of them before" in copied.err
    trivet("cp", f"{bucket}/film", "back")
    assert blake3((trivet.folder / "back").read_bytes()).digest() == blake3(data).digest()
    assert gateway.get("/v1/uploads", params={"bucket": bucket}).json()["uploads"] == []


def test_a_download_goes_on_where_it_was(trivet, bucket, gateway, slow_key, data) -> None:
    """Until all is there, the name has what it had before."""
    trivet("cp", "film", f"{bucket}/film")
    (trivet.folder / "back").write_text("as before")
    partial = trivet.folder / ".back.trivet-partial"
    with trivet.start("cp", f"{bucket}/film", "back", "--parallel", "1", "--key", slow_key) as process:
        block_until(
            lambda: partial.exists() and partial.stat().st_blocks * 512 > RANGE_BYTES + (2 << 20),
            "a part of it is here",
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert (trivet.folder / "back").read_text() == "as before"
    copied = trivet("cp", f"{bucket}/film", "back")
    assert "of them before" in copied.err
    assert blake3((trivet.folder / "back").read_bytes()).digest() == blake3(data).digest()
    assert [path.name for path in trivet.folder.glob(".back*")] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gibibyte_goes_on_while_a_node_is_dead(trivet, bucket, gateway, cluster) -> None:
    """Interrupted on its way up and on its way down, with a node killed meanwhile; the digest is right."""
    hasher = blake3()
    with (trivet.folder / "film").open("wb") as file:
        for _ in range(64):
            piece = random_bytes(16 << 20)
            hasher.update(piece)
            file.write(piece)
    with trivet.start("cp", "film", f"{bucket}/film") as process:
        block_until(lambda: parts_of(gateway, bucket) >= 3, "some parts are stored")
        cluster.kill("storage-2")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert "of them before" in trivet("cp", "film", f"{bucket}/film").err
    asyncio.run(cluster.start())
    partial = trivet.folder / ".back.trivet-partial"
    with trivet.start("cp", f"{bucket}/film", "back") as process:
        block_until(lambda: partial.exists() and partial.stat().st_blocks * 512 > 100 << 20, "a part of it is here")
        cluster.kill("storage-1")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert "of them before" in trivet("cp", f"{bucket}/film", "back").err
    assert blake3(max_threads=blake3.AUTO).update_mmap(trivet.folder / "back").digest() == hasher.digest()
