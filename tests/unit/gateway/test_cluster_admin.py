"""Changes of the cluster: never a node removed that still holds chunks, unless it is lost."""

from __future__ import annotations

import pytest

from services.gateway.admin_token import AdminToken
from services.gateway.cluster_admin import DrainProgress
from shared.contracts.cluster import NodeState
from shared.errors import ForbiddenError, InvalidNameError, NodeNotFoundError, UnauthenticatedError, UnavailableError
from tests.unit.gateway.fakes import unreachable


async def states(world) -> dict[str, NodeState]:
    answer, _ = await world.services.admin.cluster()
    return {node.id: node.state for node in answer.node_map.nodes}


async def test_a_node_is_drained_first_and_removed_when_it_is_empty(world) -> None:
    """The same request is repeated until it is done."""
    admin = world.services.admin
    world.nodes.of("storage-3")["d" * 64] = b"x"
    assert await admin.remove("storage-3", is_lost=False) == DrainProgress("storage-3", False, 1)
    assert (await states(world))["storage-3"] is NodeState.DRAINING
    assert await admin.remove("storage-3", is_lost=False) == DrainProgress("storage-3", False, 1)
    world.nodes.of("storage-3").clear()
    assert await admin.remove("storage-3", is_lost=False) == DrainProgress("storage-3", True, 0)
    assert "storage-3" not in await states(world)


async def test_an_empty_node_is_drained_before_it_is_removed(world) -> None:
    """It could be given a chunk in between."""
    assert not (await world.services.admin.remove("storage-3", is_lost=False)).is_removed
    assert (await world.services.admin.remove("storage-3", is_lost=False)).is_removed


async def test_a_node_that_cannot_be_asked_is_not_removed(world) -> None:
    """Silence is no proof of emptiness; only the operator may say that it is lost."""
    world.nodes.errors["storage-3"] = unreachable()
    assert await world.services.admin.remove("storage-3", is_lost=False) == DrainProgress("storage-3", False, None)
    for _ in range(2):
        with pytest.raises(UnavailableError) as refused:
            await world.services.admin.remove("storage-3", is_lost=False)
        assert refused.value.definite
    assert (await states(world))["storage-3"] is NodeState.DRAINING
    assert (await world.services.admin.remove("storage-3", is_lost=True)).is_removed
    assert "storage-3" not in await states(world)


async def test_a_node_that_does_not_know_what_it_holds_is_not_removed(world) -> None:
    """It answers while its Redis does not: then nobody knows whether it is empty."""
    world.nodes.uncounted.add("storage-3")
    assert await world.services.admin.remove("storage-3", is_lost=False) == DrainProgress("storage-3", False, None)
    with pytest.raises(UnavailableError):
        await world.services.admin.remove("storage-3", is_lost=False)
    assert "storage-3" in await states(world)
    world.nodes.uncounted.clear()
    assert (await world.services.admin.remove("storage-3", is_lost=False)).is_removed


async def test_a_node_is_admitted_once_by_id(world) -> None:
    """Repeating changes nothing; a bad id is refused; one that never dialled in may go at once."""
    assert await world.services.admin.admit("storage-4")
    assert not await world.services.admin.admit("storage-4")
    with pytest.raises(InvalidNameError):
        await world.services.admin.admit("../etc")
    assert (await world.services.admin.remove("storage-4", is_lost=False)).is_removed
    with pytest.raises(NodeNotFoundError):
        await world.services.admin.remove("storage-4", is_lost=True)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer r",
        "Bearer right-token-of-min",
        "Bearer right-token-of-minx",
        "Bearer xight-token-of-mine",
        "Bearer right-tokex-of-mine",
        "Bearer right-token-of-minee",
        "Bearer Right-Token-Of-Mine",
        "Basic right-token-of-mine",
        "right-token-of-mine",
    ],
)
def test_a_change_without_the_admin_token_is_refused(given) -> None:
    """401, whatever is wrong about it."""
    with pytest.raises(UnauthenticatedError):
        AdminToken("right-token-of-mine").require(given)


def test_the_admin_token_opens_and_its_absence_closes() -> None:
    """Without a configured token nobody may change the cluster, not even with an empty one."""
    AdminToken("right-token-of-mine").require("Bearer right-token-of-mine")
    AdminToken("right-token-of-mine").require("bearer right-token-of-mine")
    for given in (None, "Bearer ", "Bearer x"):
        with pytest.raises(ForbiddenError):
            AdminToken(None).require(given)
