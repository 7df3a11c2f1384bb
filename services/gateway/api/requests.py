"""Small readings of a request that several routes share."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Mapping
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.params import Depends
from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from services.gateway.access.context import known_access
from services.gateway.api.client_connection import body_of
from services.gateway.replicas.quorum import Quorums
from services.gateway.semantics.conditions import WRITE_CONDITIONS
from services.gateway.semantics.parameters import QueryParameters, number
from services.gateway.semantics.raw_names import BUCKETS_PREFIX, FILES_PREFIX, FileName, bucket_name, file_name
from services.gateway.transfers.admission import Admission, Client
from services.gateway.transfers.chunking import PacedBody
from shared.errors import InvalidRequestError, PayloadTooLargeError
from shared.units import KIB
from shared.web.http_exchange import exchange_of

MAX_JSON_BYTES: Final = 256 * KIB
"""Two keys, user metadata and tags, as long as they may be and each character written as an escape."""

_PROBLEMS_MAX: Final = 20
_WHERE_MAX: Final = 200
"""In characters: a name that is not known is the client's."""

_BUDGET_WAIT_S: Final = 1.0
_FILE_VERSION: Final = "file_version"
_VERSION_MAX: Final = (1 << 63) - 1
_NO_QUERY: Final = "This path takes no query; a '?' in a key is written as %3F."

_VERSION: Final = number(
    "version", "Of the version that is meant; without it the current one.", 1, _VERSION_MAX, default=None
)
VERSION_QUERY: Final = QueryParameters(_VERSION)
"""What `requested_version` reads."""

ModelT = TypeVar("ModelT", bound=BaseModel)

Fields = Mapping[str, str]
"""Header fields by name in lower case, repeated ones joined by commas as RFC 9110 section 5.3 says."""


def fields_of(scope: Scope) -> Fields:
    """The header fields of a request."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def requested_file(scope: Scope) -> FileName:
    """The file that the path names.

    Raises:
        InvalidRequestError: as `file_name`, or there is a query, be it an empty one: `really?` would be stored as `really`.
    """
    exchange = exchange_of(scope)
    if exchange is not None and exchange.has_empty_query:
        raise InvalidRequestError(_NO_QUERY)
    refuse_query(scope)
    return file_name(scope["raw_path"])


def requested_version(scope: Scope) -> int | None:
    """The version that the query names, or None without a query.

    Raises:
        InvalidRequestError: there is another parameter, or an empty query, or it is no number that a version may have.
    """
    exchange = exchange_of(scope)
    if exchange is not None and exchange.has_empty_query:
        raise InvalidRequestError(_NO_QUERY)
    if not scope["query_string"]:
        return None
    return _VERSION.of(VERSION_QUERY.values(scope["query_string"]))


def requested_bucket(scope: Scope) -> str:
    """The bucket that the path `/v1/buckets/{bucket}` names. Raises as `requested_file`."""
    refuse_query(scope)
    return bucket_name(scope["raw_path"], BUCKETS_PREFIX)


def requested_form_bucket(scope: Scope) -> str:
    """The bucket that the path `/v1/files/{bucket}` of a form names. Raises as `requested_file`."""
    refuse_query(scope)
    return bucket_name(scope["raw_path"], FILES_PREFIX)


def refuse_query(scope: Scope) -> None:
    """Refuse what would be ignored: mostly a `?` that belongs to a key, which would name another file without a word.

    Raises:
        InvalidRequestError: there is a query.
    """
    if scope["query_string"]:
        raise InvalidRequestError(_NO_QUERY)


def refuse_conditions(fields: Fields) -> None:
    """Refuse conditions of a call that holds them against nothing: a client that sends one counts on it.

    Raises:
        InvalidRequestError: there is one.
    """
    for condition in WRITE_CONDITIONS:
        if condition.field in fields:
            raise InvalidRequestError("This call takes no conditions.", header=condition.field)


def client_of(scope: Scope) -> Client:
    """Whom shares of the gateway are counted for. Behind a proxy all clients have the proxy's address."""
    peer, access = scope.get("client"), known_access()
    address = "" if peer is None else peer[0]
    return Client(address) if access is None else Client(address, access.principal.id, access.pace)


