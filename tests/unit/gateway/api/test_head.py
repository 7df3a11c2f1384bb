"""HEAD: the log says what a file is; only a request for a read quorum says how many replicas there are."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from services.gateway.transfers.downloads import STRICT_WINDOW_CHUNKS
from tests.chance import random_bytes
from tests.unit.gateway.api.local_gateway import make_app
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, NODES
from tests.unit.gateway.fakes import unreachable
from tests.waiting import block_until

URL = "/v1/files/default/a"
CONFIRMED = "x-trivet-replicas-confirmed"


@pytest.mark.parametrize("strict_reads", [False, True])
def test_head_asks_no_storage_node_unless_a_read_quorum_is_asked_for(serve_app, tmp_path, strict_reads) -> None:
    """It works with all of them away, and tells no number of replicas, whatever the setting makes of reads."""
    app, gateway = make_app(tmp_path, strict_reads=strict_reads)
    with httpx.Client(base_url=serve_app(app), trust_env=False, timeout=30) as client:
        receipt = client.put(URL, content=bytes(3 * CHUNK_SIZE_BYTES)).json()
        block_until(lambda: len(gateway.nodes.chunks) == 3, "all replicas are there", 10)
        gateway.nodes.calls.clear()
        gateway.nodes.errors |= {node_id: unreachable() for node_id in NODES}
        head = client.head(URL)
        assert (head.status_code, head.headers["etag"]) == (200, f'"{receipt["etag"]}"')
        assert head.headers["content-length"] == str(3 * CHUNK_SIZE_BYTES)
        assert CONFIRMED not in head.headers
        assert client.head("/v1/files/default/none").status_code == 404
        assert not gateway.nodes.calls, "the log alone is asked"


def test_head_with_a_read_quorum_counts_the_replicas_or_refuses(serve_app, tmp_path) -> None:
    """The number is that of all replicas, and fewer than asked for are 503."""
    app, gateway = make_app(tmp_path)
    with httpx.Client(base_url=serve_app(app), trust_env=False, timeout=30) as client:
        client.put(URL, content=b"x")
        block_until(lambda: len(gateway.nodes.chunks) == 3, "all replicas are there", 10)
        for asked in ("1", "3"):
            assert client.head(URL, headers={"x-trivet-read-quorum": asked}).headers[CONFIRMED] == "3"
        gateway.nodes.errors["storage-1"] = unreachable()
        assert client.head(URL, headers={"x-trivet-read-quorum": "2"}).headers[CONFIRMED] == "2"
        assert client.head(URL, headers={"x-trivet-read-quorum": "3"}).status_code == 503


def test_head_waits_once_for_a_node_that_does_not_answer(serve_app, tmp_path) -> None:
    """The answer is the weakest chunk's number, so no later part of the file is asked about more replicas than that."""
    windows = 3
    app, gateway = make_app(tmp_path, max_inflight_bytes=64 << 20)
    with httpx.Client(base_url=serve_app(app), trust_env=False, timeout=60) as client:
        chunk_count = STRICT_WINDOW_CHUNKS * windows
        client.put(URL, content=random_bytes(CHUNK_SIZE_BYTES * chunk_count))
        block_until(
            lambda: all(len(gateway.nodes.chunks[node]) == chunk_count for node in NODES[:3]), "all are there", 30
        )
        away = NODES[1]
        gateway.nodes.errors[away] = unreachable()
        gateway.nodes.calls.clear()
        assert client.head(URL, headers={"x-trivet-read-quorum": "2"}).headers[CONFIRMED] == "2"
        assert gateway.nodes.calls["has", away] == 1


def test_head_that_asks_the_nodes_ends_with_its_client(serve_app, tmp_path, monkeypatch) -> None:
    """They may have to read the whole file from their disks."""
    windows = 20
    app, gateway = make_app(tmp_path, max_inflight_bytes=64 << 20)
    base = serve_app(app)
    with httpx.Client(base_url=base, trust_env=False, timeout=60) as client:
        client.put(URL, content=random_bytes(CHUNK_SIZE_BYTES * STRICT_WINDOW_CHUNKS * windows))
    has_chunks = gateway.nodes.has_chunks

    async def has_chunks_slowly(*asked: object, **options: bool) -> object:
        await asyncio.sleep(0.05)
        return await has_chunks(*asked, **options)

    monkeypatch.setattr(gateway.nodes, "has_chunks", has_chunks_slowly)
    gateway.nodes.calls.clear()
    address = urlsplit(base)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"HEAD {URL} HTTP/1.1\r\nhost: localhost\r\nx-trivet-read-quorum: 2\r\n\r\n".encode())
        block_until(gateway.nodes.calls.total, "a node is asked", 10)
    block_until(lambda: not gateway.under_way, "the call has ended", 30)
    assert gateway.nodes.calls.total() < 2 * windows
