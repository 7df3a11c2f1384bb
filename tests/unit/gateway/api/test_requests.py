"""What several routes read from a request."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from pydantic import BaseModel, Field
from starlette.requests import Request

from services.gateway.api.object_models import (
    BATCH_MAX_BYTES,
    BatchDeleteRequest,
    CopyRequest,
    SettingsRequest,
    TagsRequest,
)
from services.gateway.api.requests import (
    MAX_JSON_BYTES,
    described_body,
    json_body,
    large_json_body,
    requested_version,
)
from services.gateway.api.upload_models import COMPLETION_MAX_BYTES, Completion
from services.gateway.semantics.file_headers import MAX_METADATA_BYTES
from services.gateway.transfers.admission import Admission, AdmissionLimits, Client
from shared.contracts.base import WireModel
from shared.contracts.names import MAX_KEY_BYTES, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX
from shared.errors import InvalidRequestError, OverloadedError, PayloadTooLargeError
from shared.units import KIB, MIB


class Inner(WireModel):
    name: str = Field(max_length=3)


class Outer(WireModel):
    one: Inner
    many: list[Inner] = Field(max_length=2)
    optional: Inner | None = None


def asked(query: bytes) -> int | None:
    return requested_version({"type": "http", "query_string": query})


def test_a_version_is_the_only_parameter_of_a_file() -> None:
    """A number that a version may have, once; anything else is refused and never left out."""
    assert asked(b"") is None
    assert asked(b"version=17") == 17
    assert asked(b"version=9223372036854775807") == 2**63 - 1
    for query in (
        b"version=",
        b"version",
        b"version=0",
        b"version=-1",
        b"version=%201",
        b"version=1.0",
        b"version=9223372036854775808",
        b"version=%D9%A1",
        b"version=1&version=1",
        b"version=1&x=1",
        b"versionId=1",
        b"x",
    ):
        with pytest.raises(InvalidRequestError):
            asked(query)


def test_the_description_of_a_body_refers_to_nothing() -> None:
    """Models inside models are written out: no reference of theirs resolves in OpenAPI."""
    described = described_body(Outer)["requestBody"]["content"]["application/json"]["schema"]
    assert "$ref" not in json.dumps(described)
    assert "$defs" not in described
    inner = Inner.model_json_schema()
    assert (described["properties"]["one"], described["properties"]["many"]["items"]) == (inner, inner)
    assert inner in described["properties"]["optional"]["anyOf"]


def request_of(body: bytes, *, pieces: int = 1, is_announced: bool = True) -> Request:
    """A request with `body`, which comes in so many pieces."""
    size_bytes = -(-len(body) // pieces) or 1
    left = [body[at : at + size_bytes] for at in range(0, len(body), size_bytes)] or [b""]

    async def receive() -> dict[str, object]:
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    headers = [(b"content-length", b"%d" % len(body))] if is_announced else []
    return Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 1)}, receive)


def make_admission(*, slots: int = 4, budget_bytes: int = 16 * MIB) -> Admission:
    return Admission(AdmissionLimits(slots, budget_bytes, 0))


async def refused_problems(body: bytes, model: type[BaseModel]) -> Sequence[dict[str, str]]:
    admission = make_admission()
    with pytest.raises(InvalidRequestError) as refused:
        await large_json_body(request_of(body), model, admission, max_bytes=BATCH_MAX_BYTES)
    assert (admission.used_bytes, admission.used_slots) == (0, 0)
    problems = refused.value.facts["problems"]
    assert isinstance(problems, list)
    return problems


async def test_what_a_short_body_may_hold_fits_into_it() -> None:
    """Keys, metadata and tags of full length, each character as an escape; one byte more than the limit is 413."""
    key = "\u20ac" * (MAX_KEY_BYTES // 3)
    metadata = {str(number): "x" * (MAX_METADATA_BYTES // 5) for number in range(4)}
    tags = {f"{number}".rjust(TAG_NAME_MAX, "\U0001f600"): "\U0001f600" * TAG_VALUE_MAX for number in range(TAGS_MAX)}
    file = {"bucket": "default", "key": key}
    copy = {"source": file, "target": file, "user_metadata": metadata, "tags": tags}
    body = json.dumps(copy, ensure_ascii=True).replace("x", "\\u0078").encode()
    assert (await json_body(request_of(body), CopyRequest)).tags == tags
    for is_announced in (True, False):
        with pytest.raises(PayloadTooLargeError):
            await json_body(request_of(b" " * (MAX_JSON_BYTES + 1), is_announced=is_announced), TagsRequest)


async def test_names_that_are_not_known_are_refused_once_and_shown_in_part() -> None:
    """As many as fit into a body: an error for each would take seconds, and show the client its own megabytes."""
    surplus = b"{" + b",".join(b'"%d":1' % number for number in range(300_000)) + b"}"
    for model, name in ((BatchDeleteRequest, b"files"), (Completion, b"parts")):
        assert len(await refused_problems(surplus, model)) == 1
        assert len(await refused_problems(b'{"bucket":"default","%s":[%s]}' % (name, surplus), model)) <= 2
        many = b",".join([b'{"a":1,"b":1}'] * 1000)
        assert len(await refused_problems(b'{"bucket":"default","%s":[%s]}' % (name, many), model)) <= 4
    with pytest.raises(InvalidRequestError) as refused:
        await json_body(request_of(b'{"' + b"k" * 100_000 + b'":1}'), TagsRequest)
    assert len(json.dumps(refused.value.facts)) < KIB


async def test_a_long_body_is_in_a_slot_and_in_the_budget() -> None:
    """A thousand of them at one time would be gigabytes; a short one takes what is kept for small transfers."""
    body = b'{"bucket":"default","files":[{"key":"a"}]}'
    for is_announced in (True, False):
        admission = make_admission()
        request = request_of(body, pieces=3, is_announced=is_announced)
        asked = await large_json_body(request, BatchDeleteRequest, admission, max_bytes=BATCH_MAX_BYTES)
        assert [file.key for file in asked.files] == ["a"]
        assert (admission.used_bytes, admission.used_slots) == (0, 0)
    busy = make_admission(slots=1)
    async with busy.transfer(Client("127.0.0.1")):
        with pytest.raises(OverloadedError):
            await large_json_body(request_of(body), BatchDeleteRequest, busy, max_bytes=BATCH_MAX_BYTES)
    full = make_admission()
    with full.large.lease() as lease:
        assert lease.try_grow(full.large.limit_bytes - MIB)
        with pytest.raises(OverloadedError):
            await large_json_body(
                request_of(b" " * COMPLETION_MAX_BYTES), Completion, full, max_bytes=COMPLETION_MAX_BYTES
            )
        with pytest.raises(PayloadTooLargeError):
            await large_json_body(request_of(b" " * (4 * MIB + 1)), Completion, full, max_bytes=COMPLETION_MAX_BYTES)


async def test_a_retention_is_a_number() -> None:
    """`true` is not one second, after which every older version would be gone."""
    for value in ("true", '"3"', "1.0", "-1", "1e9"):
        with pytest.raises(InvalidRequestError):
            await json_body(
                request_of(b'{"versioning":"enabled","superseded_retention_s":%s}' % value.encode()), SettingsRequest
            )
