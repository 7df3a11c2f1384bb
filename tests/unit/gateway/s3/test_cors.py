"""Whose pages may use a bucket."""

from __future__ import annotations

import pytest

from services.gateway.s3 import cors
from services.gateway.s3.xml_documents import NAMESPACE
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import Answer, S3Client, ask

PAGE = "https://app.example.org"


def rule(*children: str) -> str:
    return f"<CORSRule>{''.join(children)}</CORSRule>"


def origin(*values: str) -> str:
    return "".join(f"<AllowedOrigin>{value}</AllowedOrigin>" for value in values)


def method(*values: str) -> str:
    return "".join(f"<AllowedMethod>{value}</AllowedMethod>" for value in values)


def rules(*each: str) -> bytes:
    return f'<CORSConfiguration xmlns="{NAMESPACE}">{"".join(each)}</CORSConfiguration>'.encode()


UPLOADS = rule(
    "<ID>uploads</ID>",
    origin(PAGE, "https://*.example.com"),
    method("PUT", "GET"),
    "<AllowedHeader>x-amz-*</AllowedHeader><AllowedHeader>Content-Type</AllowedHeader>",
    "<ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>3000</MaxAgeSeconds>",
)
READS = rule(origin("*"), method("GET", "HEAD"))


async def put(s3: S3Client, body: bytes) -> Answer:
    return await s3("PUT", "photos", query={"cors": ""}, body=body)


@pytest.fixture
async def photos(s3: S3Client) -> None:
    """A bucket with both rules."""
    await s3("PUT", "photos")
    assert (await put(s3, rules(UPLOADS, READS))).status == 200


def preflight(here: Running, page: str | None, asked: str | None, headers: str = "", target: str = "/photos/a"):
    fields = {"origin": page, "access-control-request-method": asked, "access-control-request-headers": headers or None}
    return ask(here.s3, "OPTIONS", target, {name: value for name, value in fields.items() if value is not None})


async def test_the_document_comes_back(s3: S3Client, photos: None) -> None:
    """As it was put, until it is deleted."""
    got = await s3("GET", "photos", query={"cors": ""})
    assert got.status == 200
    assert got.text("CORSRule/ID") == "uploads"
    assert got.texts("CORSRule/AllowedOrigin") == [PAGE, "https://*.example.com", "*"]
    assert got.texts("CORSRule/AllowedMethod") == ["PUT", "GET", "GET", "HEAD"]
    assert got.texts("CORSRule/AllowedHeader") == ["x-amz-*", "Content-Type"]
    assert got.texts("CORSRule/ExposeHeader") == ["ETag"]
    assert got.texts("CORSRule/MaxAgeSeconds") == ["3000"]
    for _ in range(2):
        assert (await s3("DELETE", "photos", query={"cors": ""})).status == 204
    assert (await s3("GET", "photos", query={"cors": ""})).code == "NoSuchCORSConfiguration"
    assert (await s3("GET", "missing", query={"cors": ""})).code == "NoSuchBucket"


@pytest.mark.parametrize("page", [PAGE, "https://a.example.com", "https://a.b.example.com"])
async def test_a_page_that_is_named_may_send_what_its_rule_says(page: str, here: Running, photos: None) -> None:
    """With credentials, since it is named; the answer is for this origin alone."""
    answer = await preflight(here, page, "PUT", "X-Amz-Date, content-type")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == page
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-allow-methods"] == "PUT, GET"
    assert answer.headers["access-control-allow-headers"] == "x-amz-date, content-type"
    assert answer.headers["access-control-expose-headers"] == "ETag"
    assert answer.headers["access-control-max-age"] == "3000"
    assert answer.headers["vary"] == "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"


async def test_everybody_gets_no_credentials(here: Running, photos: None) -> None:
    """A rule for all origins names none."""
    answer = await preflight(here, "https://evil.example.net", "GET")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("page", "asked", "headers"),
    [
        ("https://evil.example.net", "PUT", ""),
        (PAGE, "DELETE", ""),
        (PAGE, "PUT", "x-other"),
        (PAGE, "PUT", "x-amz-date, x-other"),
        ("https://example.com", "PUT", ""),
        ("https://a.example.com.evil.net", "PUT", ""),
        (PAGE + ".evil.net", "PUT", ""),
        ("http://app.example.org", "PUT", ""),
        ("https://APP.example.org", "PUT", ""),
        (PAGE, "put", ""),
        (PAGE, "", ""),
        ("", "PUT", ""),
        ("https://a b.example.com", "PUT", ""),
    ],
)
async def test_nobody_else_may(page: str, asked: str, headers: str, here: Running, photos: None) -> None:
    """Refused with S3's word, and without a mark that a browser could take for leave."""
    answer = await preflight(here, page, asked, headers)
    assert (answer.status, answer.code) == (403, "AccessForbidden")
    assert not any(name.startswith("access-control-") for name in answer.headers)


async def test_without_rules_nobody_may(here: Running, s3: S3Client) -> None:
    """And nothing tells whether the bucket is there."""
    await s3("PUT", "photos")
    for target in ("/photos", "/photos/a", "/missing"):
        answer = await preflight(here, PAGE, "GET", target=target)
        assert (answer.status, answer.code) == (403, "AccessForbidden")


@pytest.mark.parametrize(("page", "asked"), [(None, "GET"), (PAGE, None)])
async def test_what_is_no_preflight_is_refused(
    page: str | None, asked: str | None, here: Running, photos: None
) -> None:
    """It needs both headers."""
    assert (await preflight(here, page, asked)).code == "BadRequest"


