"""What a bucket is set to, as S3 asks for it: what can be set here, and the documented answer of everything that cannot.

Tools read a dozen of these of every new bucket, and an error that S3 does not know for "there is none" ends them.
"""

from __future__ import annotations

from typing import Final

from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.buckets import DEFAULT_REGION, require_bucket
from services.gateway.s3.errors import S3Error
from services.gateway.s3.request_documents import read_document
from services.gateway.s3.requests import Handler, S3Request
from services.gateway.s3.retries import propose_once, retry_key
from services.gateway.s3.tag_sets import bucket_tags_of, tag_pairs, tagging_document
from services.gateway.s3.xml_documents import document, element, malformed, text_of
from shared.contracts.objects import DOCUMENT_BYTES_MAX, DeleteBucketDocument, GetBucketDocument, PutBucketDocument
from shared.errors import BucketNotFoundError

_TAGGING: Final = "tagging"


async def get_location(request: S3Request) -> None:
    """The region; the first of all regions has no name here."""
    await require_bucket(request)
    region = "" if request.rules.region == DEFAULT_REGION else request.rules.region
    await send_xml(request, document("LocationConstraint", (region,)))


async def get_versioning(request: S3Request) -> None:
    """Nothing before it was first set."""
    kept = (await request.services.bucket_settings.read(request.bucket)).settings.versioning
    status = () if kept == "off" else (element("Status", kept.capitalize()),)
    await send_xml(request, document("VersioningConfiguration", status))


async def put_versioning(request: S3Request) -> None:
    """Enabled or Suspended."""
    asked = await read_document(request, "VersioningConfiguration")
    if "x-amz-mfa" in request.headers or (text_of(asked, "MfaDelete") or "Disabled") != "Disabled":
        raise S3Error("NotImplemented", "MFA delete is not offered here.")
    status = text_of(asked, "Status")
    if status is None:
        raise S3Error("IllegalVersioningConfigurationException", "The Versioning element must be specified")
    settings = request.services.bucket_settings
    before = (await settings.read(request.bucket)).settings
    if status == "Enabled":
        after = before.model_copy(update={"versioning": "enabled"})
    elif status == "Suspended":
        after = before.model_copy(update={"versioning": "suspended"})
    else:
        raise malformed()
    if after != before:
        await settings.put(request.bucket, after, retry_key(request, status))
    await send_empty(request)


async def get_tagging(request: S3Request) -> None:
    """The tags of the bucket itself."""
    answer, _ = await request.services.metadata.read(GetBucketDocument(bucket=request.bucket, kind_name=_TAGGING))
    if not answer.has_bucket:
        raise BucketNotFoundError("There is no such bucket.", bucket=request.bucket)
    if answer.body is None:
        raise S3Error("NoSuchTagSet", "The TagSet does not exist", BucketName=request.bucket)
    await send_xml(request, answer.body)


async def put_tagging(request: S3Request) -> None:
    """All tags are replaced."""
    body = tagging_document(bucket_tags_of(tag_pairs(await read_document(request, "Tagging"))))
    if len(body) > DOCUMENT_BYTES_MAX:
        raise S3Error("InvalidTag", f"The tags of a bucket have at most {DOCUMENT_BYTES_MAX} bytes as XML.")
    stamp = request.services.clock.stamp()
    command = PutBucketDocument(bucket=request.bucket, kind_name=_TAGGING, body=body, stamp=stamp)
    await propose_once(request, command, retry_key(request, body.decode()))
    await send_empty(request, 204)


async def delete_tagging(request: S3Request) -> None:
    """Also where there are none."""
    command = DeleteBucketDocument(bucket=request.bucket, kind_name=_TAGGING, stamp=request.services.clock.stamp())
    await propose_once(request, command, retry_key(request))
    await send_empty(request, 204)


async def put_request_payment(request: S3Request) -> None:
    """Whoever asks pays nothing: it can only be set to what it is."""
    payer = text_of(await read_document(request, "RequestPaymentConfiguration"), "Payer")
    if payer == "Requester":
        raise S3Error("NotImplemented", "Requester pays is not offered here.")
    if payer != "BucketOwner":
        raise malformed()
    await require_bucket(request)
    await send_empty(request)


def nothing(code: str, message: str) -> Handler:
    """Answers that a bucket has no such document."""

    async def answer(request: S3Request) -> None:
        await require_bucket(request)
        raise S3Error(code, message, BucketName=request.bucket)

    return answer


def always(name: str, *children: str) -> Handler:
    """Answers with the same document for every bucket."""
    body = document(name, children)

    async def answer(request: S3Request) -> None:
        await require_bucket(request)
        await send_xml(request, body)

    return answer


async def cleared(request: S3Request) -> None:
    """There was none, and there is none."""
    await require_bucket(request)
    await send_empty(request, 204)
