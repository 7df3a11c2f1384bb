"""Who may transfer, and who ends when there is no room: slow clients never take the gateway away from the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.gateway.access.rate_limits import BodyPace
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers import admission as admission_module
from services.gateway.transfers.admission import GRACE_S, SMALL_BYTES, Admission, AdmissionLimits, Client, Transfer
from shared.byte_budget import ByteLease
from shared.errors import OverloadedError, TooManyRequestsError
from shared.units import KIB, MIB
from tests.unit.gateway.transfers.transfer_calls import CLIENT, put, send_file
from tests.unit.gateway.transfers.transfer_calls import order_for as upload_request
from tests.waiting import wait_until

pytestmark = pytest.mark.virtual_time

SLOW = 64 * KIB


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def client_of(client: str | Client) -> Client:
    """A string is an address."""
    return Client(client) if isinstance(client, str) else client


class Bench:
    """Transfers that stay until the test ends them; `ended` has those that were too slow."""

    def __init__(self, slots: int, budget_bytes: int = 8 * MIB) -> None:
        self.clock = ManualClock()
        self.admission = Admission(AdmissionLimits(slots, budget_bytes, SLOW), self.clock)
        self.running: dict[asyncio.Task[None], str] = {}
        self.ended: list[str] = []

    async def start(
        self, name: str, client: str | Client = "a", *, moved_bytes: int = 0, is_large: bool = False
    ) -> Transfer:
        """A transfer that has moved so many bytes and waits for its client."""
        started: asyncio.Future[Transfer] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                async with self.admission.transfer(client_of(client), is_large_upload=is_large) as transfer:
                    transfer.moved(moved_bytes)
                    with transfer.waiting_for_client():
                        started.set_result(transfer)
                        await asyncio.Event().wait()
            except (OverloadedError, TooManyRequestsError) as error:
                if not started.done():
                    started.set_exception(error)
                else:
                    self.ended.append(name)

        self.running[asyncio.ensure_future(run())] = name
        return await started

    async def aclose(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        assert self.admission.used_slots == 0
        assert self.admission.used_bytes == 0


@pytest.fixture
async def benches() -> AsyncIterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        await bench.aclose()


async def test_the_slowest_transfer_ends_for_a_new_one_and_a_fast_one_never_does(benches) -> None:
    """With every slot in use: the lowest rate goes first; those at the limit and above stay, and then the new one is refused."""
    bench = Bench(slots=3)
    benches.append(bench)
    await bench.start("slow", "a", moved_bytes=20_000)
    await bench.start("slowest", "b", moved_bytes=10_000)
    await bench.start("fast", "c", moved_bytes=10 * MIB)
    bench.clock.now_s = GRACE_S
    await bench.start("new", "d", moved_bytes=10 * MIB)
    await wait_until(lambda: bench.ended == ["slowest"], "the slowest ended")
    await bench.start("newer", "e", moved_bytes=10 * MIB)
    await wait_until(lambda: bench.ended == ["slowest", "slow"], "the next slowest ended")
    with pytest.raises(OverloadedError) as caught:
        await bench.start("one too many", "f")
    assert caught.value.definite


@pytest.mark.parametrize(("waited_s", "is_ended"), [(GRACE_S - 0.001, False), (GRACE_S, True)])
async def test_a_client_has_time_before_it_is_called_slow(benches, waited_s, is_ended) -> None:
    """Both sides of the grace."""
    bench = Bench(slots=1)
    benches.append(bench)
    await bench.start("first")
    bench.clock.now_s = waited_s
    if is_ended:
        await bench.start("second")
    else:
        with pytest.raises(OverloadedError):
            await bench.start("second")


async def test_time_that_the_gateway_takes_is_not_the_clients(benches) -> None:
    """A transfer that waits for replicas or for bytes of the budget is not slow."""
    bench = Bench(slots=1)
    benches.append(bench)
    async with bench.admission.transfer(Client("a")) as transfer:
        bench.clock.now_s = 1000.0
        assert transfer.slowness() is None
        with pytest.raises(OverloadedError):
            await bench.start("second", "b")


async def test_once_half_is_used_an_address_holds_its_share_at_most(benches) -> None:
    """Half of the slots go to anybody; beyond, all of them divided by the addresses, at the share and one past it."""
    bench = Bench(slots=12)
    benches.append(bench)
    await bench.start("other", "b")
    for number in range(6):
        await bench.start(f"a{number}", "a")
    with pytest.raises(OverloadedError):
        await bench.start("one past the share", "a")
    for number in range(5):
        await bench.start(f"b{number}", "b")
    assert bench.ended == []


async def test_until_half_is_used_nobody_is_held_to_a_share(benches) -> None:
    """Of three addresses one may have more than a third then."""
    bench = Bench(slots=24)
    benches.append(bench)
    for address in ("b", "c"):
        await bench.start("other", address)
    for number in range(10):
        await bench.start(f"a{number}", "a")
    with pytest.raises(OverloadedError):
        await bench.start("half is used", "a")
    assert bench.ended == []


async def test_an_address_above_its_share_ends_before_a_slower_one(benches) -> None:
    """Twenty slow connections of one address do not push out a single slow one of another."""
    bench = Bench(slots=4)
    benches.append(bench)
    for number in range(3):
        await bench.start(f"many{number}", "a", moved_bytes=1000 + number)
    await bench.start("single", "b", moved_bytes=0)
    bench.clock.now_s = GRACE_S
    await bench.start("new", "c")
    await wait_until(lambda: bench.ended == ["many0"], "one of many ended")


async def test_once_half_is_used_a_principal_holds_its_share_at_most(benches) -> None:
    """From however many addresses, at the share and one past it; and another from the same address is served."""
    bench = Bench(slots=12)
    benches.append(bench)
    await bench.start("bert", Client("proxy", "bert"))
    for number in range(6):
        await bench.start(f"anna{number}", Client(f"a{number}", "anna"))
    with pytest.raises(OverloadedError):
        await bench.start("one past the share", Client("another", "anna"))
    for number in range(5):
        await bench.start(f"bert{number}", Client("proxy", "bert"))
    assert bench.ended == []


async def test_many_addresses_of_one_principal_leave_another_one_its_share(benches) -> None:
    """An address has a share of what is its principal's, and not of what is everybody's."""
    bench = Bench(slots=16)
    benches.append(bench)
    for number in range(8):
        await bench.start(f"anna{number}", Client(f"a{number}", "anna"))
    for number in range(8):
        await bench.start(f"bert{number}", Client("b", "bert"))
    assert bench.ended == []


async def test_a_principal_above_its_share_ends_before_a_slower_one(benches) -> None:
    """Three slow transfers of one, from three addresses, do not push out a single slow one of another."""
    bench = Bench(slots=4)
    benches.append(bench)
    for number in range(3):
        await bench.start(f"many{number}", Client(f"a{number}", "anna"), moved_bytes=1000 + number)
    await bench.start("single", Client("b", "bert"), moved_bytes=0)
    bench.clock.now_s = GRACE_S
    await bench.start("new", Client("c", "carl"))
    await wait_until(lambda: bench.ended == ["many0"], "one of many ended")


async def test_bytes_that_become_free_go_to_whoever_holds_least(benches) -> None:
    """One principal fills the budget and waits for more with many transfers: another one that comes later is served first."""
    bench = Bench(slots=16, budget_bytes=8 * MIB)
    benches.append(bench)
    greedy, modest = Client("a", "anna"), Client("b", "bert")
    async with AsyncExitStack() as stack:
        transfers = [await stack.enter_async_context(bench.admission.transfer(greedy)) for _ in range(10)]
        leases = [transfer.lease() for transfer in transfers]
        for lease in leases[:7]:
            assert lease.try_grow(MIB)
        served: list[str] = []

        async def reserve(name: str, transfer: Transfer, lease: ByteLease) -> None:
            await transfer.grow(lease, MIB, wait_s=5)
            served.append(name)

        waiting = [
            asyncio.ensure_future(reserve("anna", transfer, lease))
            for transfer, lease in zip(transfers[7:], leases[7:], strict=True)
        ]
        await asyncio.sleep(0)
        other = await stack.enter_async_context(bench.admission.transfer(modest))
        lease = other.lease()
        waiting.append(asyncio.ensure_future(reserve("bert", other, lease)))
        await asyncio.sleep(0)
        for held in leases[:4]:
            held.release()
        await asyncio.gather(*waiting)
        assert served[0] == "bert"
        for held in (*leases, lease):
            held.release()


async def test_a_transfer_that_its_pace_holds_back_ends_for_what_it_holds(benches) -> None:
    """Before an innocent one is refused: the rest of a slow principal's second is not kept in the budget of others."""
    bench = Bench(slots=2)
    benches.append(bench)
    pace = BodyPace(1024, bench.clock)
    held_back = Client("a", "anna", pace)

    async def move() -> None:
        async with bench.admission.transfer(held_back) as transfer:
            transfer.moved(64 * KIB)
            for _ in range(3):
                await transfer.take_turn(64 * KIB)

    moving = asyncio.ensure_future(move())
    await bench.start("other", Client("b", "bert"), moved_bytes=10 * MIB)
    bench.clock.now_s = GRACE_S
    await bench.start("new", Client("c", "carl"), moved_bytes=10 * MIB)
    with pytest.raises(OverloadedError):
        await moving


