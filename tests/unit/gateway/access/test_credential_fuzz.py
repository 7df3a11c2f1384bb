"""Credentials that somebody made up: refused with the right words, whatever they are; never a defect, never let in."""

from __future__ import annotations

import random

from shared.contracts.access import Action, Scope
from tests.unit.gateway.access.scene import Running, Scene

ROUNDS = 300
PATH = "/v1/files/default/mine/a"
REFUSED = {400, 401, 403}
ALL = Scope(actions=[Action.READ, Action.WRITE, Action.DELETE, Action.LIST], bucket="default", prefix="mine/")


def changed(chance: random.Random, text: bytes) -> bytes:
    """`text` with a byte changed, left out, repeated or added, or two pieces of it swapped."""
    at = chance.randrange(len(text))
    match chance.randrange(6):
        case 0:
            return text[:at] + bytes((text[at] ^ 1 << chance.randrange(7),)) + text[at + 1 :]
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
