"""ACLs as they are read. What anybody but the owner may do is said by the scopes of keys, which are no part of a bucket."""

from __future__ import annotations

from typing import Final

from services.gateway.s3.answers import send_xml
from services.gateway.s3.buckets import require_bucket
from services.gateway.s3.object_versions import asked_version, name_of, refuse
from services.gateway.s3.owners import owner_of_all
from services.gateway.s3.requests import S3Request
from services.gateway.s3.xml_documents import document, element, group
from shared.errors import TrivetError

_XSI: Final = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


async def get_bucket_acl(request: S3Request) -> None:
    """The owner may do everything."""
    await require_bucket(request)
    await send_xml(request, _owner_alone(request))


async def get_object_acl(request: S3Request) -> None:
    """As that of the bucket, where there is such an object."""
    try:
        await request.services.tags.read(name_of(request), asked_version(request))
    except TrivetError as error:
        await refuse(request, error)
    await send_xml(request, _owner_alone(request))


def _owner_alone(request: S3Request) -> bytes:
    owner = owner_of_all(request.services)
    grantee = "".join((element("ID", owner.id), element("DisplayName", owner.display_name)))
    grant = (f'<Grantee {_XSI} xsi:type="CanonicalUser">{grantee}</Grantee>', element("Permission", "FULL_CONTROL"))
    return document("AccessControlPolicy", (owner.xml(), group("AccessControlList", (group("Grant", grant),))))
