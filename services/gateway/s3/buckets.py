"""Buckets themselves: list, create, look at, delete."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from services.gateway.access.context import current_access
from services.gateway.s3.answers import send_empty, send_xml
from services.gateway.s3.decisions import count_refusal
from services.gateway.s3.errors import S3Error
from services.gateway.s3.owners import owner_of_all
from services.gateway.s3.request_documents import read_document
from services.gateway.s3.requests import S3Request
from services.gateway.s3.retries import propose_once, retry_key
from services.gateway.s3.xml_documents import document, element, group, iso_time, text_of
from services.gateway.semantics.raw_names import FileName
from shared.contracts.access import ANONYMOUS, Action
from shared.contracts.metadata import LIST_LIMIT_MAX, Bucket, CreateBucket, DeleteBucket, GetBucket, ListBuckets
from shared.contracts.names import check_bucket_name
from shared.errors import (
    BucketNotFoundError,
    InvalidNameError,
)

MAX_BUCKETS: Final = 10_000
DEFAULT_REGION: Final = "us-east-1"
"""Which has no name in a LocationConstraint."""

_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_RESERVED: Final = re.compile(r"(?:xn--|sthree-|amzn-s3-demo-).*|.*(?:-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)")


async def list_buckets(request: S3Request) -> None:
    """Those in which the caller may do something, by name."""
    context = current_access()
    if context.principal.id == ANONYMOUS:
        error = context.refusal(Action.LIST)
        count_refusal(request, error, FileName("", ""))
        raise error
    limit, prefix = _max_buckets(request.target.value("max-buckets")), request.target.value("prefix") or ""
    token = request.target.value("continuation-token")
    after = _before(prefix) if not token else _opened(token)
    is_elsewhere = request.target.value("bucket-region") not in {None, "", request.rules.region}
    found, has_more = ([], False) if is_elsewhere else await _buckets(request, prefix, after, limit)
    rows = (
        group(
            "Bucket",
            (
                element("Name", bucket.name),
                element("CreationDate", iso_time(bucket.created_ns)),
                element("BucketRegion", request.rules.region),
            ),
        )
        for bucket in found
    )
    children = [owner_of_all(request.services).xml(), group("Buckets", rows)]
    if has_more:
        children.append(element("ContinuationToken", _sealed(found[-1].name)))
    if prefix:
        children.append(element("Prefix", prefix))
    await send_xml(request, document("ListAllMyBucketsResult", children))


async def _buckets(request: S3Request, prefix: str, after: str | None, limit: int) -> tuple[list[Bucket], bool]:
    """The first `limit` whose names begin with `prefix` and come after `after`, and whether there are more."""
    found: list[Bucket] = []
    while True:
        wanted = min(LIST_LIMIT_MAX, limit + 1 - len(found))
        answer, _ = await request.services.metadata.read(ListBuckets(limit=wanted, after=after))
        among = [bucket for bucket in answer.buckets if bucket.name.startswith(prefix)]
        found += among
        if len(found) > limit:
            return found[:limit], True
        if not answer.has_more or len(among) < len(answer.buckets):
            return found, False
        after = answer.buckets[-1].name


def _max_buckets(value: str | None) -> int:
    if value is None:
        return MAX_BUCKETS
    if not _NUMBER.fullmatch(value) or not 1 <= int(value) <= MAX_BUCKETS:
        raise S3Error(
            "InvalidArgument", f"max-buckets is a number from 1 to {MAX_BUCKETS}.", ArgumentName="max-buckets"
        )
    return int(value)


def _before(prefix: str) -> str | None:
    """Behind every name that comes before those that begin with `prefix`: no name has a tilde, and all are ASCII."""
    if not prefix.isascii():
        return "~"
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + "~" if prefix and prefix[-1] > "\0" else None


def _sealed(name: str) -> str:
    return urlsafe_b64encode(name.encode()).decode()


def _opened(token: str) -> str:
    try:
        return check_bucket_name(urlsafe_b64decode(token.encode()).decode())
    except (binascii.Error, UnicodeDecodeError, InvalidNameError) as error:
        raise S3Error(
            "InvalidArgument", "The continuation token provided is incorrect", ArgumentName="continuation-token"
        ) from error


async def create_bucket(request: S3Request) -> None:
    """A bucket that is there already is 409: the caller's own, since nobody else gets as far as here."""
    if _RESERVED.fullmatch(request.bucket):
        raise S3Error("InvalidBucketName", "The specified bucket is not valid.", BucketName=request.bucket)
    await _check_configuration(request)
    command = CreateBucket(bucket=request.bucket, stamp=request.services.clock.stamp())
    if not (await propose_once(request, command, retry_key(request))).created:
        raise S3Error(
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            BucketName=request.bucket,
        )
    await send_empty(request, 200, {"location": f"/{request.bucket}"})


async def _check_configuration(request: S3Request) -> None:
    configuration = await read_document(request, "CreateBucketConfiguration", is_optional=True)
    if configuration is None:
        return
    if any(child.tag != "LocationConstraint" for child in configuration):
        raise S3Error("NotImplemented", "Of a bucket's configuration, only LocationConstraint can be given here.")
    location = text_of(configuration, "LocationConstraint") or DEFAULT_REGION
    if location != request.rules.region:
        raise S3Error(
            "InvalidLocationConstraint",
            "The specified location-constraint is not valid",
            LocationConstraint=location[:100],
        )


async def head_bucket(request: S3Request) -> None:
    """Whether it is there, for those who may do something in it."""
    await require_bucket(request)
    await send_empty(request)


async def require_bucket(request: S3Request) -> Bucket:
    """The bucket of the request.

    Raises:
        BucketNotFoundError: there is none.
        AccessDeniedError: the caller may do nothing in it.
    """
    answer, _ = await request.services.metadata.read(GetBucket(bucket=request.bucket))
    if answer.bucket is None:
        raise BucketNotFoundError("There is no such bucket.", bucket=request.bucket)
    return answer.bucket


async def delete_bucket(request: S3Request) -> None:
    """409 while any version or delete marker is in it. Uploads under way do not count: they are aborted with it."""
    command = DeleteBucket(bucket=request.bucket, aborts_uploads=True, stamp=request.services.clock.stamp())
    await propose_once(request, command, retry_key(request))
    await send_empty(request, 204)
