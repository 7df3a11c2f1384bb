"""Whoever asks is proved before anything else: in every form of signature, for every form of body, for every operation."""

from __future__ import annotations

import random
import zlib
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import unquote_to_bytes

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from services.gateway.access import key_table
from services.gateway.s3.operation_table import OPERATIONS, Operation
from shared.contracts.access import Action
from tests.unit.gateway.access.scene import Holder, Running, Scene, may
from tests.unit.gateway.s3 import aws_chunks
from tests.unit.gateway.s3.asking import HOST, Answer, ask, presigned_target
from tests.unit.gateway.s3.aws_chunks import ChunkSigner

DATA = b"0\r\n\r\nthe bytes of a file\r\n" * 20
CRC = ("x-amz-checksum-crc32", b64encode(zlib.crc32(DATA).to_bytes(4)).decode())
REGION = "eu-north-1"
PROVED = {
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
}
"""What nobody is told whose signature is right."""

BODIES = ["plain", "UNSIGNED-PAYLOAD", "signed chunks", "signed chunks and trailer", "unsigned chunks and trailer"]
FORMS = ["header", "query"]


class _FixedPayload(S3SigV4Auth):
    def payload(self, request: AWSRequest) -> str:
        return request.context["payload"]


@pytest.fixture(autouse=True)
def _no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused waits for a read of the rows; here there are thousands of them."""
    monkeypatch.setattr(key_table, "REFRESH_DISTANCE_S", 0.0)


@dataclass(frozen=True)
class Signed:
    """A request, ready to be sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    async def send(self, here: Running, **changes: object) -> Answer:
        it = replace(self, **changes)
        return await ask(here.s3, it.method, it.target, it.headers, it.body)


@dataclass
class Request:
    """What is to be asked."""

    method: str = "PUT"
    target: str = "/photos/a"
    headers: dict[str, str] = field(default_factory=dict)
    body: str = "plain"
    form: str = "header"
    expires_s: int = 600

    def signed(self, holder: Holder, *, region: str = REGION) -> Signed:
        payload = {
            "plain": aws_chunks.hashlib.sha256(DATA).hexdigest(),
            "UNSIGNED-PAYLOAD": "UNSIGNED-PAYLOAD",
            "signed chunks": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "signed chunks and trailer": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "unsigned chunks and trailer": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }[self.body]
        headers = {"X-Amz-Content-SHA256": payload, **self.headers}
        if "chunks" in self.body:
            headers["x-amz-decoded-content-length"] = str(len(DATA))
        if "trailer" in self.body:
            headers["x-amz-trailer"] = CRC[0]
        request = AWSRequest(self.method, f"http://{HOST}{self.target}", headers=headers)
        request.context["payload"] = payload
        credentials = Credentials(holder.key, holder.secret)
        if self.form == "header":
            _FixedPayload(credentials, "s3", region).add_auth(request)
            signature = request.headers["Authorization"].rpartition("=")[2]
        else:
            S3SigV4QueryAuth(credentials, "s3", region, self.expires_s).add_auth(request)
            signature = request.url.rpartition("=")[2]
        signer = ChunkSigner(signature, request.context["timestamp"], region, holder.secret)
        body = {
            "signed chunks": lambda: aws_chunks.signed(DATA, [17, 64], signer),
            "signed chunks and trailer": lambda: aws_chunks.signed(DATA, [17, 64], signer, CRC),
            "unsigned chunks and trailer": lambda: aws_chunks.unsigned(DATA, [17, 64], CRC),
        }.get(self.body, lambda: DATA)()
        return Signed(self.method, request.url.removeprefix(f"http://{HOST}"), dict(request.headers.items()), body)


def request_of(operation: Operation, body: str, form: str) -> Request:
    """One that the table takes for `operation`."""
    target = {"service": "/", "bucket": "/photos", "object": "/photos/a%20b"}[operation.level]
    parameters = [operation.subresource] if operation.subresource else []
    parameters += [need for need in operation.needs if not need.startswith("x-amz-")]
    headers = {need: "/photos/b" for need in operation.needs if need.startswith("x-amz-")}
    query = "&".join(f"{name}=1" for name in parameters)
    return Request(operation.method, f"{target}?{query}" if query else target, headers, body, form)


