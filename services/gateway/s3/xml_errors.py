"""Errors of Trivet and of S3 as documents that clients of S3 understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import Scope, Send

from services.gateway.api.answers import raw_headers, send_answer
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import RequestTarget
from services.gateway.s3.xml_documents import document, element
from shared.errors import PreconditionFailedError, RangeNotSatisfiableError, TrivetError
from shared.web.request_metrics import problem_counts

_CODES: Final[Mapping[str, str]] = {
    "access_denied": "AccessDenied",
    "backup_pins_versions": "InvalidBucketState",
    "bucket_not_empty": "BucketNotEmpty",
    "bucket_not_found": "NoSuchBucket",
    "bucket_protected": "InvalidBucketState",
    "credential_invalid": "InvalidAccessKeyId",
    "digest_mismatch": "BadDigest",
    "disk_full": "InsufficientStorage",
    "file_not_found": "NoSuchKey",
    "foreign_origin": "AccessForbidden",
    "invalid_name": "InvalidObjectName",
    "invalid_part": "InvalidPart",
    "invalid_part_order": "InvalidPartOrder",
    "invalid_tags": "InvalidTag",
    "method_not_allowed": "MethodNotAllowed",
    "overloaded": "SlowDown",
    "part_too_small": "EntityTooSmall",
    "payload_too_large": "EntityTooLarge",
    "precondition_failed": "PreconditionFailed",
    "quota_exceeded": "QuotaExceeded",
    "range_not_satisfiable": "InvalidRange",
    "request_timeout": "RequestTimeout",
    "too_many_buckets": "TooManyBuckets",
    "too_many_requests": "SlowDown",
    "upload_completed": "NoSuchUpload",
    "upload_not_found": "NoSuchUpload",
    "version_not_found": "NoSuchVersion",
    "versioning_cannot_be_off": "InvalidBucketState",
}
"""By the code of a TrivetError; what is not here goes by its status."""

_BY_STATUS: Final[Mapping[int, str]] = {
    400: "InvalidRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    405: "MethodNotAllowed",
    409: "OperationAborted",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    416: "InvalidRange",
    421: "InvalidRequest",
    422: "InvalidRequest",
    507: "InsufficientStorage",
}

_MESSAGES: Final[Mapping[str, str]] = {
    "AccessDenied": "Access Denied",
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
    "NoSuchBucket": "The specified bucket does not exist",
    "NoSuchKey": "The specified key does not exist.",
    "NoSuchUpload": "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been "
    "aborted or completed.",
    "NoSuchVersion": "The specified version does not exist.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
}
"""Where clients compare the words, too, or ours would speak of `/v1`."""


def s3_error_of(error: TrivetError, target: RequestTarget) -> S3Error:
    """What clients of S3 know `error` as."""
    code = _code_of(error)
    facts: dict[str, str] = {}
    if code in {"NoSuchBucket", "BucketNotEmpty", "InvalidBucketState"} and target.bucket:
        facts["BucketName"] = target.bucket
    elif code == "NoSuchKey":
        facts["Key"] = target.key
    elif isinstance(error, PreconditionFailedError):
        facts["Condition"] = str(error.facts.get("precondition", ""))
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if isinstance(error, RangeNotSatisfiableError):
        size = str(error.facts.get("size_bytes", 0))
        facts["ActualObjectSize"] = size
        headers["content-range"] = f"bytes */{size}"
    if error.facts.get("is_marker"):
        headers["x-amz-delete-marker"] = "true"
        if code == "MethodNotAllowed":
            headers["allow"] = "DELETE"
    return S3Error(code, _MESSAGES.get(code, error.message), headers=headers, **facts)


def _code_of(error: TrivetError) -> str:
    if (code := _CODES.get(error.code)) is not None:
        return code
    if error.status >= 500 and error.status != 507:
        # Whether it happened decides what a client may do: SDKs repeat both, and those who look for themselves can tell.
        return "ServiceUnavailable" if error.status == 503 and error.definite else "InternalError"
    return _BY_STATUS.get(error.status, "InvalidRequest")


async def send_error(scope: Scope, send: Send, error: S3Error, answer_headers: Mapping[str, str]) -> None:
    """Answer with `error`; a HEAD gets its status alone. `answer_headers`: see `S3Request`."""
    problem_counts().labels(f"s3:{error.code}").inc()
    headers = {**answer_headers, **error.headers}
    if scope["method"] == "HEAD":
        await send_answer(send, error.status, raw_headers(headers))
        return
    body = error_document(error, scope["path"], answer_headers["x-amz-request-id"], answer_headers["x-amz-id-2"])
    headers |= {"content-type": "application/xml", "content-length": str(len(body))}
    await send_answer(send, error.status, raw_headers(headers), body)


def error_document(error: S3Error, resource: str, request_id: str, host_id: str) -> bytes:
    """The document; the facts stand where S3 puts them, before the resource."""
    facts = [element("Code", error.code), element("Message", error.message)]
    facts += [element(name, value) for name, value in error.facts.items()]
    facts += [element("Resource", resource), element("RequestId", request_id), element("HostId", host_id)]
    return document("Error", facts, has_namespace=False)
