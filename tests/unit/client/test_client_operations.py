"""Calls of the operations port whose answers are of more than one kind."""

from __future__ import annotations

import msgspec

from tests.unit.client.scripted import ScriptedAnswer, ScriptedTransport, caller_over
from trivet.models import NodeDraining, NodeRemoved
from trivet.operations import AsyncOperations


async def test_a_node_drains_or_was_never_there_and_is_removed() -> None:
    """Of one that was admitted and never dialled in there is nothing to be emptied."""
    answers = (
        {"id": "storage-4", "state": "draining", "draining_since": 17, "chunks_left": None},
        {"id": "storage-4", "chunks_at_risk": 0},
    )
    transport = ScriptedTransport(*(ScriptedAnswer(200, msgspec.json.encode(answer)) for answer in answers))
    operations = AsyncOperations(caller_over(transport))
    assert await operations.drain_node("storage-4") == NodeDraining(id="storage-4", state="draining", draining_since=17)
    assert await operations.drain_node("storage-4") == NodeRemoved(id="storage-4", chunks_at_risk=0)
