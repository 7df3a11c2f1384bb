"""The audit trail: on the operations listener only. Its lines as they are chained, and a check of the chain."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from services.gateway.api.audit_models import LINES_EXAMPLE, TrailVerification
from services.gateway.api.problems import problems
from services.gateway.api.services import RunningGateway
from services.gateway.audit_trail import VERIFY_ROWS_MAX
from services.gateway.semantics.parameters import QueryParameters, described, number
from shared.audit_chain import begin_line
from shared.contracts.audit import AUDIT_PAGE_MAX

LINES_MEDIA_TYPE: Final = "application/x-ndjson"
_AFTER: Final = number("after", "Only rows behind this log index.", 0, 2**63 - 1, default=0)
_PAGE_LIMIT: Final = number("limit", "Rows at most.", 1, AUDIT_PAGE_MAX, default=AUDIT_PAGE_MAX)
_PASS_LIMIT: Final = number("limit", "Rows at most.", 1, VERIFY_ROWS_MAX, default=VERIFY_ROWS_MAX)
_PAGE: Final = QueryParameters(_AFTER, _PAGE_LIMIT)
_PASS: Final = QueryParameters(_AFTER, _PASS_LIMIT)


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
        openapi_extra=described(_PAGE),
    )
    async def get_audit(request: Request) -> Response:
        """Changes by log index, each chained to the one before: docs/operations.md says how, and what the fields mean.

        A page may be shorter than `limit`; the trail ends where one has no rows. Needs `cluster-admin`.
        """
        values = _PAGE.values(request.scope["query_string"])
        page = await gateway.services.audit.page(_AFTER.of(values), _PAGE_LIMIT.of(values))
        lines = begin_line(page.begin.index, page.begin.link) + page.lines.encode()
        return Response(lines, media_type=LINES_MEDIA_TYPE)

    @router.get(
        "/audit/verify",
        summary="Verify the audit trail",
        responses=problems(400, 401, 403, 503, about="audit"),
        openapi_extra=described(_PASS),
    )
    async def verify_audit(request: Request) -> TrailVerification:
        """Recomputes the chain, and names the first row that does not fit. Needs `cluster-admin`."""
        values = _PASS.values(request.scope["query_string"])
        return TrailVerification.of(await gateway.services.audit.verify(_AFTER.of(values), _PASS_LIMIT.of(values)))

    return router
