"""Every operation of S3 that is known here: how a request is told to be one, what it needs, and who answers it.

The one place that knows them. An operation without a handler is answered 501 `NotImplemented`. `docs/s3.md` is made from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.gateway.s3 import (
    acls,
    bucket_documents,
    buckets,
    copies,
    cors,
    lists,
    multipart,
    object_attributes,
    object_deletes,
    object_tags,
    objects,
    post_forms,
)
from services.gateway.s3.bucket_documents import always, cleared, nothing
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import Handler, RequestTarget
from services.gateway.s3.xml_documents import element
from shared.contracts.access import Action

Level = Literal["service", "bucket", "object"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row.

    Attributes:
        name: as S3's documentation and its error messages have it, such as `PutObject`.
        iam_action: such as `s3:PutObject`; what policies will name.
        action: what the caller needs on what the target names; None where the commands and queries decide.
        subresource: the parameter of the query that picks it, such as `uploads`; None for the plain one.
        needs: further parameters or headers (`x-amz-...`) without which it is another operation, such as `x-amz-copy-source`.
        takes_body: bytes are read; all others refuse to wait for any.
        is_open: answered without looking at credentials.
        has_form: the body is a form, whose fields say who asks and what for.
        note: what of it is not as S3 has it, in the reference.
    """

    name: str
    iam_action: str
    method: str
    level: Level
    action: Action | None = None
    subresource: str | None = None
    needs: tuple[str, ...] = ()
    takes_body: bool = False
    is_open: bool = False
    has_form: bool = False
    handler: Handler | None = None
    note: str = ""


_LEVELS: Final[Mapping[str, Level]] = {"/": "service", "/bucket": "bucket", "/bucket/key": "object"}


def _row(
    name: str,
    request: str,
    action: Action | None = None,
    handler: Handler | None = None,
    *,
    iam: str | None = None,
    takes_body: bool | None = None,
    is_open: bool = False,
    has_form: bool = False,
    note: str = "",
) -> Operation:
    """A row of the table.

    Args:
        request: method, path, query and headers, as in `PUT /bucket/key?uploadId&partNumber x-amz-copy-source`; the first
            parameter of the query is the sub-resource.
        iam: the IAM action, where it is not `s3:` and the name.
        takes_body: a PUT and a POST do, where it is not said.
    """
    method, target, *headers = request.split()
    path, _, query = target.partition("?")
    subresource, *parameters = query.split("&")
    return Operation(
        name,
        f"s3:{name}" if iam is None else iam,
        method,
        _LEVELS[path],
        action,
        subresource or None,
        needs=(*parameters, *headers),
        takes_body=method in {"PUT", "POST"} if takes_body is None else takes_body,
        is_open=is_open,
        has_form=has_form,
        handler=handler,
        note=note,
    )


