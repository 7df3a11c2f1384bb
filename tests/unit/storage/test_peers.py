"""What other nodes are asked for, and what is made of answers that cannot be right."""

from __future__ import annotations

from typing import Any

import pytest

from services.storage.peers import PeerReplica, Peers
from services.storage.placement_view import PlacementView
from shared.contracts.chunk_batches import (
    BatchAnswer,
    BatchRequest,
    BatchResult,
    Failed,
    Found,
    Held,
    encode_head,
    join_frame,
    split_frame,
)
from shared.contracts.chunks import ConfirmRequest, ConfirmResponse
from shared.contracts.cluster import NodeMap, NodeState, StorageNode
from shared.errors import ChunkNotFoundError, NotReadyError, PeerAnswerInvalidError, PeerUnreachableError
from shared.peer_calls.http_connection import PeerAnswer
from shared.units import GIB


def node(name: str, state: NodeState = NodeState.ACTIVE) -> StorageNode:
    return StorageNode(id=name, url=f"http://{name}", zone="z", state=state, capacity_bytes=GIB)


class FakeClient:
    """Answers with `answer`; keeps what it was sent."""

    def __init__(self, answer: PeerAnswer | Exception) -> None:
        self.answer = answer
        self.target = ""
        self.content: Any = None

    async def request(self, peer: Any, method: str, path: str, *, covered: Any = None, **more: Any) -> PeerAnswer:
        self.target, self.content = f"{method} {path}", more.get("content")
        if isinstance(self.answer, Exception):
            raise self.answer
        if covered is not None:
            covered(self.answer.content)
        return self.answer

    async def call(self, peer: Any, method: str, path: str, answer: Any, *, body: Any, timeout_s: float) -> Any:
        self.target, self.content = f"{method} {path}", body
        return answer.parse_answer((await self.request(peer, method, path, content=body)).content)


def peers(answer: PeerAnswer | Exception) -> tuple[Peers, FakeClient]:
    client = FakeClient(answer)
    return Peers(PlacementView("n1", 3), client), client


def frame(results: list[BatchResult], *bodies: bytes) -> PeerAnswer:
    return PeerAnswer(200, {}, join_frame(encode_head(BatchAnswer(results)), bodies))


async def test_small_chunks_come_in_one_request_with_their_start_indexes() -> None:
    """Each with its own outcome."""
    absent = ChunkNotFoundError("absent").to_problem()
    asked, client = peers(frame([Found(2, 7), Failed(absent), Found(1)], b"ab", b"c"))
    first, second, third = await asked.get_replicas(node("n2"), [b"1" * 32, b"2" * 32, b"3" * 32])
    assert (first, third) == (PeerReplica(b"ab", 7), PeerReplica(b"c", 0))
    assert isinstance(second, ChunkNotFoundError)
    _, request, _ = split_frame(client.content[0], BatchRequest)
    assert all(item.with_start_index for item in request.items)


@pytest.mark.parametrize(
    "answer",
    [
        frame([Found(2, 7)], b"ab"),
        frame([Found(2, 7), Found(2, 7)], b"abc"),
        frame([Found(2, 7), Held(True, True)], b"ab"),
        frame([Found(-1, 7), Found(3, 7)], b"ab"),
    ],
)
async def test_a_frame_that_does_not_fit_is_a_typed_error(answer: PeerAnswer) -> None:
    """Another number of results, other lengths, another kind."""
    asked, _ = peers(answer)
    with pytest.raises(PeerAnswerInvalidError):
        await asked.get_replicas(node("n2"), [b"1" * 32, b"2" * 32])


@pytest.mark.parametrize(
    ("header", "start_index"),
    [("12", 12), ("", 0), ("-1", 0), ("x", 0), ("9" * 19, 2**63 - 1), ("9" * 30, 0), ("\u0661", 0)],
)
async def test_a_large_chunk_comes_with_the_start_index_in_its_header(header: str, start_index: int) -> None:
    """What is no number says nothing, and what is larger than any index is the largest."""
    asked, client = peers(PeerAnswer(200, {"x-trivet-start-index": header}, b"body"))
    assert await asked.get_replica(node("n2"), "ab" * 32) == PeerReplica(b"body", start_index)
    assert client.target == f"GET /v1/chunks/{'ab' * 32}?with_start_index=true"
    assert await asked.get_chunk(node("n2"), "ab" * 32) == b"body"


async def test_a_peer_that_hangs_is_unreachable() -> None:
    """However the client says it."""
    asked, _ = peers(TimeoutError())
    with pytest.raises(PeerUnreachableError):
        await asked.get_replica(node("n2"), "ab" * 32)


async def test_confirmations_name_epoch_and_start_indexes() -> None:
    """And what the peer confirms is given back as it is."""
    said = ConfirmResponse(epoch=4, confirmed=["ab" * 32])
    asked, client = peers(PeerAnswer(200, {}, said.model_dump_json().encode()))
    assert await asked.confirm(node("n2"), 4, {"ab" * 32: 9, "cd" * 32: 1}) == said
    assert isinstance(client.content, ConfirmRequest)
    assert [(chunk.digest, chunk.start_index) for chunk in client.content.chunks] == [("ab" * 32, 9), ("cd" * 32, 1)]


async def test_holders_are_the_other_nodes_by_the_map_that_this_node_decides_by() -> None:
    """Before it was read there are none to be known."""
    view = PlacementView("n1", 3)
    asked = Peers(view, FakeClient(TimeoutError()))
    with pytest.raises(NotReadyError):
        await asked.holders("ab" * 32)
    away = node("n3", NodeState.INACTIVE)
    view.update(NodeMap(epoch=1, nodes=[node("n1"), node("n2"), away, node("n4")]), 5)
    assert {other.id for other in await asked.holders("ab" * 32)} == {"n2", "n3", "n4"}
    assert (await asked.holders("ab" * 32))[-1].id == "n3"
    assert view.sources(bytes.fromhex("ab" * 32), ["n2", "n4"])[0].id == "n3"