def other_bit(chance: random.Random, text: str) -> str:
    """`text` with a bit flipped that means something."""
    while True:
        at, raw = chance.randrange(8 * len(text)), bytearray(text.encode("latin-1"))
        raw[at // 8] ^= 1 << at % 8
        other = raw.decode("latin-1")
        # The case of an escape means nothing; what cannot stand in a request line or header does not arrive.
        if unquote_to_bytes(other) != unquote_to_bytes(text) and not set("\r\n\0 #\t?") & (set(other) - set(text)):
            return other


def wrong_ones(chance: random.Random, signed: Signed, form: str) -> Iterator[tuple[str, Signed]]:
    """The same request with one bit of it flipped, and what of it that was."""
    path, _, query = signed.target.partition("?")
    yield "path", replace(signed, target=path[:1] + other_bit(chance, path[1:] or "x") + ("?" + query if query else ""))
    if query:
        yield "query", replace(signed, target=f"{path}?{other_bit(chance, query)}")
    for name in ("host", "x-amz-content-sha256", "x-amz-date", "x-amz-copy-source", "x-amz-trailer"):
        sent = {each.lower(): value for each, value in signed.headers.items()} | {"host": HOST}
        if name in sent:
            yield name, replace(signed, headers={**sent, name: other_bit(chance, sent[name])})
    if form == "header":
        authorization = signed.headers["Authorization"]
        head, _, signature = authorization.rpartition("=")
        yield (
            "signature",
            replace(signed, headers={**signed.headers, "Authorization": f"{head}={other_bit(chance, signature)}"}),
        )
        before, scope, after = authorization.partition(f"/{REGION}/s3/")
        yield (
            "scope",
            replace(signed, headers={**signed.headers, "Authorization": before + other_bit(chance, scope) + after}),
        )
    else:
        head, _, signature = signed.target.rpartition("=")
        yield "signature", replace(signed, target=f"{head}={other_bit(chance, signature)}")
        before, scope, after = signed.target.partition(f"%2F{REGION}%2Fs3%2F")
        yield "scope", replace(signed, target=before + "%2F" + other_bit(chance, REGION) + "%2Fs3%2F" + after)


closed = pytest.mark.parametrize(
    "operation",
    [each for each in OPERATIONS if not (each.is_open or each.has_form)],
    ids=lambda operation: operation.name,
)


@closed
async def test_one_bit_is_enough_to_be_refused(operation: Operation, here: Running, scene: Scene, seed: int) -> None:
    """Of signature, path, query, a signed header or the scope; whatever the body and the form. Nothing is stored or asked for."""
    chance = random.Random(seed)
    await put_photos(here, scene)
    for form in FORMS:
        for body in BODIES:
            right = request_of(operation, body, form).signed(scene.root)
            before = scene.metadata.store.last_applied
            for what, wrong in wrong_ones(chance, right, form):
                answer = await wrong.send(here)
                # A bit of the path or the query may make it an operation that is not there.
                refused = {400, 403, 405} if what in {"path", "query"} else {400, 403}
                assert answer.status in refused, (seed, form, body, what, wrong, answer)
                if what == "signature" and answer.body:
                    # In a query a bit may make it another thing than text.
                    assert answer.code in {"SignatureDoesNotMatch", "InvalidURI"}, (seed, form, body, wrong)
                assert not answer.has_read, (seed, form, body, what, wrong)
            assert scene.metadata.store.last_applied == before, (seed, form, body)


@closed
async def test_the_right_bits_are_enough(operation: Operation, here: Running, scene: Scene) -> None:
    """The same requests as they were signed: nobody doubts whom they are from."""
    for form in FORMS:
        for body in BODIES:
            answer = await request_of(operation, body, form).signed(scene.root).send(here)
            is_error = answer.body.startswith(b"<?xml") and answer.xml.tag == "Error"
            assert not is_error or answer.code not in PROVED, (form, body, answer)
            assert answer.status != 403, (form, body, answer)


async def put_photos(here: Running, scene: Scene) -> None:
    request = Request(target="/photos", body="UNSIGNED-PAYLOAD")
    assert (await request.signed(scene.root).send(here, body=b"")).status == 200


@pytest.mark.parametrize("form", FORMS)
async def test_two_credentials_are_refused(form: str, here: Running, scene: Scene) -> None:
    """Also when each of them is right."""
    right = Request("GET", "/", form=form).signed(scene.root)
    other = Request("GET", "/", form="query" if form == "header" else "header").signed(scene.root)
    both = await right.send(here, target=max(right.target, other.target), headers=right.headers | other.headers)
    assert (both.status, both.code) == (400, "InvalidArgument")


@pytest.mark.parametrize(
    ("headers", "target", "status", "code"),
    [
        ({"authorization": "AWS TV000000000000000001:c2ln"}, "/", 400, "InvalidRequest"),
        ({}, "/?AWSAccessKeyId=TV000000000000000001&Expires=1&Signature=x", 400, "InvalidRequest"),
        ({"authorization": "Bearer TV000000000000000001.x"}, "/", 400, "InvalidArgument"),
        ({"authorization": "AWS4-ECDSA-P256-SHA256 Credential=x"}, "/", 501, "NotImplemented"),
        ({}, "/", 403, "AccessDenied"),
        ({}, "/?X-Amz-Signature=x", 400, "AuthorizationQueryParametersError"),
    ],
)
async def test_other_credentials_are_refused(headers, target, status, code, here: Running) -> None:
    """Each with the word for it."""
    answer = await ask(here.s3, "GET", target, headers)
    assert (answer.status, answer.code) == (status, code)


async def test_a_bearer_of_the_other_door_is_none_here(here: Running, scene: Scene) -> None:
    """A secret that is shown is not a signature."""
    answer = await ask(here.s3, "GET", "/", scene.root.headers)
    assert (answer.status, answer.code) == (400, "InvalidArgument")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    ["x-amz-copy-source", "x-amz-acl", "x-amz-tagging", "x-amz-website-redirect-location", "x-amz-meta-a", "x-amz-new"],
)
async def test_a_header_that_counts_must_be_signed(name: str, form: str, here: Running, scene: Scene) -> None:
    """An upload link with a copy source that nobody had signed read any file (CVE-2026-54330 and its kin)."""
    await put_photos(here, scene)
    right = Request(form=form).signed(scene.root)
    before = scene.metadata.store.last_applied
    answer = await right.send(here, headers={**right.headers, name: "/photos/b"})
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert name in (answer.text("HeadersNotSigned") or "")
    assert not answer.has_read
    assert scene.metadata.store.last_applied == before


