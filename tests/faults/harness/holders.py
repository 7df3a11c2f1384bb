"""Which nodes hold a chunk, asked of the nodes themselves and not of a gateway, whose reads would repair what they miss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from blake3 import blake3

from shared.contracts.chunks import HasRequest, HasResponse
from shared.errors import TrivetError
from shared.peer_calls.http_client import PeerClient
from shared.units import MIB
from tests.faults.harness.fault_cluster import STORAGE, FaultCluster


def digests_of(body: bytes) -> list[str]:
    """Of the chunks that a file is cut into."""
    return [blake3(body[at : at + MIB]).hexdigest() for at in range(0, len(body), MIB)]


async def holders(cluster: FaultCluster, peers: PeerClient, digests: Iterable[str]) -> dict[str, set[str]]:
    """The nodes that hold each chunk, among those that answer."""
    wanted = list(digests)
    found: dict[str, set[str]] = {digest: set() for digest in wanted}

    async def ask(node: str) -> None:
        try:
            answer = await peers.call(
                cluster.peer(node), "POST", "/v1/chunks/has", HasResponse, body=HasRequest(digests=wanted), timeout_s=10
            )
        except TrivetError:
            return
        for digest in answer.present:
            found[digest].add(node)

    await asyncio.gather(*map(ask, STORAGE))
    return found


async def wait_for_holders(
    cluster: FaultCluster,
    peers: PeerClient,
    digests: Iterable[str],
    condition: Callable[[set[str]], bool],
    within_s: float,
) -> float:
    """Seconds until the holders of every chunk are as they should be.

    Raises:
        AssertionError: they are not in time.
    """
    wanted, began = list(digests), time.monotonic()
    while True:
        found = await holders(cluster, peers, wanted)
        wrong = {digest: sorted(nodes) for digest, nodes in found.items() if not condition(nodes)}
        took_s = time.monotonic() - began
        if not wrong:
            return took_s
        assert took_s < within_s, (
            f"{len(wrong)} of {len(wanted)} chunks after {took_s:.0f} s: {list(wrong.items())[:3]}"
        )
        await asyncio.sleep(0.25)
