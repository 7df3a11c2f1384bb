"""Links between members that look alive and are not: noticed from both ends, replaced, and never mistaken for slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.consensus.peering import mesh as peers
from services.consensus.peering.disk_identities import DISK_ID_BYTES
from services.consensus.peering.link import BEAT_INTERVAL_S, SILENT_BEATS
from tests.integration.consensus.meshes import BrokenMiddlebox, Harness, message
from tests.waiting import wait_until

BEAT_S = 0.05
NOTICED_WITHIN_S = 20.0
"""Of time that a busy machine may take; how long it takes by design is a matter of beats."""
WELCOME_BYTES = 32 + 1 + DISK_ID_BYTES + 32


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path, beat_interval_s=BEAT_S)
    yield made
    for mesh in made.meshes.values():
        await mesh.aclose()


@pytest.fixture
async def middlebox(harness: Harness) -> AsyncIterator[BrokenMiddlebox]:
    """Before m2; m2 dials m1 directly."""
    async with BrokenMiddlebox(harness.ports["m2"]) as box:
        harness.dialled["m2"] = box.port
        yield box


def test_a_dead_link_is_given_up_within_five_seconds() -> None:
    """The row asks for it: a beat may have begun, and then all that may be silent pass."""
    assert (SILENT_BEATS + 1) * BEAT_INTERVAL_S < 5


@pytest.mark.parametrize(
    ("requests", "answers"), [(True, True), (True, False), (False, True)], ids=["both ways", "requests", "answers"]
)
async def test_a_half_open_link_is_replaced_and_forgotten(
    harness: Harness, middlebox: BrokenMiddlebox, requests: bool, answers: bool
) -> None:
    """Nothing says that it is dead, but that no count grows: a new one carries on, and neither side keeps the old one."""
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    first.post(message("before"), "m2")
    await wait_until(lambda: len(harness.received["m2"]) == 1)
    changes: list[str] = []
    first.on_link_change = changes.append
    middlebox.swallow(requests=requests, answers=answers)
    await wait_until(lambda: len(changes) >= 2, within_s=NOTICED_WITHIN_S)
    assert first.connected_peers() == ["m2"]
    first.post(message("after"), "m2")
    await wait_until(lambda: harness.received["m2"][-1].message.leader_id == "after")
    await wait_until(lambda: middlebox.open_count == 1, within_s=NOTICED_WITHIN_S)
    assert middlebox.accepted_count == 2


@pytest.mark.parametrize("passing_bytes", [0, 32, WELCOME_BYTES], ids=["nothing", "no welcome", "only the welcome"])
async def test_links_that_are_dead_from_birth_are_tried_again_at_a_bounded_pace(
    harness: Harness, middlebox: BrokenMiddlebox, monkeypatch: pytest.MonkeyPatch, passing_bytes: int
) -> None:
    """Whether the handshake ends or not: no attempt lasts, no side keeps what is left of it, and the first good one does."""
    monkeypatch.setattr(peers, "HANDSHAKE_TIMEOUT_S", SILENT_BEATS * BEAT_S)
    middlebox.answer_bytes = passing_bytes
    began = time.monotonic()
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: middlebox.accepted_count >= 4, within_s=NOTICED_WITHIN_S)
    assert time.monotonic() - began > 3 * SILENT_BEATS * BEAT_S, "it does not wait before it dials again"
    middlebox.answer_bytes = None
    attempts = middlebox.accepted_count
    # The last of the dead ones may look connected for a while yet.
    await wait_until(
        lambda: middlebox.accepted_count > attempts and middlebox.open_count == 1 and first.connected_peers() == ["m2"],
        within_s=NOTICED_WITHIN_S,
    )
    first.post(message("after"), "m2")
    await wait_until(lambda: len(harness.received["m2"]) == 1, within_s=NOTICED_WITHIN_S)


async def test_a_link_that_is_only_slow_is_kept(harness: Harness, middlebox: BrokenMiddlebox) -> None:
    """A large frame that takes far longer than silence may last arrives over the connection on which it was sent."""
    middlebox.pause_s = 0.1
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    began = time.monotonic()
    # Small buffers of the kernel and of the middlebox take little of it at once.
    first.post(message("large", body=b"x" * 150_000), "m2")
    await wait_until(lambda: len(harness.received["m2"]) == 1, within_s=60)
    assert time.monotonic() - began > 3 * SILENT_BEATS * BEAT_S
    assert middlebox.accepted_count == 1


async def test_a_member_that_was_held_up_itself_blames_nobody(harness: Harness, middlebox: BrokenMiddlebox) -> None:
    """Its loop stood still for far longer than silence may last; the others spoke meanwhile, and it was deaf."""
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    changes: list[str] = []
    first.on_link_change = changes.append
    time.sleep(3 * SILENT_BEATS * BEAT_S)  # noqa: ASYNC251 it is the fault
    await asyncio.sleep(2 * SILENT_BEATS * BEAT_S)
    assert changes == []
    assert middlebox.accepted_count == 1


async def test_an_idle_link_is_kept(harness: Harness, middlebox: BrokenMiddlebox) -> None:
    """Followers have nothing to tell each other for hours; beats go on, and no message is made of them."""
    first = await harness.start("m1")
    await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    await asyncio.sleep(3 * SILENT_BEATS * BEAT_S)
    assert first.connected_peers() == ["m2"]
    assert middlebox.accepted_count == 1
    assert harness.received == {"m1": [], "m2": []}


async def test_a_member_knows_how_far_away_another_one_is(harness: Harness, middlebox: BrokenMiddlebox) -> None:
    """Measured with what keeps the link alive: not known at once, late by what is between them, and gone with the link."""
    middlebox.pause_s = 0.2
    first = await harness.start("m1")
    second = await harness.start("m2")
    await wait_until(lambda: first.connected_peers() == ["m2"])
    assert first.round_trip_ms("m2") is None
    await wait_until(lambda: None not in {first.round_trip_ms("m2"), second.round_trip_ms("m1")}, within_s=60)
    far, near = first.round_trip_ms("m2"), second.round_trip_ms("m1")
    assert far is not None
    assert near is not None
    assert far >= 200
    assert near < far
    await second.aclose()
    await wait_until(lambda: first.round_trip_ms("m2") is None, within_s=NOTICED_WITHIN_S)


async def test_the_middlebox_forgets_a_connection_that_it_cannot_pass_on(middlebox: BrokenMiddlebox) -> None:
    """Nobody listens behind it yet; it would never end otherwise."""
    reader, writer = await asyncio.open_connection("127.0.0.1", middlebox.port)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert (middlebox.accepted_count, middlebox.open_count) == (1, 0)
