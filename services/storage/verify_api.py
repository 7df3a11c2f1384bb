"""The routes of a verify pass; see `shared.contracts.reconcile`."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from services.storage.reconcile.verify import Verifier
from shared.contracts.reconcile import VerifyReport

_PROBLEM: Final = {"content": {"application/problem+json": {"schema": {"type": "object"}}}}
_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "Missing, wrong or replayed signature. Definite", **_PROBLEM},
    503: {"description": "The pass cannot be written down now. Definite", **_PROBLEM},
}
_RUNNING: Final[dict[int | str, dict[str, Any]]] = {409: {"description": "One is under way. Definite", **_PROBLEM}}


def build_verify_router(verifier: Verifier) -> APIRouter:
    """The routes over `verifier`."""
    router = APIRouter(prefix="/v1/verify", tags=["verify"], responses=_PROBLEMS)

    @router.post("", summary="Read and count everything", status_code=202, responses=_RUNNING)
    async def start() -> VerifyReport:
        """Begin a pass over all that this node should hold, and all that it holds."""
        return await verifier.start()

    @router.get("", summary="How far the pass is")
    async def get() -> VerifyReport:
        """Of the pass under way, else of the last one. Kept across restarts."""
        return verifier.report()

    @router.delete("", summary="End the pass early")
    async def cancel() -> VerifyReport:
        """What it has found so far is kept."""
        return await verifier.cancel()

    return router