async def test_nothing_begins_for_a_principal_that_has_to_wait_for_long(benches) -> None:
    """It would hold a slot for nothing; nothing was counted."""
    bench = Bench(slots=2)
    benches.append(bench)
    pace = BodyPace(MIB, bench.clock)
    pace.turn(100 * MIB)
    with pytest.raises(TooManyRequestsError):
        await bench.start("late", Client("a", "anna", pace))
    assert bench.admission.used_slots == 0
    await bench.start("other", Client("a", "bert"))


async def test_large_uploads_leave_a_quarter_of_the_slots(benches) -> None:
    """GET, HEAD and small bodies have it for themselves."""
    bench = Bench(slots=8)
    benches.append(bench)
    for number in range(6):
        await bench.start(f"upload{number}", f"c{number}", is_large=True)
    with pytest.raises(OverloadedError):
        await bench.start("a seventh", "x", is_large=True)
    for number in range(2):
        await bench.start(f"read{number}", f"r{number}")


async def test_small_transfers_have_bytes_of_their_own(benches) -> None:
    """However much the large ones hold; a transfer is small up to 64 KiB."""
    bench = Bench(slots=8)
    benches.append(bench)
    assert bench.admission.large.try_reserve(7 * MIB)
    async with bench.admission.transfer(Client("a")) as small, bench.admission.transfer(Client("b")) as large:
        small.size_known(SMALL_BYTES)
        large.size_known(SMALL_BYTES + 1)
        with small.lease() as lease:
            await small.grow(lease, SMALL_BYTES, wait_s=0)
        with pytest.raises(OverloadedError), large.lease() as lease:
            await large.grow(lease, 1, wait_s=0)
    bench.admission.large.give_back(7 * MIB)