@pytest.mark.parametrize("payload", ["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"])
async def test_a_link_does_not_take_a_framing_that_is_not_signed(payload: str, here: Running, scene: Scene) -> None:
    """CVE-2026-41145: such a body was stored without a look at the signature."""
    length = {"x-amz-decoded-content-length": "1"}
    target = presigned_target(scene.root, "PUT", "/photos/a", length)
    headers = {"x-amz-content-sha256": payload, **length}
    answer = await ask(here.s3, "PUT", target, headers, b"1\r\na\r\n0\r\n\r\n")
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert answer.text("HeadersNotSigned") == "x-amz-content-sha256"
    assert not answer.has_read


async def test_keys_that_are_not_in_force_are_refused(here: Running, scene: Scene) -> None:
    """Unknown, disabled, expired, or of a disabled identity: all with one word."""
    unknown = Holder("", "TV" + "Z" * 18, "s" * 40)
    disabled, expired, orphan = (
        await scene.holder(is_root=True),
        await scene.holder(is_root=True, expires_ns=1),
        await scene.holder(is_root=True),
    )
    assert (await Request("GET", "/").signed(disabled).send(here)).status == 200
    await scene.disable_key(disabled)
    await scene.disable(orphan)
    for holder in (
        unknown,
        disabled,
        expired,
        orphan,
        Holder("", "AKIA" + "IOSFODNN7EXAMPLE", "s" * 40),
        Holder("", "\xe4", "s"),
    ):
        for form in FORMS:
            answer = await Request("GET", "/", form=form).signed(holder).send(here)
            assert (answer.status, answer.code) == (403, "InvalidAccessKeyId"), holder


async def test_another_secret_is_refused(here: Running, scene: Scene) -> None:
    """Also after the right one was seen, whose signing key is remembered."""
    assert (await Request("GET", "/").signed(scene.root).send(here)).status == 200
    answer = await Request("GET", "/").signed(replace(scene.root, secret="x" * 40)).send(here)
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")


async def test_what_changed_at_another_gateway_is_known_at_once(here: Running, there: Running, scene: Scene) -> None:
    """Nobody is refused by rows that were not read anew, and a revoked key is refused by the next request that touches data."""
    assert (await Request("GET", "/").signed(scene.root).send(here)).status == 200
    made = await scene.holder(is_root=True)
    assert (await Request("GET", "/").signed(made).send(here)).status == 200
    assert (await Request("GET", "/").signed(made).send(there)).status == 200
    await scene.disable_key(made)
    for running in (here, there):
        assert (await Request("GET", "/").signed(made).send(running)).status == 403


async def test_scopes_count(here: Running, scene: Scene) -> None:
    """Whoever is proved may do what its scopes say."""
    await put_photos(here, scene)
    reader = await scene.holder(may("photos", Action.READ))
    answer = await Request(target="/photos/a").signed(reader).send(here)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert not answer.has_read


