"""Whose pages may use a bucket from a browser: the document that says so, preflights, and the marks on answers (Fetch).

The document is kept as S3 clients put it, and read anew for each request that names an origin, after that counted for whoever
sent it; what was parsed of it lasts. Credentials are promised to
origins that are named or fit a pattern, never to everybody. What becomes a header line is checked when the document is put.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from pydantic import Field, TypeAdapter

from services.gateway.access.context import as_system
from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.errors import S3Error
from services.gateway.s3.request_documents import read_document
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import propose_once, retry_key
from services.gateway.s3.xml_documents import Element, document, element, group, malformed
from shared.contracts.base import WireModel
from shared.contracts.objects import DeleteBucketDocument, GetBucketDocument, PutBucketDocument
from shared.units import KIB

KIND: Final = "cors"
RULES_MAX: Final = 100
ASKED_HEADERS_MAX: Final = 100
LIMIT_BYTES: Final = 64 * KIB
VARY: Final = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"

_METHODS: Final = ("GET", "PUT", "POST", "DELETE", "HEAD")
_ID_MAX: Final = 255
_AGE: Final = re.compile(r"[0-9]{1,9}")
_ORIGIN: Final = re.compile(r"[!-~]{1,1024}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_ELEMENTS: Final = frozenset({"ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds"})


class CorsRule(WireModel):
    """One rule, checked. Origins and headers may have one `*` each, for any characters."""

    id: str | None = None
    origins: list[str]
    methods: list[str]
    headers: list[str] = Field(default_factory=list)
    exposed: list[str] = Field(default_factory=list)
    max_age_s: int | None = None

    def fits(self, origin: str, method: str, headers: Iterable[str]) -> bool:
        """Whether a page of `origin` may send it. `headers`: names in lower case."""
        return (
            method in self.methods
            and any(_fits(pattern, origin) for pattern in self.origins)
            and all(any(_fits(pattern.lower(), header) for pattern in self.headers) for header in headers)
        )

    def marks(self, origin: str) -> dict[str, str]:
        """Headers of an answer to a page of `origin`."""
        named = any(pattern != "*" and _fits(pattern, origin) for pattern in self.origins)
        marks = {"access-control-allow-origin": origin if named else "*"}
        if named:
            marks["access-control-allow-credentials"] = "true"
        if self.exposed:
            marks["access-control-expose-headers"] = ", ".join(self.exposed)
        return marks


_RULES: Final = TypeAdapter(list[CorsRule])


async def put_bucket_cors(request: S3Request) -> None:
    """Replaces all rules."""
    rules = rules_of(await read_document(request, "CORSConfiguration", limit_bytes=LIMIT_BYTES))
    body = _RULES.dump_json(rules, exclude_defaults=True)
    if len(body) > LIMIT_BYTES:
        raise malformed()
    stamp = request.services.clock.stamp()
    command = PutBucketDocument(bucket=request.bucket, kind_name=KIND, body=body, stamp=stamp)
    await propose_once(request, command, retry_key(request, body.decode()))
    await send_empty(request)


async def get_bucket_cors(request: S3Request) -> None:
    """As it was put."""
    found, _ = await request.services.metadata.read(GetBucketDocument(bucket=request.bucket, kind_name=KIND))
    if not found.has_bucket:
        raise S3Error("NoSuchBucket", "The specified bucket does not exist", BucketName=request.bucket)
    if found.body is None:
        raise S3Error("NoSuchCORSConfiguration", "The CORS configuration does not exist", BucketName=request.bucket)
    await send_xml(request, document("CORSConfiguration", map(_rule_element, _RULES.validate_json(found.body))))


async def delete_bucket_cors(request: S3Request) -> None:
    """Also where there is none."""
    command = DeleteBucketDocument(bucket=request.bucket, kind_name=KIND, stamp=request.services.clock.stamp())
    await propose_once(request, command, retry_key(request))
    await send_empty(request, 204)


async def preflight(request: S3Request) -> None:
    """What a page may send, for whoever asks: a browser asks without credentials."""
    origin = request.headers.get("origin")
    method = request.headers.get("access-control-request-method")
    if origin is None or method is None:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    asked = _names(request.headers.get("access-control-request-headers", ""))
    rules = await _rules_in_force(request)
    if rules is None:
        raise S3Error("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.", Method=method[:16])
    # Each is compared with each pattern of a rule, before anybody is known.
    fitting = (rule for rule in rules if len(asked) <= ASKED_HEADERS_MAX and rule.fits(origin, method, asked))
    rule = next(fitting, None)
    if rule is None or not _ORIGIN.fullmatch(origin):
        raise S3Error(
            "AccessForbidden",
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request "
            "method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the "
            "resource's CORS spec.",
            Method=method[:16],
        )
    headers = {
        **rule.marks(origin),
        "access-control-allow-methods": ", ".join(rule.methods),
        "vary": VARY,
    }
    if asked:
        headers["access-control-allow-headers"] = ", ".join(asked)
    if rule.max_age_s is not None:
        headers["access-control-max-age"] = str(rule.max_age_s)
    await send_empty(request, 200, headers)


async def mark_answers(request: S3Request) -> bool:
    """Have every answer to the request, errors too, say whether the page that sent it may read it. Returns if it may.

    Raises:
        TrivetError: as a metadata read.
    """
    origin = request.headers.get("origin")
    if origin is None or not request.bucket or request.scope["method"] == "OPTIONS":
        return False
    rules = await _rules_in_force(request)
    if rules is None:
        return False
    request.answer_headers["vary"] = VARY
    rule = next((rule for rule in rules if rule.fits(origin, request.scope["method"], ())), None)
    if rule is None or not _ORIGIN.fullmatch(origin):
        return False
    request.answer_headers |= rule.marks(origin)
    return True


def rules_of(root: Element) -> list[CorsRule]:
    """The rules of a document.

    Raises:
        S3Error: MalformedXML, or InvalidRequest for what cannot be a rule.
    """
    if not 1 <= len(root) <= RULES_MAX or any(child.tag != "CORSRule" for child in root):
        raise malformed()
    return [_rule_of(child) for child in root]


def _rule_of(rule: Element) -> CorsRule:
    found: dict[str, list[str]] = {}
    for child in rule:
        if child.tag not in _ELEMENTS or len(child):
            raise malformed()
        found.setdefault(child.tag, []).append(child.text or "")
    methods, origins = found.get("AllowedMethod", []), found.get("AllowedOrigin", [])
    ages, ids = found.get("MaxAgeSeconds", []), found.get("ID", [])
    if not methods or not origins or len(ages) > 1 or len(ids) > 1 or not all(map(_AGE.fullmatch, ages)):
        raise malformed()
    for method in methods:
        if method not in _METHODS:
            raise S3Error(
                "InvalidRequest", f"Found unsupported HTTP method in CORS config. Unsupported method is {method[:32]}"
            )
    headers, exposed = found.get("AllowedHeader", []), found.get("ExposeHeader", [])
    _check("AllowedOrigin", origins, _ORIGIN, stars=1)
    _check("AllowedHeader", headers, _HEADER, stars=1)
    _check("ExposeHeader", exposed, _HEADER, stars=0)
    if ids and len(ids[0]) > _ID_MAX:
        raise S3Error("InvalidRequest", f"The ID of a rule has at most {_ID_MAX} characters.")
    return CorsRule(
        id=ids[0] if ids else None,
        origins=origins,
        methods=methods,
        headers=headers,
        exposed=exposed,
        max_age_s=int(ages[0]) if ages else None,
    )


def _check(name: str, values: Iterable[str], pattern: re.Pattern[str], *, stars: int) -> None:
    for value in values:
        # Nothing but such characters ever becomes a header line: no end of line above all.
        if not pattern.fullmatch(value):
            raise S3Error("InvalidRequest", f"{name} has a value that cannot be one.")
        if value.count("*") > stars:
            raise S3Error("InvalidRequest", f'{name} "{value[:100]}" can not have more than {stars} wildcard.')


def _fits(pattern: str, text: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == text
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _names(value: str) -> list[str]:
    """Header names of a preflight, each once and in lower case; anything else fits no rule."""
    return list(dict.fromkeys(name.strip().lower() for name in value.split(",") if name.strip()))


async def _rules_in_force(request: S3Request) -> Sequence[CorsRule] | None:
    with as_system():
        found, _ = await request.services.metadata.read(GetBucketDocument(bucket=request.bucket, kind_name=KIND))
    return None if found.body is None else _parsed(found.body)


@lru_cache(maxsize=64)  # by the document itself: the same is parsed once, in whichever bucket, and never an older one
def _parsed(body: bytes) -> tuple[CorsRule, ...]:
    return tuple(_RULES.validate_json(body))


def _rule_element(rule: CorsRule) -> str:
    lists: Mapping[str, list[str]] = {
        "AllowedOrigin": rule.origins,
        "AllowedMethod": rule.methods,
        "AllowedHeader": rule.headers,
        "ExposeHeader": rule.exposed,
    }
    children = [] if rule.id is None else [element("ID", rule.id)]
    children += [element(name, value) for name, values in lists.items() for value in values]
    if rule.max_age_s is not None:
        children.append(element("MaxAgeSeconds", rule.max_age_s))
    return group("CORSRule", children)
