"""How OpenAPI describes the answers that are the same everywhere: problem documents, and no 422 of the framework's own.

FastAPI would describe its own validation answer, which no service gives: what is malformed is a 400 problem document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import ERRORS_BY_CODE, TrivetError
from shared.web.contract_examples import EXAMPLES
from shared.web.http_edge import HEAD_TOO_LARGE, MAX_URL_BYTES, problem_of_status

PROBLEM_TYPE: Final = "application/problem+json"
PROBLEM_REFERENCE: Final = {"$ref": "#/components/schemas/Problem"}

COMMON_INTERNAL: Final = {
    400: "Malformed name, header, parameter or body. Nothing was done.",
    401: "Missing, wrong or replayed signature. Nothing was done.",
    403: "The caller's role may not do this. Nothing was done.",
    413: "The body is larger than this service takes.",
    500: "A defect of ours.",
    503: "Cannot be done now; see Retry-After. `definite` says whether it certainly did not happen.",
}
"""What every signed route may answer besides its own."""

_EDGE: Final[Mapping[int, tuple[str, str]]] = {
    414: ("URI Too Long", f"A request target has at most {MAX_URL_BYTES} bytes"),
    431: HEAD_TOO_LARGE[1:],
}
"""What the HTTP edge may answer to every request, before there is a route: reason and detail."""


_HEADERS: Final = {
    "ErrorCode": {
        "description": "`code` of the problem document, for an answer to HEAD, too, which has no body.",
        "schema": {"type": "string"},
        "example": "file_not_found",
    }
}
_CODE: Final = {"X-Trivet-Error-Code": {"$ref": "#/components/headers/ErrorCode"}}


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


def described_problem(
    description: str, examples: Sequence[TrivetError], headers: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An answer of OpenAPI that is a problem document, with one example of each kind."""
    answer: dict[str, Any] = {"description": description, "content": {PROBLEM_TYPE: {"schema": PROBLEM_REFERENCE}}}
    if examples:
        answer["content"][PROBLEM_TYPE]["examples"] = {
            error.code: {"summary": error.to_problem()["title"], "value": error.to_problem()} for error in examples
        }
    answer["headers"] = {**_CODE, **(headers or {})}
    return answer


def describe_problems(
    app: FastAPI, common: Mapping[int, str], *, security_schemes: Mapping[str, Any] | None = None
) -> None:
    """Add `common` to every route under /v1, make every error answer a problem document, and give models their examples.

    `security_schemes`: any of them opens every route under /v1; Swagger UI then has a button that asks for it.
    """
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = describe()
        components = schema.setdefault("components", {})
        if security_schemes is not None:
            components["securitySchemes"] = dict(security_schemes)
        components["headers"] = _HEADERS
        components["responses"] = _edge_answers()
        models = components.setdefault("schemas", {})
        models["Problem"] = Problem.model_json_schema()
        for name in models.keys() & EXAMPLES.keys():
            models[name].setdefault("examples", [EXAMPLES[name]])
        for name in ("HTTPValidationError", "ValidationError"):
            models.pop(name, None)
        for path, operations in schema["paths"].items():
            is_ours = path.startswith("/v1/")
            for operation in operations.values():
                _describe(operation["responses"], common if is_ours else {})
                if is_ours and security_schemes is not None:
                    operation["security"] = [{name: []} for name in security_schemes]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(answers: dict[str, Any], common: Mapping[int, str]) -> None:
    if "application/json" in answers.get("422", {}).get("content", {}):
        del answers["422"]
    for status, description in common.items():
        answers.setdefault(str(status), {"description": description})
    for code, answer in answers.items():
        if int(code) >= 400 and "examples" not in answer.get("content", {}).get(PROBLEM_TYPE, {}):
            answer.update(described_problem(answer["description"], [_error_of(int(code))(answer["description"])]))
    for status in _EDGE:
        answers.setdefault(str(status), {"$ref": f"#/components/responses/Edge{status}"})


def _edge_answers() -> dict[str, Any]:
    answers = {}
    for status, (reason, detail) in _EDGE.items():
        problem = problem_of_status(status, reason, detail)
        example = {problem["code"]: {"summary": reason, "value": problem}}
        content = {PROBLEM_TYPE: {"schema": PROBLEM_REFERENCE, "examples": example}}
        answers[f"Edge{status}"] = {"description": problem["detail"], "headers": _CODE, "content": content}
    return answers


def _error_of(status: int) -> type[TrivetError]:
    """The general error of a status: the one nearest to the root of the tree."""
    kinds = [kind for kind in ERRORS_BY_CODE.values() if kind.status == status and kind is not TrivetError]
    return min(kinds, key=lambda kind: len(kind.__mro__))
