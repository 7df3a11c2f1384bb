"""Backups under way: on the operations listener only, for administrators of the cluster."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from services.gateway.api.models import BackupBegin, BackupInfo, BackupList, BackupRenewal
from services.gateway.api.problems import problems
from services.gateway.api.requests import NO_QUERY, described_body, json_body
from services.gateway.api.services import RunningGateway


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["cluster"])

    @router.post(
        "/backups",
        summary="Begin a backup",
        status_code=201,
        responses=problems(400, 401, 403, 409, 413, 503, about="backups"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(BackupBegin),
    )
    async def begin_backup(request: Request) -> BackupInfo:
        """Keeps every chunk that is referenced now until the backup ends or its lease runs out; copies nothing.

        Needs `cluster-admin`.
        """
        begin = await json_body(request, BackupBegin)
        lease = await gateway.services.backups.begin(begin.owner, begin.lease_s)
        return BackupInfo(id=lease.backup_id, owner=begin.owner, log_index=lease.log_index, expires_in_s=lease.lease_s)

    @router.get(
        "/backups",
        summary="List the backups under way",
        responses=problems(400, 401, 403, 503, about="backups"),
        dependencies=[NO_QUERY],
    )
    async def list_backups() -> BackupList:
        """By id, with what is left of their leases. Needs `cluster-admin`."""
        return BackupList.of(await gateway.services.backups.list())

    @router.put(
        "/backups/{backup_id}",
        summary="Renew the lease of a backup",
        responses=problems(400, 401, 403, 404, 413, 503, about="backups"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(BackupRenewal),
    )
    async def renew_backup(request: Request, backup_id: str) -> BackupInfo:
        """404 when it ran out: what is copied from then on may lack chunks. Needs `cluster-admin`."""
        renewal = await json_body(request, BackupRenewal)
        lease = await gateway.services.backups.renew(backup_id, renewal.lease_s)
        return BackupInfo(id=backup_id, owner=None, log_index=lease.log_index, expires_in_s=lease.lease_s)

    @router.delete(
        "/backups/{backup_id}",
        summary="End a backup",
        status_code=204,
        responses=problems(400, 401, 403, 404, 503, about="backups"),
        dependencies=[NO_QUERY],
    )
    async def end_backup(backup_id: str) -> Response:
        """What was kept for it alone may be deleted from now on. Needs `cluster-admin`."""
        await gateway.services.backups.end(backup_id)
        return Response(status_code=204)

    return router
