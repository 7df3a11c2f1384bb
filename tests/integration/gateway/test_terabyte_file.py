"""A file of a terabyte, made of copies of one of a gigabyte: it costs entries of the log, and no bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from shared.units import GIB, MIB
from tests.integration.gateway.test_multipart import begin

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

PARTS = 1024
CHUNKS = 97
"""Distinct ones: the disk has to hold no more, and a wrong place in the file has other bytes."""

RANGES = 200
RSS_MAX_BYTES = 200 * MIB


def test_a_file_of_a_terabyte_is_read_by_ranges(cluster, gateway, bucket, seed) -> None:
    """Its parts move no bytes, and the gateway's memory does not grow with it."""
    source = random.Random(seed)
    chunks = [source.randbytes(MIB) for _ in range(CHUNKS)]
    order = [source.randrange(CHUNKS) for _ in range(GIB // MIB)]

    def body() -> Iterator[bytes]:
        for chunk in order:
            yield chunks[chunk]

    with httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=300, trust_env=False) as client:
        stored = client.put(f"/v1/files/{bucket}/gigabyte", content=body())
        assert stored.status_code == 201, stored.text
        used_before = used_bytes(client)
        upload = begin(client, bucket)
        copy = {"source": {"bucket": bucket, "key": "gigabyte"}}

        def copied(number: int) -> dict[str, object]:
            answer = client.post(f"/v1/uploads/{upload}/parts/{number}/copy", json=copy)
            assert answer.status_code == 200, answer.text
            return {"number": number, "etag": answer.json()["etag"]}

        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(copied, range(1, PARTS + 1)))
        completed = client.post(f"/v1/uploads/{upload}/complete", json={"parts": parts})
        assert completed.status_code == 201, completed.text
        assert completed.json()["size_bytes"] == PARTS * GIB
        # Nodes report in heartbeats what they hold, so this may be of a moment before; a copy would be a thousand times more.
        assert used_bytes(client) < used_before + GIB
        process = psutil.Process(cluster.pid("gateway-1"))
        most_bytes = 0
        for _ in range(RANGES):
            start = source.randrange(PARTS * GIB - 3 * MIB)
            stop = start + source.randint(1, 3 * MIB)
            read = client.get(f"/v1/files/{bucket}/film", headers={"range": f"bytes={start}-{stop - 1}"})
            assert read.status_code == 206
            expected = b"".join(chunks[order[at % (GIB // MIB)]] for at in range(start // MIB, (stop - 1) // MIB + 1))
            assert read.content == expected[start % MIB :][: stop - start], start
            most_bytes = max(most_bytes, process.memory_info().rss)
        print(f"gateway RSS {most_bytes / MIB:.0f} MiB")
        assert most_bytes <= RSS_MAX_BYTES


def used_bytes(client: httpx.Client) -> int:
    return sum(node["used_bytes"] for node in client.get("/v1/cluster").json()["nodes"])
