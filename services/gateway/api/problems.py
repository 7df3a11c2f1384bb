"""Problem documents of the public port: the headers that belong to some of them, and how OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import RangeNotSatisfiableError, TrivetError, UnauthenticatedError
from shared.service_app import PROBLEM_TYPE, problem_response

Responses = dict[int | str, dict[str, Any]]

_DESCRIPTIONS: Final = {
    400: "A name, header, parameter or body is malformed. Nothing was done.",
    401: "The admin token is missing or wrong.",
    403: "Not allowed.",
    404: "There is no such bucket, file or node.",
    408: "The body came too slowly or broke off. Nothing was stored.",
    409: "The state of the bucket or cluster forbids this now, or a twin of this request is still running.",
    410: "The cursor is too old; list again from the start.",
    412: "If-Match, If-None-Match or If-Unmodified-Since does not hold. Nothing was done.",
    413: "The body is larger than this cluster takes.",
    416: "No byte of the requested range exists.",
    422: "The Idempotency-Key was used for a different request. Nothing was done.",
    500: "A defect of ours.",
    503: "A quorum, the leader or a budget is missing now; see Retry-After. `definite` says whether nothing happened.",
    507: "The storage nodes are full.",
}
_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}


class Problem(BaseModel):
    """RFC 9457 problem document. `definite` is true when the requested change certainly did not happen."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:trivet:problem:file_not_found"])
    title: str
    status: int
    detail: str
    code: str
    definite: bool
    instance: str | None = None
    retry_after_s: int | None = None


def problems(*statuses: int) -> Responses:
    """The `responses` of a route that may end in these."""
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {PROBLEM_TYPE: {"schema": _SCHEMA}}}
        for status in sorted({*statuses, 500})
    }


def install(app: FastAPI, *, security_schemes: dict[str, Any]) -> None:
    """Answer errors with the headers of RFC 9110, and describe them in OpenAPI as they are."""

    @app.exception_handler(TrivetError)
    async def on_trivet_error(request: Request, error: TrivetError) -> Response:
        answer = problem_response(error, request.scope["raw_path"].decode("latin-1"))
        if isinstance(version := error.facts.get("version"), int):
            answer.headers["x-trivet-version"] = str(version)
        if isinstance(error, UnauthenticatedError):
            answer.headers["www-authenticate"] = 'Bearer realm="trivet"'
        if isinstance(error, RangeNotSatisfiableError):
            answer.headers["content-range"] = f"bytes */{error.facts.get('size_bytes', 0)}"
        return answer

    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        schema.setdefault("components", {})["securitySchemes"] = security_schemes
        components = schema["components"].setdefault("schemas", {})
        components["Problem"] = Problem.model_json_schema()
        # FastAPI adds these for its own validation answers, which are 400 problem documents here.
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        for operation in (operation for path in schema["paths"].values() for operation in path.values()):
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
