"""Verify over all nodes: started together or not at all, added up, and never clean without a node that is away."""

from __future__ import annotations

import pytest

from services.consensus.metadata import counting
from services.gateway.api.models import ClusterVerification, CountedObjects
from shared.contracts.metadata import DeleteFile
from shared.contracts.objects import BucketSettings, PutBucketSettings
from shared.contracts.reconcile import VerifyReport, VerifyState
from shared.errors import NotReadyError, VerifyInProgressError
from tests.unit.gateway.conftest import NODES
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.test_multipart import begin, put_part
from tests.unit.gateway.transfers.transfer_calls import NAME, put

FINISHED = VerifyReport(
    state=VerifyState.FINISHED, expected_chunks=10, checked_chunks=10, checked_bytes=100, progress=1.0
)


def running(**changes: object) -> VerifyReport:
    return FINISHED.model_copy(update={"state": VerifyState.RUNNING, **changes})


async def test_a_pass_begins_on_every_node_and_ends_with_all_of_them(world) -> None:
    """Never before, running, finished and clean."""
    verify, nodes = world.services.verify, world.nodes
    before = await verify.report()
    assert (before.state, before.is_clean, before.progress) == (VerifyState.NEVER, None, 0.0)
    started = await verify.start()
    assert started.state is VerifyState.RUNNING
    assert [node.node_id for node in started.nodes] == list(NODES)
    nodes.verifies["storage-1"] = FINISHED
    assert ((await verify.report()).state, (await verify.report()).is_clean) == (VerifyState.RUNNING, None)
    nodes.verifies = dict.fromkeys(NODES, FINISHED)
    done = await verify.report()
    assert (done.state, done.is_clean, done.progress, done.eta_s) == (VerifyState.FINISHED, True, 1.0, None)


async def test_a_second_start_is_refused_and_starts_nothing(world) -> None:
    """One node alone that is still at it is enough; it is named."""
    world.nodes.verifies = {"storage-2": running()}
    with pytest.raises(VerifyInProgressError) as refused:
        await world.services.verify.start()
    assert (refused.value.definite, refused.value.facts["nodes"]) == (True, ["storage-2"])
    assert not any(what == "verify" for what, _ in world.nodes.calls)


async def test_of_two_starts_at_one_moment_one_is_refused_or_both_see_it_run(world, monkeypatch) -> None:
    """Both saw that nothing runs; the nodes themselves begin once, and whoever began nowhere hears 409."""

    async def idle(_: object) -> VerifyReport:
        monkeypatch.undo()
        world.nodes.verifies = dict.fromkeys(NODES, running())
        return VerifyReport(state=VerifyState.NEVER)

    monkeypatch.setattr(world.services.verify._nodes, "verify_report", idle)
    with pytest.raises(VerifyInProgressError):
        await world.services.verify.start()


async def test_a_node_that_is_away_is_named_and_nothing_is_called_clean(world) -> None:
    """The others are verified all the same."""
    world.nodes.errors["storage-3"] = unreachable("storage-3")
    started = await world.services.verify.start()
    assert [(node.node_id, node.problem) for node in started.nodes if node.report is None] == [("storage-3", "refused")]
    world.nodes.verifies = dict.fromkeys(NODES, FINISHED)
    done = await world.services.verify.report()
    assert (done.state, done.is_clean) == (VerifyState.FINISHED, None)


async def test_a_pass_that_begins_nowhere_is_refused(world) -> None:
    """Rather than accepted; each node is named, and why."""
    world.nodes.errors = {node: unreachable(node) for node in NODES}
    with pytest.raises(NotReadyError) as refused:
        await world.services.verify.start()
    assert (refused.value.definite, set(refused.value.facts["nodes"])) == (False, set(NODES))


async def test_what_nodes_found_is_added_up(world) -> None:
    """Progress by chunks; the end is that of the slowest."""
    world.nodes.verifies = {
        "storage-1": running(expected_chunks=30, progress=0.5, eta_s=20, missing_chunks=1, surplus_chunks=2),
        "storage-2": running(expected_chunks=10, progress=0.1, eta_s=30, bad_chunks=3, orphaned_chunks=4),
        "storage-3": FINISHED,
    }
    found = ClusterVerification.of(await world.services.verify.report())
    assert (found.state, found.is_clean, found.eta_s) == (VerifyState.RUNNING, False, 30)
    assert found.progress == pytest.approx((15 + 1 + 10) / 50)
    assert (found.checked_chunks, found.checked_bytes) == (30, 300)
    counts = (found.missing_chunks, found.bad_chunks, found.surplus_chunks, found.orphaned_chunks)
    assert counts == (1, 3, 2, 4)


async def test_an_end_that_one_node_cannot_tell_is_not_told(world) -> None:
    """And progress is by nodes while one of them does not know how many chunks it has."""
    world.nodes.verifies = {
        "storage-1": running(expected_chunks=None, progress=0.0, eta_s=None),
        "storage-2": running(progress=0.6, eta_s=3),
        "storage-3": running(progress=0.6, eta_s=3),
    }
    found = await world.services.verify.report()
    assert (found.eta_s, found.progress) == (None, pytest.approx(0.4))


async def test_a_cancelled_pass_is_cancelled_everywhere_and_may_begin_anew(world) -> None:
    """Cancelling twice, or without a pass, changes nothing."""
    verify = world.services.verify
    assert (await verify.cancel()).state is VerifyState.NEVER
    await verify.start()
    for _ in range(2):
        assert (await verify.cancel()).state is VerifyState.CANCELLED
    assert (await verify.start()).state is VerifyState.RUNNING


async def test_versions_and_parts_are_counted_once_all_nodes_are_done(world, monkeypatch) -> None:
    """By the log, however many pages that takes; not while somebody asks again and again how far the nodes are."""
    monkeypatch.setattr(counting, "ROWS_PER_PAGE", 2)
    metadata, stamp = world.metadata, world.clock.stamp()
    await metadata.upgrade(world.clock)
    settings = BucketSettings(versioning="enabled")
    await metadata.propose(PutBucketSettings(bucket=NAME.bucket, settings=settings, stamp=stamp))
    for body in (b"a", b"b", b"c"):
        await put(world, body)
    await metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=stamp))
    upload = await begin(world.services)
    for number in (1, 2, 3, 5):
        await put_part(world, upload, number, b"part")
    world.nodes.verifies = dict.fromkeys(NODES, FINISHED) | {"storage-1": running()}
    assert ClusterVerification.of(await world.services.verify.report()).objects is None
    world.nodes.verifies = dict.fromkeys(NODES, FINISHED)
    found = ClusterVerification.of(await world.services.verify.report()).objects
    assert found == CountedObjects(versions=3, markers=1, uploads=1, parts=4, manifests=4)
