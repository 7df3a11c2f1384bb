"""Identities and their access keys: on the operations listener, for whoever may administer the cluster."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from services.gateway.access.context import current_access
from services.gateway.api.identity_models import (
    CallerInfo,
    IdentityChange,
    IdentityDetails,
    IdentityInfo,
    IdentityList,
    IdentityRequest,
    KeyChange,
    KeyCreated,
    KeyInfo,
    KeyList,
    KeyRequest,
    unix_ns,
)
from services.gateway.api.problems import problems
from services.gateway.api.requests import NO_QUERY, described_body, json_body, refuse_query
from services.gateway.api.services import RunningGateway
from services.gateway.listings import IDENTITIES_QUERY
from services.gateway.semantics.parameters import described

_IDENTITY: Final = "/identities/{identity}"
_KEYS: Final = "/identities/{identity}/keys"
_KEY: Final = "/keys/{key}"
_NO_STORE: Final = {"Cache-Control": "no-store"}


def create_caller_router(gateway: RunningGateway) -> APIRouter:  # noqa: ARG001 as of the others
    """Who asks: on both listeners."""
    router = APIRouter(prefix="/v1", tags=["identities"])

    @router.get(
        "/identity", summary="Say who this request is made by", responses=problems(400, 401, about="identities")
    )
    async def get_caller(request: Request) -> CallerInfo:
        """The identity of the credential, and what it may do as this gateway knows it."""
        refuse_query(request.scope)
        return CallerInfo.of(current_access().principal)

    return router


def create_router(gateway: RunningGateway) -> APIRouter:
    """The routes over one gateway."""
    router = APIRouter(prefix="/v1", tags=["identities"])
    _add_identities(router, gateway)
    _add_keys(router, gateway)
    return router


def _add_identities(router: APIRouter, gateway: RunningGateway) -> None:
    @router.post(
        "/identities",
        summary="Create an identity",
        status_code=201,
        responses=problems(400, 401, 403, 409, 413, 503, about="identities"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(IdentityRequest),
    )
    async def create_identity(request: Request) -> IdentityInfo:
        """It may do what its scopes say, once it has a key."""
        asked = await json_body(request, IdentityRequest)
        identities = gateway.services.identities
        return IdentityInfo.of(
            await identities.create(asked.name, is_root=asked.is_root, scopes=asked.scopes, limits=asked.limits)
        )

    @router.get(
        "/identities",
        summary="List identities",
        responses=problems(400, 401, 403, 410, 503, about="identities"),
        openapi_extra=described(IDENTITIES_QUERY),
    )
    async def list_identities(request: Request) -> IdentityList:
        """One page, by id. Later pages show the identities as they are by then."""
        values = IDENTITIES_QUERY.values(request.scope["query_string"])
        return IdentityList.of(await gateway.services.listings.identities(values))

    @router.get(
        _IDENTITY,
        summary="Describe an identity and its keys",
        responses=problems(400, 401, 403, 404, 503, about="identities"),
        dependencies=[NO_QUERY],
    )
    async def get_identity(identity: str) -> IdentityDetails:
        """No secret is shown."""
        identities = gateway.services.identities
        found = await identities.get(identity)
        return IdentityDetails.with_keys(found, await identities.usage(identity))

    @router.patch(
        _IDENTITY,
        summary="Change an identity",
        responses=problems(400, 401, 403, 404, 409, 413, 503, about="identities"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(IdentityChange),
    )
    async def change_identity(request: Request, identity: str) -> IdentityDetails:
        """From the answer on, no gateway does anything for it that it may not do any more; a change under way is refused.

        409 when nobody could administer the cluster any more.
        """
        asked = await json_body(request, IdentityChange)
        changed = await gateway.services.identities.update(
            identity, name=asked.name, state=asked.state, scopes=asked.scopes, limits=asked.limits
        )
        return IdentityDetails.with_keys(changed)

    @router.delete(
        _IDENTITY,
        summary="Delete an identity and its keys",
        status_code=204,
        responses=problems(400, 401, 403, 404, 409, 503, about="identities"),
        dependencies=[NO_QUERY],
    )
    async def delete_identity(identity: str) -> Response:
        """Its files stay. 409 when nobody could administer the cluster any more."""
        await gateway.services.identities.delete(identity)
        return Response(status_code=204)


def _add_keys(router: APIRouter, gateway: RunningGateway) -> None:
    @router.post(
        _KEYS,
        summary="Create an access key",
        status_code=201,
        responses=problems(400, 401, 403, 404, 409, 413, 503, about="keys"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(KeyRequest),
    )
    async def create_key(request: Request, response: Response, identity: str) -> KeyCreated:
        """The secret is in this answer, and never again in any. To replace a key, make a second one, then delete the first."""
        asked = await json_body(request, KeyRequest)
        created = await gateway.services.identities.create_key(
            identity, expires_ns=None if asked.expires is None else unix_ns(asked.expires), imported=asked.imported
        )
        response.headers.update(_NO_STORE)
        return KeyCreated.with_secret(created)

    @router.get(
        _KEYS,
        summary="List the access keys of an identity",
        responses=problems(400, 401, 403, 404, 503, about="keys"),
        dependencies=[NO_QUERY],
    )
    async def list_keys(identity: str) -> KeyList:
        """At most five, by id. No secret is shown."""
        found = await gateway.services.identities.get(identity)
        return KeyList(keys=[KeyInfo.of(key) for key in found.keys])

    @router.get(
        _KEY,
        summary="Describe an access key",
        responses=problems(400, 401, 403, 404, 503, about="keys"),
        dependencies=[NO_QUERY],
    )
    async def get_key(key: str) -> KeyInfo:
        """The secret is not shown."""
        return KeyInfo.of(await gateway.services.identities.get_key(key))

    @router.patch(
        _KEY,
        summary="Disable an access key, or change when it expires",
        responses=problems(400, 401, 403, 404, 409, 413, 503, about="keys"),
        dependencies=[NO_QUERY],
        openapi_extra=described_body(KeyChange),
    )
    async def change_key(request: Request, key: str) -> KeyInfo:
        """From the answer on, a disabled key opens nothing at any gateway. 409 for the last one that administers the cluster."""
        asked = await json_body(request, KeyChange)
        identities = gateway.services.identities
        return KeyInfo.of(await identities.update_key(key, state=asked.state, expires_ns=asked.expires_ns))

    @router.delete(
        _KEY,
        summary="Delete an access key",
        status_code=204,
        responses=problems(400, 401, 403, 404, 409, 503, about="keys"),
        dependencies=[NO_QUERY],
    )
    async def delete_key(key: str) -> Response:
        """It opens nothing any more, at no gateway. 409 for the last one that administers the cluster."""
        await gateway.services.identities.delete_key(key)
        return Response(status_code=204)
