"""Settings of buckets, and the lists of versions that they keep."""

from __future__ import annotations

from typing import Final, cast, get_args

from fastapi import APIRouter, Request

from services.gateway.api.object_models import SettingsAnswer, SettingsPatch, SettingsRequest, VersionList
from services.gateway.api.problems import problems
from services.gateway.api.requests import described_body, fields_of, json_body, refuse_conditions, refuse_query
from services.gateway.api.services import RunningGateway
from services.gateway.listings import VERSIONS_QUERY
from services.gateway.semantics.parameters import described
from services.gateway.semantics.raw_names import BUCKET, VERSIONS_PREFIX, bucket_name, settings_bucket_name
from services.gateway.transfers.idempotency import IDEMPOTENCY_KEY, IdempotencyKey
from shared.contracts.objects import BucketSettings, SettingName

_SETTINGS: Final = "/buckets/{bucket}/settings"
_VERSIONS: Final = "/versions/{bucket}"
_SETTING_NAMES: Final = cast("tuple[SettingName, ...]", get_args(SettingName))


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["buckets"])

    @router.get(
        _SETTINGS,
        summary="Read the settings of a bucket",
        responses=problems(400, 404, 503, about="buckets"),
        openapi_extra=described(BUCKET),
    )
    async def get_settings(request: Request) -> SettingsAnswer:
        """Those that were never set are shown as they are by default; `usage` says how much there is in the bucket."""
        refuse_query(request.scope)
        bucket = settings_bucket_name(request.scope["raw_path"])
        return SettingsAnswer.of(bucket, await gateway.services.bucket_settings.read(bucket))

    @router.put(
        _SETTINGS,
        summary="Replace the settings of a bucket",
        responses=problems(400, 403, 404, 408, 409, 413, 422, 503, about="settings"),
        openapi_extra=described(BUCKET, IDEMPOTENCY_KEY) | described_body(SettingsRequest),
    )
    async def put_settings(request: Request) -> SettingsAnswer:
        """All of them at once. Versions that were once switched on can be suspended, and never switched off.

        `superseded_retention_s` says for how long a version is kept once it is no longer the current one: null for ever, 0
        not at all. It holds for versions that are kept already, too. `quota_bytes` and `quota_files` say how much there may
        be in the bucket, null for no limit: a change that would end above one is refused (`quota_exceeded`), unless it makes
        what is limited less.
        """
        refuse_query(request.scope)
        fields = fields_of(request.scope)
        refuse_conditions(fields)
        bucket = settings_bucket_name(request.scope["raw_path"])
        asked = await json_body(request, SettingsRequest)
        settings = BucketSettings.model_validate(asked.model_dump())
        key = IdempotencyKey.of(fields, method="PUT settings", bucket=bucket, content=asked.model_dump(mode="json"))
        return SettingsAnswer.of(bucket, await gateway.services.bucket_settings.put(bucket, settings, key))

    @router.patch(
        _SETTINGS,
        summary="Change some settings of a bucket",
        responses=problems(400, 403, 404, 408, 409, 413, 422, 503, about="settings"),
        openapi_extra=described(BUCKET, IDEMPOTENCY_KEY) | described_body(SettingsPatch),
    )
    async def patch_settings(request: Request) -> SettingsAnswer:
        """Those that the body names, in one entry of the log: what others change at the same time stays changed.

        A JSON merge patch (RFC 7396), whatever Content-Type it comes with: null stands for the default, `off` or no limit.
        """
        refuse_query(request.scope)
        fields = fields_of(request.scope)
        refuse_conditions(fields)
        bucket = settings_bucket_name(request.scope["raw_path"])
        asked = await json_body(request, SettingsPatch)
        settings = BucketSettings.model_validate(asked.model_dump(exclude_none=True))
        named = asked.model_dump(mode="json", exclude_unset=True)
        key = IdempotencyKey.of(fields, method="PATCH settings", bucket=bucket, content=named)
        names = [name for name in _SETTING_NAMES if name in named]
        return SettingsAnswer.of(bucket, await gateway.services.bucket_settings.put(bucket, settings, key, names))

    @router.get(
        _VERSIONS,
        summary="List versions",
        responses=problems(400, 404, 410, 503, about="buckets"),
        openapi_extra=described(BUCKET, VERSIONS_QUERY),
    )
    async def list_versions(request: Request) -> VersionList:
        """One page, keys in UTF-8 byte order and the newest version of a key first, delete markers with them.

        Of a bucket that keeps no versions these are the files. Each page shows the bucket as it is by then.
        """
        bucket = bucket_name(request.scope["raw_path"], VERSIONS_PREFIX)
        values = VERSIONS_QUERY.values(request.scope["query_string"])
        return VersionList.of(await gateway.services.listings.versions(bucket, values))

    return router
