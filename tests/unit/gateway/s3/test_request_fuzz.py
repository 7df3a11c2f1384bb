"""Heads that somebody made up: never a defect, never let in, and nothing of their bodies asked for."""

from __future__ import annotations

import random

import pytest

from services.gateway.access import key_table
from services.gateway.access.control import AccessControl
from services.gateway.s3.operation_table import OPERATIONS
from services.gateway.s3.signatures import RawHead, SignedHead, canonical_forms, signed_head
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.access.test_credential_fuzz import changed, visible
from tests.unit.gateway.s3.asking import HOST, Answer, ask
from tests.unit.gateway.s3.test_authentication import BODIES, FORMS, REGION, Signed, request_of

ROUNDS = 600
NOT_OFFERED = 501
WORDS = [
    "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
    "X-Amz-Content-Sha256", "X-Amz-Security-Token", "AWS4-HMAC-SHA256", "AWSAccessKeyId", "Signature", "Expires", "acl",
    "uploads",
    "uploadId", "partNumber", "versionId", "delete", "cors", "list-type", "2", "host", "%2F", "%", "%zz", "+", "=", "&", ";", "/",
    f"{REGION}/s3/aws4_request", "20261129T110000Z", "20261129", "\xff", "\t", "", "0", "-1", "9" * 40,
]  # fmt: skip
HEADERS = [
    "authorization", "x-amz-date", "date", "x-amz-content-sha256", "x-amz-decoded-content-length", "x-amz-trailer", "range",
    "x-amz-copy-source", "x-amz-acl", "content-encoding", "content-md5", "content-type", "x-amz-meta-a", "x-amz-security-token",
    "if-match", "if-none-match", "origin", "x-forwarded-for", "x-amz-expected-bucket-owner", "x-amz-sdk-checksum-algorithm",
]  # fmt: skip


@pytest.fixture(autouse=True)
def admitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that were proved, so far; nobody waits for a read of the rows."""
    keys: list[str] = []
    identify = AccessControl.identify_by_signature

    async def watched(self: AccessControl, context, key_id, check) -> None:
        await identify(self, context, key_id, check)
        keys.append(key_id)

    monkeypatch.setattr(AccessControl, "identify_by_signature", watched)
    monkeypatch.setattr(key_table, "REFRESH_DISTANCE_S", 0.0)
    return keys


def head_of(signed: Signed) -> RawHead:
    path, _, query = signed.target.partition("?")
    lines = {"host": HOST} | {name.lower(): value for name, value in signed.headers.items()}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    return RawHead(signed.method, path.encode("latin-1"), query.encode("latin-1"), raw)


def says_the_same(one: Signed, other: Signed) -> bool:
    """What is signed is equal, however it is written."""
    heads = head_of(one), head_of(other)
    signed: list[SignedHead | None] = [signed_head(head) for head in heads]
    if signed[0] is None or signed[1] is None or signed[0] != signed[1]:
        return False
    forms = [set(canonical_forms(found, head)) for found, head in zip(signed, heads, strict=True) if found is not None]
    return bool(forms[0] & forms[1])


def check(answer: Answer, *facts: object) -> None:
    assert answer.status < 500 or answer.status == NOT_OFFERED, facts
    assert answer.status not in {200, 204, 206}, facts


@pytest.mark.parametrize("form", FORMS)
async def test_no_head_near_a_right_one_is_let_in(
    form: str, here: Running, scene: Scene, admitted: list[str], seed: int
) -> None:
    """Bytes of it changed, left out, repeated, added or swapped, in the target, in Authorization or in another header."""
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        operation = chance.choice([each for each in OPERATIONS if not (each.is_open or each.has_form)])
        right = request_of(operation, chance.choice(BODIES), form).signed(scene.root)
        target, headers = right.target.encode(), {name.lower(): value for name, value in right.headers.items()}
        for _ in range(chance.choice([1, 1, 2, 5])):
            name = chance.choice(["", *headers])
            if not name:
                target = b"/" + visible(changed(chance, target)).lstrip(b"/").replace(b"#", b"").replace(b" ", b"")
            else:
                headers[name] = visible(changed(chance, headers[name].encode("latin-1"))).decode("latin-1")
        wrong = Signed(right.method, target.decode("latin-1"), headers, right.body)
        admitted.clear()
        answer = await ask(here.s3, wrong.method, wrong.target, wrong.headers, wrong.body)
        if admitted:
            assert says_the_same(right, wrong), (seed, right, wrong)
        else:
            check(answer, seed, wrong, answer)
            assert not answer.has_read, (seed, wrong)


async def test_no_head_of_known_words_is_let_in(here: Running, admitted: list[str], seed: int) -> None:
    """In any order, with anything in every header that is looked at."""
    chance = random.Random(seed)

    def text(pieces: int) -> str:
        return "".join(chance.choices(WORDS, k=chance.randrange(pieces)))

    for _ in range(4 * ROUNDS):
        method = chance.choice(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "TRACE", "get"])
        path = chance.choice(["/", "/photos", "/photos/a", "//", "/photos/" + text(4), "/" + text(3)])
        query = "&".join(f"{chance.choice(WORDS)}={text(3)}" for _ in range(chance.randrange(9)))
        headers = {
            name: visible(text(4).encode("latin-1")).decode("latin-1")
            for name in chance.sample(HEADERS, chance.randrange(6))
            if name != "authorization" or chance.random() < 0.8
        }
        if chance.random() < 0.5:
            headers["authorization"] = "AWS4-HMAC-SHA256 " + ",".join(
                f"{name}={text(4)}" for name in chance.sample(["Credential", "SignedHeaders", "Signature"], 3)
            )
        target = f"{path}?{query}".replace("\t", "").replace("\xff", "%FF")
        answer = await ask(here.s3, method, target, headers, chance.choice([b"", b"x"]))
        assert not admitted, (seed, target, headers)
        check(answer, seed, method, target, headers, answer)
        assert not answer.has_read, (seed, target, headers)