_ADMIN: Final = Action.BUCKET_ADMIN
_ABSENT: Final = "there is none: 404"
_CLEARED: Final = "there is none: 204"
_PAYMENT: Final = always("RequestPaymentConfiguration", element("Payer", "BucketOwner"))
_NO_POLICY: Final = nothing("NoSuchBucketPolicy", "The bucket policy does not exist")
_NO_PUBLIC_ACCESS_BLOCK: Final = nothing(
    "NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found"
)
_NO_OWNERSHIP_CONTROLS: Final = nothing(
    "OwnershipControlsNotFoundError", "The bucket ownership controls were not found"
)
_NO_ENCRYPTION: Final = nothing(
    "ServerSideEncryptionConfigurationNotFoundError", "The server side encryption configuration was not found"
)
_NO_LIFECYCLE: Final = nothing("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
_NO_REPLICATION: Final = nothing("ReplicationConfigurationNotFoundError", "The replication configuration was not found")
_NO_WEBSITE: Final = nothing("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration")
_NO_OBJECT_LOCK: Final = nothing(
    "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket"
)

OPERATIONS: Final[Sequence[Operation]] = (
    # --- service ---
    _row("ListBuckets", "GET /", handler=buckets.list_buckets, iam="s3:ListAllMyBuckets"),
    _row("AssumeRole", "POST /", iam="sts:AssumeRole", note="nor any other operation of STS and IAM"),
    # --- buckets ---
    _row(
        "CreateBucket",
        "PUT /bucket",
        _ADMIN,
        buckets.create_bucket,
        note="without ACL, ownership, object lock and tags",
    ),
    _row("HeadBucket", "HEAD /bucket", handler=buckets.head_bucket, iam="s3:ListBucket"),
    _row(
        "DeleteBucket",
        "DELETE /bucket",
        _ADMIN,
        buckets.delete_bucket,
        note="up to 250 uploads under way are aborted with it; with more, or any version, 409",
    ),
    _row("GetBucketLocation", "GET /bucket?location", handler=bucket_documents.get_location),
    _row("GetBucketVersioning", "GET /bucket?versioning", _ADMIN, bucket_documents.get_versioning),
    _row(
        "PutBucketVersioning",
        "PUT /bucket?versioning",
        _ADMIN,
        bucket_documents.put_versioning,
        note="without MFA delete",
    ),
    _row("GetBucketRequestPayment", "GET /bucket?requestPayment", _ADMIN, _PAYMENT, note="always `BucketOwner`"),
    _row(
        "PutBucketRequestPayment",
        "PUT /bucket?requestPayment",
        _ADMIN,
        bucket_documents.put_request_payment,
        note="`BucketOwner` alone",
    ),
    _row(
        "GetBucketAccelerateConfiguration",
        "GET /bucket?accelerate",
        _ADMIN,
        always("AccelerateConfiguration"),
        iam="s3:GetAccelerateConfiguration",
        note="always empty",
    ),
    _row("PutBucketAccelerateConfiguration", "PUT /bucket?accelerate", _ADMIN, iam="s3:PutAccelerateConfiguration"),
    # --- lists ---
    _row("ListObjects", "GET /bucket", Action.LIST, lists.list_objects, iam="s3:ListBucket"),
    _row("ListObjectsV2", "GET /bucket?list-type", Action.LIST, lists.list_objects_v2, iam="s3:ListBucket"),
    _row(
        "ListObjectVersions",
        "GET /bucket?versions",
        Action.LIST,
        lists.list_object_versions,
        iam="s3:ListBucketVersions",
    ),
    _row(
        "ListMultipartUploads",
        "GET /bucket?uploads",
        Action.LIST,
        lists.list_multipart_uploads,
        iam="s3:ListBucketMultipartUploads",
    ),
    # --- objects ---
    _row("PutObject", "PUT /bucket/key", Action.WRITE, objects.put_object),
    _row(
        "CopyObject",
        "PUT /bucket/key x-amz-copy-source",
        Action.WRITE,
        copies.copy_object,
        iam="s3:PutObject",
        takes_body=False,
        note="up to 5 GiB; no checksum is computed that the source has not",
    ),
    _row("GetObject", "GET /bucket/key", Action.READ, objects.get_object),
    _row("HeadObject", "HEAD /bucket/key", Action.READ, objects.head_object, iam="s3:GetObject"),
    _row(
        "DeleteObject",
        "DELETE /bucket/key",
        Action.DELETE,
        object_deletes.delete_object,
        note="without a marker over a key that is absent",
    ),
    _row(
        "DeleteObjects",
        "POST /bucket?delete",
        Action.DELETE,
        object_deletes.delete_objects,
        iam="s3:DeleteObject",
        note="without markers over keys that are absent",
    ),
    _row("GetObjectAttributes", "GET /bucket/key?attributes", Action.READ, object_attributes.get_object_attributes),
    _row("PostObject", "POST /bucket", Action.WRITE, post_forms.post_object, iam="s3:PutObject", has_form=True),
    # --- multipart uploads ---
    _row(
        "CreateMultipartUpload",
        "POST /bucket/key?uploads",
        Action.WRITE,
        multipart.create_multipart_upload,
        iam="s3:PutObject",
        takes_body=False,
    ),
    _row("UploadPart", "PUT /bucket/key?uploadId&partNumber", Action.WRITE, multipart.upload_part, iam="s3:PutObject"),
    _row(
        "UploadPartCopy",
        "PUT /bucket/key?uploadId&partNumber x-amz-copy-source",
        Action.WRITE,
        copies.upload_part_copy,
        iam="s3:PutObject",
        takes_body=False,
        note="a part that is a range has an ETag that is no MD5, and no checksum",
    ),
    _row(
        "CompleteMultipartUpload",
        "POST /bucket/key?uploadId",
        Action.WRITE,
        multipart.complete_multipart_upload,
        iam="s3:PutObject",
    ),
    _row("AbortMultipartUpload", "DELETE /bucket/key?uploadId", Action.WRITE, multipart.abort_multipart_upload),
    _row("ListParts", "GET /bucket/key?uploadId", Action.WRITE, lists.list_parts, iam="s3:ListMultipartUploadParts"),
    # --- tags ---
    _row("GetObjectTagging", "GET /bucket/key?tagging", Action.READ, object_tags.get_object_tagging),
    _row("PutObjectTagging", "PUT /bucket/key?tagging", Action.WRITE, object_tags.put_object_tagging),
    _row("DeleteObjectTagging", "DELETE /bucket/key?tagging", Action.WRITE, object_tags.delete_object_tagging),
    _row("GetBucketTagging", "GET /bucket?tagging", _ADMIN, bucket_documents.get_tagging),
    _row("PutBucketTagging", "PUT /bucket?tagging", _ADMIN, bucket_documents.put_tagging),
    _row(
        "DeleteBucketTagging",
        "DELETE /bucket?tagging",
        _ADMIN,
        bucket_documents.delete_tagging,
        iam="s3:PutBucketTagging",
    ),
    # --- CORS ---
    _row("PreflightBucket", "OPTIONS /bucket", handler=cors.preflight, iam="", is_open=True),
    _row("PreflightObject", "OPTIONS /bucket/key", handler=cors.preflight, iam="", is_open=True),
    _row("GetBucketCors", "GET /bucket?cors", _ADMIN, cors.get_bucket_cors, iam="s3:GetBucketCORS"),
    _row("PutBucketCors", "PUT /bucket?cors", _ADMIN, cors.put_bucket_cors, iam="s3:PutBucketCORS"),
    _row("DeleteBucketCors", "DELETE /bucket?cors", _ADMIN, cors.delete_bucket_cors, iam="s3:PutBucketCORS"),
    # --- who may do what ---
    _row("GetBucketAcl", "GET /bucket?acl", _ADMIN, acls.get_bucket_acl, note="always the owner's full control"),
    _row("PutBucketAcl", "PUT /bucket?acl", _ADMIN),
    _row(
        "GetObjectAcl", "GET /bucket/key?acl", Action.READ, acls.get_object_acl, note="always the owner's full control"
    ),
    _row("PutObjectAcl", "PUT /bucket/key?acl", Action.WRITE),
    _row("GetBucketPolicy", "GET /bucket?policy", _ADMIN, _NO_POLICY, note=_ABSENT),
    _row("PutBucketPolicy", "PUT /bucket?policy", _ADMIN),
    _row("DeleteBucketPolicy", "DELETE /bucket?policy", _ADMIN, cleared, note=_CLEARED),
    _row("GetBucketPolicyStatus", "GET /bucket?policyStatus", _ADMIN, _NO_POLICY, note=_ABSENT),
    _row(
        "GetPublicAccessBlock",
        "GET /bucket?publicAccessBlock",
        _ADMIN,
        _NO_PUBLIC_ACCESS_BLOCK,
        iam="s3:GetBucketPublicAccessBlock",
        note=_ABSENT,
    ),
    _row("PutPublicAccessBlock", "PUT /bucket?publicAccessBlock", _ADMIN, iam="s3:PutBucketPublicAccessBlock"),
    _row(
        "DeletePublicAccessBlock",
        "DELETE /bucket?publicAccessBlock",
        _ADMIN,
        cleared,
        iam="s3:PutBucketPublicAccessBlock",
        note=_CLEARED,
    ),
    _row("GetBucketOwnershipControls", "GET /bucket?ownershipControls", _ADMIN, _NO_OWNERSHIP_CONTROLS, note=_ABSENT),
    _row("PutBucketOwnershipControls", "PUT /bucket?ownershipControls", _ADMIN),
    _row(
        "DeleteBucketOwnershipControls",
        "DELETE /bucket?ownershipControls",
        _ADMIN,
        cleared,
        iam="s3:PutBucketOwnershipControls",
        note=_CLEARED,
    ),
    # --- encryption, lifecycle, object lock, replication ---
    _row(
        "GetBucketEncryption",
        "GET /bucket?encryption",
        _ADMIN,
        _NO_ENCRYPTION,
        iam="s3:GetEncryptionConfiguration",
        note=_ABSENT,
    ),
    _row("PutBucketEncryption", "PUT /bucket?encryption", _ADMIN, iam="s3:PutEncryptionConfiguration"),
    _row(
        "DeleteBucketEncryption",
        "DELETE /bucket?encryption",
        _ADMIN,
        cleared,
        iam="s3:PutEncryptionConfiguration",
        note=_CLEARED,
    ),
    _row(
        "GetBucketLifecycleConfiguration",
        "GET /bucket?lifecycle",
        _ADMIN,
        _NO_LIFECYCLE,
        iam="s3:GetLifecycleConfiguration",
        note=_ABSENT,
    ),
    _row("PutBucketLifecycleConfiguration", "PUT /bucket?lifecycle", _ADMIN, iam="s3:PutLifecycleConfiguration"),
    _row(
        "DeleteBucketLifecycle",
        "DELETE /bucket?lifecycle",
        _ADMIN,
        cleared,
        iam="s3:PutLifecycleConfiguration",
        note=_CLEARED,
    ),
    _row(
        "GetBucketReplication",
        "GET /bucket?replication",
        _ADMIN,
        _NO_REPLICATION,
        iam="s3:GetReplicationConfiguration",
        note=_ABSENT,
    ),
    _row("PutBucketReplication", "PUT /bucket?replication", _ADMIN, iam="s3:PutReplicationConfiguration"),
    _row(
        "DeleteBucketReplication",
        "DELETE /bucket?replication",
        _ADMIN,
        cleared,
        iam="s3:PutReplicationConfiguration",
        note=_CLEARED,
    ),
    _row("GetBucketWebsite", "GET /bucket?website", _ADMIN, _NO_WEBSITE, note=_ABSENT),
    _row("PutBucketWebsite", "PUT /bucket?website", _ADMIN),
    _row("DeleteBucketWebsite", "DELETE /bucket?website", _ADMIN, cleared, note=_CLEARED),
    _row(
        "GetObjectLockConfiguration",
        "GET /bucket?object-lock",
        _ADMIN,
        _NO_OBJECT_LOCK,
        iam="s3:GetBucketObjectLockConfiguration",
        note=_ABSENT,
    ),
    _row("PutObjectLockConfiguration", "PUT /bucket?object-lock", _ADMIN, iam="s3:PutBucketObjectLockConfiguration"),
    _row("GetObjectRetention", "GET /bucket/key?retention", Action.READ),
    _row("PutObjectRetention", "PUT /bucket/key?retention", Action.WRITE),
    _row("GetObjectLegalHold", "GET /bucket/key?legal-hold", Action.READ),
    _row("PutObjectLegalHold", "PUT /bucket/key?legal-hold", Action.WRITE),
    # --- logging and notification ---
    _row("GetBucketLogging", "GET /bucket?logging", _ADMIN, always("BucketLoggingStatus"), note="always empty"),
    _row("PutBucketLogging", "PUT /bucket?logging", _ADMIN),
    _row(
        "GetBucketNotificationConfiguration",
        "GET /bucket?notification",
        _ADMIN,
        always("NotificationConfiguration"),
        iam="s3:GetBucketNotification",
        note="always empty",
    ),
    _row("PutBucketNotificationConfiguration", "PUT /bucket?notification", _ADMIN, iam="s3:PutBucketNotification"),
    # --- not offered ---
    _row("GetBucketAnalyticsConfiguration", "GET /bucket?analytics", _ADMIN, iam="s3:GetAnalyticsConfiguration"),
    _row("PutBucketAnalyticsConfiguration", "PUT /bucket?analytics", _ADMIN, iam="s3:PutAnalyticsConfiguration"),
    _row("DeleteBucketAnalyticsConfiguration", "DELETE /bucket?analytics", _ADMIN, iam="s3:PutAnalyticsConfiguration"),
    _row(
        "GetBucketIntelligentTieringConfiguration",
        "GET /bucket?intelligent-tiering",
        _ADMIN,
        iam="s3:GetIntelligentTieringConfiguration",
    ),
    _row(
        "PutBucketIntelligentTieringConfiguration",
        "PUT /bucket?intelligent-tiering",
        _ADMIN,
        iam="s3:PutIntelligentTieringConfiguration",
    ),
    _row(
        "DeleteBucketIntelligentTieringConfiguration",
        "DELETE /bucket?intelligent-tiering",
        _ADMIN,
        iam="s3:PutIntelligentTieringConfiguration",
    ),
    _row("GetBucketInventoryConfiguration", "GET /bucket?inventory", _ADMIN, iam="s3:GetInventoryConfiguration"),
    _row("PutBucketInventoryConfiguration", "PUT /bucket?inventory", _ADMIN, iam="s3:PutInventoryConfiguration"),
    _row("DeleteBucketInventoryConfiguration", "DELETE /bucket?inventory", _ADMIN, iam="s3:PutInventoryConfiguration"),
    _row("GetBucketMetricsConfiguration", "GET /bucket?metrics", _ADMIN, iam="s3:GetMetricsConfiguration"),
    _row("PutBucketMetricsConfiguration", "PUT /bucket?metrics", _ADMIN, iam="s3:PutMetricsConfiguration"),
    _row("DeleteBucketMetricsConfiguration", "DELETE /bucket?metrics", _ADMIN, iam="s3:PutMetricsConfiguration"),
    _row(
        "GetBucketAbac",
        "GET /bucket?abac",
        _ADMIN,
        always("AbacStatus", element("Status", "Disabled")),
        note="always `Disabled`",
    ),
    _row("PutBucketAbac", "PUT /bucket?abac", _ADMIN),
    _row(
        "GetBucketMetadataConfiguration",
        "GET /bucket?metadataConfiguration",
        _ADMIN,
        iam="s3:GetBucketMetadataTableConfiguration",
    ),
    _row(
        "CreateBucketMetadataConfiguration",
        "POST /bucket?metadataConfiguration",
        _ADMIN,
        iam="s3:CreateBucketMetadataTableConfiguration",
    ),
    _row("GetBucketMetadataTableConfiguration", "GET /bucket?metadataTable", _ADMIN),
    _row("CreateBucketMetadataTableConfiguration", "POST /bucket?metadataTable", _ADMIN),
    _row("CreateSession", "GET /bucket?session", Action.READ, iam="s3express:CreateSession"),
    _row("RenameObject", "PUT /bucket/key?renameObject", Action.WRITE, takes_body=False),
    _row("RestoreObject", "POST /bucket/key?restore", Action.WRITE),
    _row("SelectObjectContent", "POST /bucket/key?select", Action.READ, iam="s3:GetObject"),
    _row("GetObjectTorrent", "GET /bucket/key?torrent", Action.READ),
)

SUBRESOURCES: Final = frozenset(row.subresource for row in OPERATIONS if row.subresource is not None)
"""What of a query is never ignored: a request that names one is that operation or none."""


def _rows() -> Mapping[tuple[str, Level, str | None], Sequence[Operation]]:
    """By method, level and sub-resource; of several the one that needs most is first."""
    rows: defaultdict[tuple[str, Level, str | None], list[Operation]] = defaultdict(list)
    for row in OPERATIONS:
        rows[row.method, row.level, row.subresource].append(row)
    return {key: sorted(found, key=lambda row: -len(row.needs)) for key, found in rows.items()}


_ROWS: Final = _rows()


def find(method: str, target: RequestTarget, headers: Mapping[str, str]) -> Operation:
    """The operation of a request. `headers` by lower-case names.

    Raises:
        S3Error: MethodNotAllowed, or InvalidArgument where the query names two operations or lacks what one needs.
    """
    level: Level = "object" if target.key else "bucket" if target.bucket else "service"
    subresource = _subresource(target) if target.query else None
    for row in _ROWS.get((method, level, subresource), ()):
        if all(name in (headers if name.startswith("x-amz-") else target) for name in row.needs):
            return row
    if (method, level, subresource) in _ROWS:
        raise S3Error(
            "InvalidArgument", "The query lacks a parameter of this operation.", ArgumentName=subresource or ""
        )
    allowed = sorted({row.method for row in OPERATIONS if (row.level, row.subresource) == (level, subresource)})
    raise S3Error(
        "MethodNotAllowed",
        "The specified method is not allowed against this resource.",
        headers={"allow": ", ".join(allowed)},
        Method=method[:32],
    )


def _subresource(target: RequestTarget) -> str | None:
    named = {name for name, _ in target.query if name in SUBRESOURCES}
    if len(named) > 1:
        conflicting = ", ".join(sorted(named))
        raise S3Error(
            "InvalidArgument", f"Conflicting query string parameters: {conflicting}", ArgumentName="ResourceType"
        )
    return named.pop() if named else None