async def test_slow_transfers_end_for_the_bytes_that_they_hold(benches) -> None:
    """As many of the slowest as it takes, and no more."""
    bench = Bench(slots=8)
    benches.append(bench)
    for number in range(7):
        transfer = await bench.start(f"t{number}", f"c{number}", moved_bytes=number)
        assert transfer.lease().try_grow(MIB)

        def give_back(transfer: Transfer = transfer) -> None:
            for lease in transfer._leases:
                lease.release()

        next(task for task, name in bench.running.items() if name == f"t{number}").add_done_callback(
            lambda _, give_back=give_back: give_back()
        )
    bench.clock.now_s = GRACE_S
    async with bench.admission.transfer(Client("innocent")) as asking:
        with asking.lease() as lease:
            await asking.grow(lease, 2 * MIB, wait_s=5)
            assert bench.ended == ["t0", "t1"]


async def test_slow_uploads_and_slow_readers_do_not_refuse_an_innocent_client(make_world, monkeypatch, seed) -> None:
    """64 uploads that sent 66 KB and 100 readers that read nothing, all from the innocent's own address: 0 refusals."""
    monkeypatch.setattr(admission_module, "GRACE_S", 0.05)
    print(f"seed {seed}")
    world = await make_world(
        chunk_size_bytes=MIB, max_inflight_bytes=64 * MIB, max_concurrent_requests=170, admission_wait_s=1.0
    )
    body = random.Random(seed).randbytes(4 * MIB)
    await put(world, body)
    never = asyncio.Event()

    async def drips() -> AsyncIterator[bytes]:
        yield bytes(66_000)
        await never.wait()

    async def upload() -> None:
        await world.services.uploads.put(upload_request(world, name=FileName("default", "slow")), drips())

    async def nothing(_: int) -> None:
        return None

    async def stalled(_: memoryview) -> None:
        await never.wait()

    async def read() -> None:
        name = FileName("default", "a/key")
        async with world.services.downloads.open(name, CLIENT) as found, asyncio.TaskGroup() as group:
            await send_file(world, found, None, world.services.quorums, start=nothing, sink=stalled, group=group)

    async with AsyncExitStack() as stack:
        attackers = [asyncio.ensure_future(upload()) for _ in range(64)]
        attackers += [asyncio.ensure_future(read()) for _ in range(100)]
        stack.callback(lambda: [task.cancel() for task in attackers])
        await world.wait_until(lambda: world.metric("trivet_gateway_inflight_bytes") > 40 * MIB, "bytes are held")
        small = random.Random(seed + 1).randbytes(4096)
        name = FileName("default", "innocent")
        for _ in range(20):
            await put(world, small, name=name, announced_bytes=len(small))
            async with world.services.downloads.open(name, CLIENT) as found:
                got = bytearray()

                async def sink(view: memoryview, got: bytearray = got) -> None:
                    got += view

                async with asyncio.TaskGroup() as group:
                    await send_file(world, found, None, world.services.quorums, start=nothing, sink=sink, group=group)
            assert got == small
        assert world.metric("trivet_gateway_inflight_bytes") <= 64 * MIB
    await asyncio.gather(*attackers, return_exceptions=True)
    await world.wait_until(lambda: world.metric("trivet_gateway_inflight_bytes") == 0, "all is given back")
