"""What several routes read from a request."""

from __future__ import annotations

import json

import pytest
from pydantic import Field

from services.gateway.api.requests import described_body, requested_version
from shared.contracts.base import WireModel
from shared.errors import InvalidRequestError


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
