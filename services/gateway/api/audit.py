"""The audit trail: on the operations listener only. Its lines as they are chained, and a check of the chain."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.audit_models import LINES_EXAMPLE, TrailVerification
from services.gateway.api.problems import problems
from services.gateway.api.services import RunningGateway
from services.gateway.audit_trail import VERIFY_ROWS_MAX
from services.gateway.semantics.raw_names import query_values
from shared.audit_chain import begin_line
from shared.contracts.audit import AUDIT_PAGE_MAX
from shared.errors import InvalidRequestError

LINES_MEDIA_TYPE: Final = "application/x-ndjson"
_INDEX_MAX: Final = 2**63 - 1


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["cluster"])

    @router.get(
        "/audit",
        summary="Read the audit trail",
        response_class=Response,
        responses={
            200: {
                "content": {LINES_MEDIA_TYPE: {"schema": {"type": "string"}, "example": LINES_EXAMPLE}},
                "description": "A line that says behind which row the page begins, then a line for each row.",
            },
            **problems(400, 401, 403, 503, about="audit"),
        },
        openapi_extra=_page_parameters(AUDIT_PAGE_MAX),
    )
    async def get_audit(request: Request) -> Response:
        """Changes by log index, each chained to the one before: docs/operations.md says how, and what the fields mean.

        A page may be shorter than `limit`; the trail ends where one has no rows. Needs `cluster-admin`.
        """
        after, limit = _window(request, AUDIT_PAGE_MAX)
        page = await gateway.services.audit.page(after, limit)
        lines = begin_line(page.begin.index, page.begin.link) + page.lines.encode()
        return Response(lines, media_type=LINES_MEDIA_TYPE)

    @router.get(
        "/audit/verify",
        summary="Verify the audit trail",
        responses=problems(400, 401, 403, 503, about="audit"),
        openapi_extra=_page_parameters(VERIFY_ROWS_MAX),
    )
    async def verify_audit(request: Request) -> TrailVerification:
        """Recomputes the chain, and names the first row that does not fit. Needs `cluster-admin`."""
        after, limit = _window(request, VERIFY_ROWS_MAX)
        return TrailVerification.of(await gateway.services.audit.verify(after, limit))

    return router


def _window(request: Request, limit_max: int) -> tuple[int, int]:
    values = query_values(request.scope["query_string"], frozenset({"after", "limit"}))
    after = _number(values.get("after", "0"), "after", 0, _INDEX_MAX)
    return after, _number(values.get("limit", str(limit_max)), "limit", 1, limit_max)


def _number(text: str, name: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(_INDEX_MAX)) and least <= int(text) <= most):
        raise InvalidRequestError(f"{name} is a number from {least} to {most}.", parameter=name)
    return int(text)


def _page_parameters(limit_max: int) -> dict[str, Any]:
    return {
        "parameters": [
            {
                "name": "after",
                "in": "query",
                "description": "Only rows behind this log index.",
                "schema": {"type": "integer", "minimum": 0, "default": 0},
            },
            {
                "name": "limit",
                "in": "query",
                "description": "Rows at most.",
                "schema": {"type": "integer", "minimum": 1, "maximum": limit_max, "default": limit_max},
            },
        ]
    }