@pytest.mark.parametrize("form", FORMS)
async def test_a_signature_is_good_near_its_moment_only(form: str, here: Running, scene: Scene) -> None:
    """15 minutes before and after what Trivet knows of true time; a link until it expires, but not before it is made."""
    right = Request("GET", "/", form=form, expires_s=3600).signed(scene.root)
    good = {"header": (-899, 0, 899), "query": (-899, 0, 3500)}[form]
    bad = {
        "header": {-1000: "RequestTimeTooSkewed", 1000: "RequestTimeTooSkewed"},
        "query": {-1000: "AccessDenied", 3601: "AccessDenied"},
    }
    for shift_s in good:
        scene.clock.shift_s = shift_s
        assert (await right.send(here)).status == 200, shift_s
    for shift_s, code in bad[form].items():
        scene.clock.shift_s = shift_s
        answer = await right.send(here)
        assert (answer.status, answer.code) == (403, code), shift_s
        assert answer.text("ServerTime")


async def test_a_strict_region_is_told(scene: Scene) -> None:
    """With it in the answer, so that the client asks again; any other is taken where it is not strict."""
    async with scene.gateway(s3_strict_region=True, s3_region="us-west-2") as running:
        for form, code in (("header", "AuthorizationHeaderMalformed"), ("query", "AuthorizationQueryParametersError")):
            answer = await Request("GET", "/", form=form).signed(scene.root).send(running)
            assert (answer.status, answer.code, answer.text("Region")) == (400, code, "us-west-2")
            right = Request("GET", "/", form=form).signed(scene.root, region="us-west-2")
            assert (await right.send(running)).status == 200


async def test_a_body_that_says_nothing_of_itself_is_refused(here: Running, scene: Scene) -> None:
    """By header; and so is one that says what nobody knows."""
    for payload, status, code in (
        ("x", 400, "InvalidArgument"),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", 501, "NotImplemented"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", 411, "MissingContentLength"),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", 411, "MissingContentLength"),
    ):
        request = AWSRequest("PUT", f"http://{HOST}/photos/a")
        request.context["payload"] = payload
        _FixedPayload(Credentials(scene.root.key, scene.root.secret), "s3", REGION).add_auth(request)
        answer = await ask(here.s3, "PUT", "/photos/a", dict(request.headers.items()), b"x")
        assert (answer.status, answer.code, answer.has_read) == (status, code, False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", BODIES)
async def test_what_is_stored_is_what_was_meant(body: str, form: str, here: Running, scene: Scene) -> None:
    """Without any framing, also where a coding named it."""
    await put_photos(here, scene)
    answer = await Request(body=body, form=form).signed(scene.root).send(here)
    assert answer.status == 200, answer
    coded = {"content-encoding": "aws-chunked" if "chunks" in body else "gzip"}
    answer = await Request(target="/photos/b", body=body, form=form, headers=coded).signed(scene.root).send(here)
    assert answer.status == 200, answer
    for target, coding in (("/photos/a", None), ("/photos/b", None if "chunks" in body else "gzip")):
        got = await Request("GET", target, body="UNSIGNED-PAYLOAD").signed(scene.root).send(here, body=b"")
        assert (got.status, got.body, got.headers.get("content-encoding")) == (200, DATA, coding)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", [each for each in BODIES if each != "UNSIGNED-PAYLOAD"])
async def test_no_other_body_is_stored(body: str, form: str, here: Running, scene: Scene, seed: int) -> None:
    """One bit of it flipped, cut short, or longer."""
    chance = random.Random(seed)
    await put_photos(here, scene)
    before = len(scene.metadata.proposed)
    for _ in range(40):
        right = Request(body=body, form=form).signed(scene.root)
        wrong = bytearray(right.body)
        at = chance.randrange(8 * (len(wrong) - len("AAAAAA==\r\n\r\n")))  # the last bits of a base64 mean nothing
        wrong[at // 8] ^= 1 << at % 8
        cut = chance.randrange(len(wrong))
        for other in (bytes(wrong), right.body[:cut], right.body + right.body[-cut:]):
            # The case of a size in hex or of a trailer's name means nothing, nor does one end of line too many.
            if other.lower() == right.body.lower() or other in {b"", right.body + b"\r\n"}:
                continue
            answer = await right.send(here, body=other)
            assert answer.status in {400, 403}, (seed, at, cut, answer)
    assert [each.kind for each in scene.metadata.proposed[before:] if each.kind == "publish_file"] == []
    got = await Request("GET", body="UNSIGNED-PAYLOAD").signed(scene.root).send(here, body=b"")
    assert got.status == 404
