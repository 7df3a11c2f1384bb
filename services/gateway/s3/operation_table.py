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
    Operation("ListBuckets", "s3:ListAllMyBuckets", "GET", "service", handler=buckets.list_buckets),
    Operation(
        "AssumeRole",
        "sts:AssumeRole",
        "POST",
        "service",
        takes_body=True,
        note="nor any other operation of STS and IAM",
    ),
    # --- buckets ---
    Operation(
        "CreateBucket",
        "s3:CreateBucket",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        takes_body=True,
        handler=buckets.create_bucket,
        note="without ACL, ownership, object lock and tags",
    ),
    Operation("HeadBucket", "s3:ListBucket", "HEAD", "bucket", handler=buckets.head_bucket),
    Operation(
        "DeleteBucket",
        "s3:DeleteBucket",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        handler=buckets.delete_bucket,
        note="up to 250 uploads under way are aborted with it; with more, or any version, 409",
    ),
    Operation(
        "GetBucketLocation",
        "s3:GetBucketLocation",
        "GET",
        "bucket",
        subresource="location",
        handler=bucket_documents.get_location,
    ),
    Operation(
        "GetBucketVersioning",
        "s3:GetBucketVersioning",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="versioning",
        handler=bucket_documents.get_versioning,
    ),
    Operation(
        "PutBucketVersioning",
        "s3:PutBucketVersioning",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="versioning",
        takes_body=True,
        handler=bucket_documents.put_versioning,
        note="without MFA delete",
    ),
    Operation(
        "GetBucketRequestPayment",
        "s3:GetBucketRequestPayment",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="requestPayment",
        handler=_PAYMENT,
        note="always `BucketOwner`",
    ),
    Operation(
        "PutBucketRequestPayment",
        "s3:PutBucketRequestPayment",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="requestPayment",
        takes_body=True,
        handler=bucket_documents.put_request_payment,
        note="`BucketOwner` alone",
    ),
    Operation(
        "GetBucketAccelerateConfiguration",
        "s3:GetAccelerateConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="accelerate",
        handler=always("AccelerateConfiguration"),
        note="always empty",
    ),
    Operation(
        "PutBucketAccelerateConfiguration",
        "s3:PutAccelerateConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="accelerate",
        takes_body=True,
    ),
    # --- lists ---
    Operation("ListObjects", "s3:ListBucket", "GET", "bucket", Action.LIST, handler=lists.list_objects),
    Operation(
        "ListObjectsV2",
        "s3:ListBucket",
        "GET",
        "bucket",
        Action.LIST,
        subresource="list-type",
        handler=lists.list_objects_v2,
    ),
    Operation(
        "ListObjectVersions",
        "s3:ListBucketVersions",
        "GET",
        "bucket",
        Action.LIST,
        subresource="versions",
        handler=lists.list_object_versions,
    ),
    Operation(
        "ListMultipartUploads",
        "s3:ListBucketMultipartUploads",
        "GET",
        "bucket",
        Action.LIST,
        subresource="uploads",
        handler=lists.list_multipart_uploads,
    ),
    # --- objects ---
    Operation("PutObject", "s3:PutObject", "PUT", "object", Action.WRITE, takes_body=True, handler=objects.put_object),
    Operation(
        "CopyObject",
        "s3:PutObject",
        "PUT",
        "object",
        Action.WRITE,
        needs=("x-amz-copy-source",),
        handler=copies.copy_object,
        note="up to 5 GiB; no checksum is computed that the source has not",
    ),
    Operation("GetObject", "s3:GetObject", "GET", "object", Action.READ, handler=objects.get_object),
    Operation("HeadObject", "s3:GetObject", "HEAD", "object", Action.READ, handler=objects.head_object),
    Operation(
        "DeleteObject", "s3:DeleteObject", "DELETE", "object", Action.DELETE, handler=object_deletes.delete_object
    ),
    Operation(
        "DeleteObjects",
        "s3:DeleteObject",
        "POST",
        "bucket",
        Action.DELETE,
        subresource="delete",
        takes_body=True,
        handler=object_deletes.delete_objects,
    ),
    Operation(
        "GetObjectAttributes",
        "s3:GetObjectAttributes",
        "GET",
        "object",
        Action.READ,
        subresource="attributes",
        handler=object_attributes.get_object_attributes,
    ),
    Operation(
        "PostObject",
        "s3:PutObject",
        "POST",
        "bucket",
        Action.WRITE,
        takes_body=True,
        has_form=True,
        handler=post_forms.post_object,
    ),
    # --- multipart uploads ---
    Operation(
        "CreateMultipartUpload",
        "s3:PutObject",
        "POST",
        "object",
        Action.WRITE,
        subresource="uploads",
        handler=multipart.create_multipart_upload,
    ),
    Operation(
        "UploadPart",
        "s3:PutObject",
        "PUT",
        "object",
        Action.WRITE,
        subresource="uploadId",
        needs=("partNumber",),
        takes_body=True,
        handler=multipart.upload_part,
    ),
    Operation(
        "UploadPartCopy",
        "s3:PutObject",
        "PUT",
        "object",
        Action.WRITE,
        subresource="uploadId",
        needs=(
            "partNumber",
            "x-amz-copy-source",
        ),
        handler=copies.upload_part_copy,
        note="a part that is a range has an ETag that is no MD5, and no checksum",
    ),
    Operation(
        "CompleteMultipartUpload",
        "s3:PutObject",
        "POST",
        "object",
        Action.WRITE,
        subresource="uploadId",
        takes_body=True,
        handler=multipart.complete_multipart_upload,
    ),
    Operation(
        "AbortMultipartUpload",
        "s3:AbortMultipartUpload",
        "DELETE",
        "object",
        Action.WRITE,
        subresource="uploadId",
        handler=multipart.abort_multipart_upload,
    ),
    Operation(
        "ListParts",
        "s3:ListMultipartUploadParts",
        "GET",
        "object",
        Action.WRITE,
        subresource="uploadId",
        handler=lists.list_parts,
    ),
    # --- tags ---
    Operation(
        "GetObjectTagging",
        "s3:GetObjectTagging",
        "GET",
        "object",
        Action.READ,
        subresource="tagging",
        handler=object_tags.get_object_tagging,
    ),
    Operation(
        "PutObjectTagging",
        "s3:PutObjectTagging",
        "PUT",
        "object",
        Action.WRITE,
        subresource="tagging",
        takes_body=True,
        handler=object_tags.put_object_tagging,
    ),
    Operation(
        "DeleteObjectTagging",
        "s3:DeleteObjectTagging",
        "DELETE",
        "object",
        Action.WRITE,
        subresource="tagging",
        handler=object_tags.delete_object_tagging,
    ),
    Operation(
        "GetBucketTagging",
        "s3:GetBucketTagging",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="tagging",
        handler=bucket_documents.get_tagging,
    ),
    Operation(
        "PutBucketTagging",
        "s3:PutBucketTagging",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="tagging",
        takes_body=True,
        handler=bucket_documents.put_tagging,
    ),
    Operation(
        "DeleteBucketTagging",
        "s3:PutBucketTagging",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="tagging",
        handler=bucket_documents.delete_tagging,
    ),
    # --- CORS ---
    Operation("PreflightBucket", "", "OPTIONS", "bucket", is_open=True, handler=cors.preflight),
    Operation("PreflightObject", "", "OPTIONS", "object", is_open=True, handler=cors.preflight),
    Operation(
        "GetBucketCors",
        "s3:GetBucketCORS",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="cors",
        handler=cors.get_bucket_cors,
    ),
    Operation(
        "PutBucketCors",
        "s3:PutBucketCORS",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="cors",
        takes_body=True,
        handler=cors.put_bucket_cors,
    ),
    Operation(
        "DeleteBucketCors",
        "s3:PutBucketCORS",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="cors",
        handler=cors.delete_bucket_cors,
    ),
    # --- who may do what ---
    Operation(
        "GetBucketAcl",
        "s3:GetBucketAcl",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="acl",
        handler=acls.get_bucket_acl,
        note="always the owner's full control",
    ),
    Operation(
        "PutBucketAcl", "s3:PutBucketAcl", "PUT", "bucket", Action.BUCKET_ADMIN, subresource="acl", takes_body=True
    ),
    Operation(
        "GetObjectAcl",
        "s3:GetObjectAcl",
        "GET",
        "object",
        Action.READ,
        subresource="acl",
        handler=acls.get_object_acl,
        note="always the owner's full control",
    ),
    Operation("PutObjectAcl", "s3:PutObjectAcl", "PUT", "object", Action.WRITE, subresource="acl", takes_body=True),
    Operation(
        "GetBucketPolicy",
        "s3:GetBucketPolicy",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="policy",
        handler=_NO_POLICY,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketPolicy",
        "s3:PutBucketPolicy",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="policy",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketPolicy",
        "s3:DeleteBucketPolicy",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="policy",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetBucketPolicyStatus",
        "s3:GetBucketPolicyStatus",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="policyStatus",
        handler=_NO_POLICY,
        note="there is none: 404",
    ),
    Operation(
        "GetPublicAccessBlock",
        "s3:GetBucketPublicAccessBlock",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="publicAccessBlock",
        handler=_NO_PUBLIC_ACCESS_BLOCK,
        note="there is none: 404",
    ),
    Operation(
        "PutPublicAccessBlock",
        "s3:PutBucketPublicAccessBlock",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="publicAccessBlock",
        takes_body=True,
    ),
    Operation(
        "DeletePublicAccessBlock",
        "s3:PutBucketPublicAccessBlock",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="publicAccessBlock",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetBucketOwnershipControls",
        "s3:GetBucketOwnershipControls",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="ownershipControls",
        handler=_NO_OWNERSHIP_CONTROLS,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketOwnershipControls",
        "s3:PutBucketOwnershipControls",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="ownershipControls",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketOwnershipControls",
        "s3:PutBucketOwnershipControls",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="ownershipControls",
        handler=cleared,
        note="there is none: 204",
    ),
    # --- encryption, lifecycle, object lock, replication ---
    Operation(
        "GetBucketEncryption",
        "s3:GetEncryptionConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="encryption",
        handler=_NO_ENCRYPTION,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketEncryption",
        "s3:PutEncryptionConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="encryption",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketEncryption",
        "s3:PutEncryptionConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="encryption",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetBucketLifecycleConfiguration",
        "s3:GetLifecycleConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="lifecycle",
        handler=_NO_LIFECYCLE,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketLifecycleConfiguration",
        "s3:PutLifecycleConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="lifecycle",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketLifecycle",
        "s3:PutLifecycleConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="lifecycle",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetBucketReplication",
        "s3:GetReplicationConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="replication",
        handler=_NO_REPLICATION,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketReplication",
        "s3:PutReplicationConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="replication",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketReplication",
        "s3:PutReplicationConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="replication",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetBucketWebsite",
        "s3:GetBucketWebsite",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="website",
        handler=_NO_WEBSITE,
        note="there is none: 404",
    ),
    Operation(
        "PutBucketWebsite",
        "s3:PutBucketWebsite",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="website",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketWebsite",
        "s3:DeleteBucketWebsite",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="website",
        handler=cleared,
        note="there is none: 204",
    ),
    Operation(
        "GetObjectLockConfiguration",
        "s3:GetBucketObjectLockConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="object-lock",
        handler=_NO_OBJECT_LOCK,
        note="there is none: 404",
    ),
    Operation(
        "PutObjectLockConfiguration",
        "s3:PutBucketObjectLockConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="object-lock",
        takes_body=True,
    ),
    Operation("GetObjectRetention", "s3:GetObjectRetention", "GET", "object", Action.READ, subresource="retention"),
    Operation(
        "PutObjectRetention",
        "s3:PutObjectRetention",
        "PUT",
        "object",
        Action.WRITE,
        subresource="retention",
        takes_body=True,
    ),
    Operation("GetObjectLegalHold", "s3:GetObjectLegalHold", "GET", "object", Action.READ, subresource="legal-hold"),
    Operation(
        "PutObjectLegalHold",
        "s3:PutObjectLegalHold",
        "PUT",
        "object",
        Action.WRITE,
        subresource="legal-hold",
        takes_body=True,
    ),
    # --- logging and notification ---
    Operation(
        "GetBucketLogging",
        "s3:GetBucketLogging",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="logging",
        handler=always("BucketLoggingStatus"),
        note="always empty",
    ),
    Operation(
        "PutBucketLogging",
        "s3:PutBucketLogging",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="logging",
        takes_body=True,
    ),
    Operation(
        "GetBucketNotificationConfiguration",
        "s3:GetBucketNotification",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="notification",
        handler=always("NotificationConfiguration"),
        note="always empty",
    ),
    Operation(
        "PutBucketNotificationConfiguration",
        "s3:PutBucketNotification",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="notification",
        takes_body=True,
    ),
    # --- not offered ---
    Operation(
        "GetBucketAnalyticsConfiguration",
        "s3:GetAnalyticsConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="analytics",
    ),
    Operation(
        "PutBucketAnalyticsConfiguration",
        "s3:PutAnalyticsConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="analytics",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketAnalyticsConfiguration",
        "s3:PutAnalyticsConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="analytics",
    ),
    Operation(
        "GetBucketIntelligentTieringConfiguration",
        "s3:GetIntelligentTieringConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="intelligent-tiering",
    ),
    Operation(
        "PutBucketIntelligentTieringConfiguration",
        "s3:PutIntelligentTieringConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="intelligent-tiering",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketIntelligentTieringConfiguration",
        "s3:PutIntelligentTieringConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="intelligent-tiering",
    ),
    Operation(
        "GetBucketInventoryConfiguration",
        "s3:GetInventoryConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="inventory",
    ),
    Operation(
        "PutBucketInventoryConfiguration",
        "s3:PutInventoryConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="inventory",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketInventoryConfiguration",
        "s3:PutInventoryConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="inventory",
    ),
    Operation(
        "GetBucketMetricsConfiguration",
        "s3:GetMetricsConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metrics",
    ),
    Operation(
        "PutBucketMetricsConfiguration",
        "s3:PutMetricsConfiguration",
        "PUT",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metrics",
        takes_body=True,
    ),
    Operation(
        "DeleteBucketMetricsConfiguration",
        "s3:PutMetricsConfiguration",
        "DELETE",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metrics",
    ),
    Operation(
        "GetBucketAbac",
        "s3:GetBucketAbac",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="abac",
        handler=always("AbacStatus", element("Status", "Disabled")),
        note="always `Disabled`",
    ),
    Operation(
        "PutBucketAbac", "s3:PutBucketAbac", "PUT", "bucket", Action.BUCKET_ADMIN, subresource="abac", takes_body=True
    ),
    Operation(
        "GetBucketMetadataConfiguration",
        "s3:GetBucketMetadataTableConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metadataConfiguration",
    ),
    Operation(
        "CreateBucketMetadataConfiguration",
        "s3:CreateBucketMetadataTableConfiguration",
        "POST",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metadataConfiguration",
        takes_body=True,
    ),
    Operation(
        "GetBucketMetadataTableConfiguration",
        "s3:GetBucketMetadataTableConfiguration",
        "GET",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metadataTable",
    ),
    Operation(
        "CreateBucketMetadataTableConfiguration",
        "s3:CreateBucketMetadataTableConfiguration",
        "POST",
        "bucket",
        Action.BUCKET_ADMIN,
        subresource="metadataTable",
        takes_body=True,
    ),
    Operation("CreateSession", "s3express:CreateSession", "GET", "bucket", Action.READ, subresource="session"),
    Operation("RenameObject", "s3:RenameObject", "PUT", "object", Action.WRITE, subresource="renameObject"),
    Operation(
        "RestoreObject", "s3:RestoreObject", "POST", "object", Action.WRITE, subresource="restore", takes_body=True
    ),
    Operation(
        "SelectObjectContent", "s3:GetObject", "POST", "object", Action.READ, subresource="select", takes_body=True
    ),
    Operation("GetObjectTorrent", "s3:GetObjectTorrent", "GET", "object", Action.READ, subresource="torrent"),
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