async def test_answers_say_who_may_read_them(s3: S3Client, here: Running, photos: None) -> None:
    """Errors too, before anybody is known; never to an origin that no rule has for that method."""
    for target in ("/photos?location", "/photos/missing"):
        refused = await ask(here.s3, "GET", target, {"origin": PAGE})
        assert refused.status == 403
        assert refused.headers["access-control-allow-origin"] == PAGE
        assert refused.headers["access-control-expose-headers"] == "ETag"
        assert refused.headers["vary"].startswith("Origin")
    other = await s3("PUT", "photos", query={"tagging": ""}, headers={"origin": "https://evil.example.net"})
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"].startswith("Origin")
    assert "vary" not in (await s3("GET", "photos", query={"location": ""})).headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (rules(), "MalformedXML"),
        (rules(rule()), "MalformedXML"),
        (rules(rule(origin("*"))), "MalformedXML"),
        (rules(rule(method("GET"))), "MalformedXML"),
        (rules("<Other/>"), "MalformedXML"),
        (rules(rule(origin("*"), method("GET"), "<Other/>")), "MalformedXML"),
        (rules(rule(origin("*"), method("GET"), "<MaxAgeSeconds>x</MaxAgeSeconds>")), "MalformedXML"),
        (rules(rule(origin("*"), method("GET"), "<ID>a</ID><ID>b</ID>")), "MalformedXML"),
        (rules(*[rule(origin("*"), method("GET"))] * 101), "MalformedXML"),
        (rules(rule(origin("*"), method("PATCH"))), "InvalidRequest"),
        (rules(rule(origin("*"), method("get"))), "InvalidRequest"),
        (rules(rule(origin("https://*.*"), method("GET"))), "InvalidRequest"),
        (rules(rule(origin(""), method("GET"))), "InvalidRequest"),
        (rules(rule(origin("https://a&#13;&#10;x: y"), method("GET"))), "InvalidRequest"),
        (rules(rule(origin("*"), method("GET"), "<AllowedHeader>**</AllowedHeader>")), "InvalidRequest"),
        (rules(rule(origin("*"), method("GET"), "<AllowedHeader>a&#10;</AllowedHeader>")), "InvalidRequest"),
        (rules(rule(origin("*"), method("GET"), "<ExposeHeader>*</ExposeHeader>")), "InvalidRequest"),
        (rules(rule(origin("*"), method("GET"), "<ExposeHeader>a&#13;&#10;b: c</ExposeHeader>")), "InvalidRequest"),
        (rules(rule(origin("*"), method("GET"), f"<ID>{'a' * 256}</ID>")), "InvalidRequest"),
    ],
)
async def test_a_rule_that_cannot_be_one_is_refused(body: bytes, code: str, s3: S3Client) -> None:
    """What would become a header line has no end of line in it."""
    await s3("PUT", "photos")
    answer = await put(s3, body)
    assert (answer.status, answer.code) == (400, code)


async def test_a_hundred_rules_are_kept(s3: S3Client) -> None:
    """As many as S3 keeps."""
    await s3("PUT", "photos")
    assert (await put(s3, rules(*[READS] * 100))).status == 200


async def test_a_stranger_asks_as_often_as_its_address_may(scene: Scene, photos: None) -> None:
    """Each preflight is a read of the log, and so is the mark of a refusal; without one the refusal is the same."""
    async with scene.gateway(anonymous_requests_per_s=1) as limited:
        assert (await preflight(limited, PAGE, "PUT")).status == 200
        assert (await preflight(limited, PAGE, "PUT")).code == "SlowDown"
        refused = await ask(limited.s3, "GET", "/photos?location", {"origin": PAGE})
        assert (refused.status, refused.code) == (403, "AccessDenied")
        assert "access-control-allow-origin" not in refused.headers
        elsewhere = await ask(limited.s3, "GET", "/photos?location", {"origin": PAGE}, address="127.0.0.2")
        assert elsewhere.headers["access-control-allow-origin"] == PAGE
        client = S3Client(limited.s3, scene.root)
        for _ in range(2):
            known = await client("GET", "photos", query={"location": ""}, headers={"origin": PAGE})
            assert (known.status, known.headers["access-control-allow-origin"]) == (200, PAGE)


async def test_rules_are_parsed_once(s3: S3Client, here: Running, photos: None) -> None:
    """As long as the document is the same; another one counts from the next request on."""
    assert (await preflight(here, PAGE, "PUT")).status == 200
    parsed = cors._parsed.cache_info().misses
    assert (await preflight(here, PAGE, "PUT")).status == 200
    assert cors._parsed.cache_info().misses == parsed
    await put(s3, rules(READS))
    assert (await preflight(here, PAGE, "PUT")).status == 403


async def test_a_hundred_header_names_are_looked_at(here: Running, photos: None) -> None:
    """Each once; with one more, nothing is."""
    names = [f"x-amz-{number}" for number in range(100)]
    answer = await preflight(here, PAGE, "PUT", ",".join([*names, *names, "X-Amz-1"]))
    assert (answer.status, answer.headers["access-control-allow-headers"]) == (200, ", ".join(names))
    assert (await preflight(here, PAGE, "PUT", ",".join([*names, "x-amz-100"]))).code == "AccessForbidden"