def record_version(scope: Scope, version: int) -> None:
    """Have every answer to this request say what was found out about the file, errors included."""
    scope.setdefault("state", {})[_FILE_VERSION] = version


def recorded_version(scope: Scope) -> int | None:
    """What `record_version` was told."""
    version: int | None = scope.get("state", {}).get(_FILE_VERSION)
    return version


def write_quorums(fields: Fields, defaults: Quorums) -> Quorums:
    """With the W that a change asks for. Raises InvalidRequestError."""
    return defaults.for_request(fields.get("x-trivet-write-quorum"), None)


def read_quorums(fields: Fields, defaults: Quorums) -> Quorums:
    """With the R that a read asks for. Raises InvalidRequestError."""
    return defaults.for_request(None, fields.get("x-trivet-read-quorum"))


async def json_body(request: Request, model: type[ModelT]) -> ModelT:
    """A small JSON body. Read by hand, because the framework would read a body of any size.

    Raises:
        PayloadTooLargeError: it is larger than `MAX_JSON_BYTES`.
        InvalidRequestError: it is not what the model says.
    """
    _check_announced(request, MAX_JSON_BYTES)
    return _parsed(await _bounded_body(body_of(request.receive), MAX_JSON_BYTES), model)


async def large_json_body(request: Request, model: type[ModelT], admission: Admission, *, max_bytes: int) -> ModelT:
    """A JSON body that may be long, received as a file is: in a slot and in the byte budget, or many would be gigabytes.

    Raises:
        OverloadedError: there is no room for it, or its client was too slow while others waited; definite.
        TrivetError: as `json_body`.
    """
    announced_bytes = _check_announced(request, max_bytes)
    async with admission.transfer(client_of(request.scope), is_large_upload=True) as transfer:
        if announced_bytes is not None:
            transfer.size_known(announced_bytes)
        with transfer.lease() as lease:
            await transfer.grow(lease, max_bytes if announced_bytes is None else announced_bytes, wait_s=_BUDGET_WAIT_S)
            return _parsed(await _bounded_body(PacedBody(body_of(request.receive), transfer), max_bytes), model)


def _parsed(body: bytes, model: type[ModelT]) -> ModelT:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)[:_PROBLEMS_MAX]
        problems = [
            {"where": ".".join(str(part) for part in detail["loc"])[:_WHERE_MAX], "what": detail["msg"]}
            for detail in details
        ]
        raise InvalidRequestError("The JSON body is malformed.", problems=problems) from error


def _check_announced(request: Request, max_bytes: int) -> int | None:
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    return None if announced is None else int(announced)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"This JSON body has at most {max_bytes // KIB} KiB.", limit_bytes=max_bytes)


async def _bounded_body(pieces: AsyncIterable[bytes], max_bytes: int) -> bytes:
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


BINARY: Final = {"type": "string", "format": "binary"}
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "description": "The bytes of the file, as they are; they are kept as they come, whatever Content-Encoding says.",
        "required": True,
        "content": {"application/octet-stream": {"schema": BINARY}},
    }
}
"""What OpenAPI says of a route that stores its body."""


def described_body(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route that takes `json_body` of `model`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(model)}}}}


@functools.cache
def _schema(model: type[BaseModel]) -> Any:
    described = model.model_json_schema()
    return _inlined(described, described.pop("$defs", {}))


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """`part` with each reference to a definition replaced by what it refers to: OpenAPI would look elsewhere."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if (reference := part.get("$ref")) is not None:
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _inlined(each, definitions) for name, each in part.items()}


async def _refuse_query(request: Request) -> None:
    refuse_query(request.scope)


NO_QUERY: Final[Depends] = Depends(_refuse_query)
"""For a route: a query is refused."""
