"""What a request may say beside its body: how each parameter is read, and what OpenAPI says of it, in one place.

A bound stands here once: the number that refuses a value is the one in the description. Headers have a grammar of their own,
so a `Header` stands beside the function that reads it. A route describes what its call reads by `described`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

from shared.errors import InvalidRequestError

MALFORMED_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

EXAMPLE_ETAG: Final = '"60c0e811737deb00f76b3479be928656"'

_EXACT_IN_JSON: Final = 1 << 53
"""Greater numbers are others in many a reader of JSON."""

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T, D]):
    """A parameter of a path or a query.

    Attributes:
        schema: of OpenAPI.
        read: the value of a text; raises a TrivetError, definite.
        default: its value where it is left out.
        is_required: it may not be left out. In a path none may.
        example: Swagger UI fills it in.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], T]
    default: D
    place: Literal["path", "query"] = "query"
    is_required: bool = False
    example: str | None = None

    def of(self, values: Mapping[str, str]) -> T | D:
        """Its value among those of a query. Raises InvalidRequestError."""
        text = values.get(self.name)
        if text is not None:
            return self.read(text)
        if self.is_required:
            raise InvalidRequestError(f"{self.name} is missing.", parameter=self.name)
        return self.default

    def describe(self) -> list[dict[str, Any]]:
        """As OpenAPI has it."""
        schema = dict(self.schema)
        described: dict[str, Any] = {
            "name": self.name,
            "in": self.place,
            "description": self.description,
            "schema": schema,
        }
        if self.is_required or self.place == "path":
            described["required"] = True
        elif self.default is not None:
            schema["default"] = self.default
        if self.example is not None:
            described["example"] = self.example
        return [described]


def number(
    name: str, description: str, least: int, most: int, *, default: D, place: Literal["path", "query"] = "query"
) -> Parameter[int, D]:
    """A number in least..most."""

    def read(text: str) -> int:
        # int() would also take "+2", "1_0" and digits of other scripts.
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise InvalidRequestError(f"{name} is a number from {least} to {most}.", parameter=name)
        return int(text)

    schema = {"type": "integer", "minimum": least} | ({"maximum": most} if most < _EXACT_IN_JSON else {})
    return Parameter(name, description, schema, read, default, place)


def flag(name: str, description: str) -> Parameter[bool, bool]:
    """`true` or `false`, which it is by default."""

    def read(text: str) -> bool:
        if text not in {"true", "false"}:
            raise InvalidRequestError(f"{name} is true or false.", parameter=name)
        return text == "true"

    return Parameter(name, description, {"type": "boolean"}, read, default=False)


def string(name: str, description: str, *, max_bytes: int, is_filled: bool = False) -> Parameter[str, None]:
    """At most `max_bytes` of UTF-8, and not none of them where it `is_filled`."""

    def read(value: str) -> str:
        if is_filled and not value:
            raise InvalidRequestError(f"{name} is not empty.", parameter=name)
        if len(value.encode()) > max_bytes or "\0" in value:
            raise InvalidRequestError(f"{name} has at most {max_bytes} bytes of UTF-8 without NUL.", parameter=name)
        return value

    schema = {"type": "string"} | ({"minLength": 1} if is_filled else {})
    return Parameter(name, description, schema, read, default=None)


class QueryParameters:
    """The parameters of one query."""

    def __init__(self, *parameters: Parameter[Any, Any]) -> None:
        self._parameters = parameters
        self._names = frozenset(parameter.name for parameter in parameters)

    def values(self, query_string: bytes) -> dict[str, str]:
        """The texts by name. Raises InvalidRequestError: see `query_values`."""
        return query_values(query_string, self._names)

    def describe(self) -> list[dict[str, Any]]:
        """As OpenAPI has them."""
        return [each for parameter in self._parameters for each in parameter.describe()]


def query_values(query_string: bytes, known: frozenset[str]) -> dict[str, str]:
    """The parameters of a query, each at most once, as strict UTF-8.

    Raises:
        InvalidRequestError: a parameter is unknown, repeated or not UTF-8; definite.
    """
    if MALFORMED_ESCAPE.search(query_string):
        raise InvalidRequestError("The query has a '%' that is not followed by two hex digits.")
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as error:
        raise InvalidRequestError("The query is not valid UTF-8, or has too many fields.") from error
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise InvalidRequestError("The query has an unknown parameter.", parameter=name[:64], known=sorted(known))
        if name in values:
            raise InvalidRequestError("A query parameter is given twice.", parameter=name)
        values[name] = value
    return values


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request; its reader stands beside it."""

    name: str
    description: str
    example: str

    @property
    def field(self) -> str:
        """The name in lower case, as fields of a request have it."""
        return self.name.lower()

    def describe(self) -> list[dict[str, Any]]:
        """As OpenAPI has it. The example stands in the text: Swagger UI would fill it in, and every request would have it."""
        text = f"{self.description} Example: `{self.example}`"
        return [{"name": self.name, "in": "header", "description": text, "schema": {"type": "string"}}]


def described(*parts: Parameter[Any, Any] | QueryParameters | Header) -> dict[str, Any]:
    """What a route that reads these says to OpenAPI."""
    return {"parameters": [each for part in parts for each in part.describe()]}


def answer_header(description: str, example: str) -> dict[str, Any]:
    """A header of an answer, as OpenAPI has it."""
    return {"description": description, "schema": {"type": "string"}, "example": example}
