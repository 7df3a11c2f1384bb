"""Credentials that somebody made up: refused with the right words, whatever they are; never a defect, never let in."""

from __future__ import annotations

import random

import pytest

from services.gateway.access.links import HARMLESS
from shared.contracts.access import Action, Scope
from shared.links import make_link
from tests.unit.gateway.access.scene import Holder, Running, Scene

pytestmark = pytest.mark.virtual_time

ROUNDS = 120
PATH = "/v1/files/default/mine/a"
REFUSED = {400, 401, 403}
ALL = Scope(actions=[Action.READ, Action.WRITE, Action.DELETE, Action.LIST], bucket="default", prefix="mine/")


def changed(chance: random.Random, text: bytes) -> bytes:
    """`text` with a byte changed, left out, repeated or added, or two pieces of it swapped."""
    at = chance.randrange(max(1, len(text)))
    match chance.randrange(6):
        case 0:
            return text[:at] + bytes(byte ^ 1 << chance.randrange(7) for byte in text[at : at + 1]) + text[at + 1 :]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text[:at] + text[at : at + 1] + text[at:]
        case 3:
            return text[:at] + bytes((chance.randrange(1, 256),)) + text[at:]
        case 4:
            return text[at:] + text[:at]
        case _:
            return text[:at]


def visible(text: bytes) -> bytes:
    """What a header may carry past the server's parser."""
    return bytes(byte for byte in text if byte == 9 or (byte >= 32 and byte != 127))


async def test_no_made_up_bearer_opens_anything(here: Running, scene: Scene, seed: int) -> None:
    """Near to a good one, and far from it; on a read, a change and a list, on both listeners."""
    chance = random.Random(seed)
    holder = await scene.holder(ALL)
    good = holder.headers["authorization"].encode()
    assert (await here.public.put(PATH, content=b"1", headers=holder.headers)).status_code == 201
    equal = {good, good.replace(b"Bearer", b"bearer")}
    for _ in range(ROUNDS):
        wrong = good
        for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
            wrong = visible(changed(chance, wrong)) or b"x"
        if wrong.strip() in equal or is_same(wrong, good):
            continue
        for method, path in (("GET", PATH), ("PUT", PATH), ("GET", "/v1/files/default")):
            answer = await here.public.request(method, path, content=b"x", headers={b"authorization": wrong})
            assert answer.status_code in REFUSED, (seed, wrong, answer.text)
        answer = await here.operations.get("/v1/identities", headers={b"authorization": wrong})
        assert answer.status_code in REFUSED, (seed, wrong, answer.text)
    assert (await here.public.get(PATH, headers=holder.headers)).content == b"1"


def is_same(one: bytes, other: bytes) -> bool:
    """The scheme is in any case, and any number of spaces may follow it."""
    scheme, _, credential = one.strip().partition(b" ")
    good_scheme, _, good_credential = other.partition(b" ")
    return scheme.lower() == good_scheme.lower() and credential.strip(b" ") == good_credential


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_no_made_up_link_opens_anything(here: Running, scene: Scene, seed: int, method) -> None:
    """A link in which anything at all was changed, used by every method."""
    chance = random.Random(seed)
    holder = await scene.holder(ALL)
    assert (await here.public.put(PATH, content=b"1", headers=holder.headers)).status_code == 201
    good = link(holder, method, scene)
    for _ in range(ROUNDS):
        wrong = good.encode()
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            wrong = changed(chance, wrong)
        try:
            text = wrong.decode("ascii")
        except UnicodeDecodeError:
            continue
        if (
            text == good
            or not text.startswith("/v1/files/default/")
            or set(text) & set('#\t\n\r\\ "<>^`{|}')
            or not text.isprintable()
        ):
            continue
        for other in ("GET", "PUT", "DELETE"):
            answer = await here.public.request(other, text, content=b"x" if other == "PUT" else None)
            assert answer.status_code in REFUSED, (seed, other, text, answer.text)
    assert (await here.public.get(PATH, headers=holder.headers)).content == b"1"


def link(holder: Holder, method, scene: Scene) -> str:
    expires_s = scene.clock.stamp().approximate_ns // 10**9 + 500_000
    return make_link(holder.key, holder.secret, method=method, bucket="default", key="mine/a", expires_s=expires_s)


async def test_a_link_that_has_expired_stays_so(here: Running, scene: Scene) -> None:
    """Used again, and at another gateway that has just started."""
    holder = await scene.holder(ALL)
    await here.public.put(PATH, content=b"1", headers=holder.headers)
    now_s = scene.clock.stamp().approximate_ns // 10**9
    soon = make_link(holder.key, holder.secret, method="GET", bucket="default", key="mine/a", expires_s=now_s + 20)
    assert (await here.public.get(soon)).status_code == 200
    for _ in range(20):
        scene.clock.stamp()  # a second each
    async with scene.gateway() as there:
        for gateway in (here, there, here):
            answer = await gateway.public.get(soon)
            assert (answer.status_code, answer.json()["code"]) == (401, "link_expired")


async def test_a_link_without_what_it_names_is_no_link(here: Running, scene: Scene) -> None:
    """Every header that is not harmless, added to a link for PUT, is refused before anything is stored."""
    holder = await scene.holder(ALL)
    path = link(holder, "PUT", scene)
    for header in ("content-type", "content-encoding", "x-trivet-meta-a", "x-trivet-anything", "x-amz-copy-source"):
        assert header not in HARMLESS
        answer = await here.public.put(path, content=b"x", headers={header: "1"})
        assert (answer.status_code, answer.json()["code"]) == (403, "header_not_signed")
    assert (await here.public.get(PATH, headers=holder.headers)).status_code == 404
