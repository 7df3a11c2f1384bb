"""Problem documents of the public port: the headers that belong to some of them, and how OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request, Response

from shared.errors import RangeNotSatisfiableError, TrivetError, UnauthenticatedError
from shared.problem_schema import PROBLEM_REFERENCE, PROBLEM_TYPE, describe_problems
from shared.service_app import problem_response

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


def problems(*statuses: int) -> Responses:
    """The `responses` of a route that may end in these."""
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {PROBLEM_TYPE: {"schema": PROBLEM_REFERENCE}}}
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

    describe_problems(app, {}, security_schemes=security_schemes)
