"""Problem documents of the public port: the headers that belong to some of them, and how OpenAPI describes them."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import FastAPI, Request, Response
from starlette.types import Scope

from services.gateway.api.requests import recorded_version
from services.gateway.semantics.parameters import answer_header
from shared.errors import (
    AccessDeniedError,
    BackupNotFoundError,
    BackupPinsVersionsError,
    BucketNotEmptyError,
    BucketNotFoundError,
    BucketProtectedError,
    BucketRecreatedError,
    CopyOntoItselfError,
    CredentialInvalidError,
    CursorExpiredError,
    DataUnavailableError,
    DigestMismatchError,
    DiskFullError,
    DrainInProgressError,
    FileNotFoundInBucketError,
    ForeignOriginError,
    IdempotencyKeyReusedError,
    IdentityNotFoundError,
    InternalError,
    InvalidNameError,
    InvalidPartError,
    InvalidPartOrderError,
    InvalidRequestError,
    InvalidTagsError,
    KeyExistsError,
    KeyNotFoundError,
    LastHolderError,
    LastRootKeyError,
    LeaderUnavailableError,
    MethodNotAllowedError,
    MisdirectedRequestError,
    NodeNotFoundError,
    NodeNotLostError,
    NotFoundError,
    OutcomeUnknownError,
    OverloadedError,
    PartTooSmallError,
    PayloadTooLargeError,
    PlainCredentialError,
    PreconditionFailedError,
    QuorumNotReachedError,
    RangeNotSatisfiableError,
    RequestInProgressError,
    RequestTimeoutError,
    SourceIsMarkerError,
    TooFewNodesError,
    TooManyBucketsError,
    TooManyKeysError,
    TrivetError,
    UnauthenticatedError,
    UploadCompletedError,
    UploadNotFoundError,
    VerifyInProgressError,
    VersioningCannotBeOffError,
    VersionNotFoundError,
)
from shared.web.problem_schema import describe_problems, described_problem
from shared.web.service_app import problem_response

Responses = dict[int | str, dict[str, Any]]
Subject = Literal[
    "files",
    "buckets",
    "cluster",
    "nodes",
    "verify",
    "backups",
    "audit",
    "copies",
    "batches",
    "settings",
    "tags",
    "uploads",
    "links",
    "identities",
    "keys",
]

_DESCRIPTIONS: Final = {
    400: "A name, header, parameter or body is malformed. Nothing was done.",
    401: "No access key came, or one that opens nothing: it is unknown, wrong, disabled or expired. Nothing was done.",
    403: "The key may not do this, or a page of another origin asked for it. Nothing was done.",
    404: "There is no such bucket, file, version, upload, node, backup, identity or key.",
    405: "The version is a delete marker: it can only be deleted.",
    408: "The body came too slowly or broke off. Nothing was stored.",
    409: "The state of the bucket or cluster forbids this now, or a duplicate of this request is still running.",
    410: "The cursor is too old; list again from the start.",
    412: "If-Match, If-None-Match or If-Unmodified-Since does not hold. Nothing was done.",
    413: "The body is larger than this cluster takes.",
    416: "No byte of the requested range exists, or the ranges are too many or ask for more bytes than the file has.",
    421: "The Host header names another server than this one. Nothing was done.",
    422: "The Idempotency-Key was used for a different request. Nothing was done.",
    500: "A defect of ours.",
    503: "A quorum, the leader or a budget is missing now; see Retry-After. `definite` says whether nothing happened.",
    507: "The storage nodes are full.",
}

_EXAMPLES: Final[dict[int, list[TrivetError]]] = {
    400: [
        InvalidRequestError("limit is a number from 1 to 1000.", parameter="limit"),
        InvalidNameError("A key has 1-1024 bytes of UTF-8.", key_bytes=1025),
        InvalidTagsError("A version has at most 10 tags.", tags=11),
        SourceIsMarkerError("This version is a delete marker, which has no bytes.", version=21),
        CopyOntoItselfError("The copy would be what is there already; give it other metadata or tags."),
        InvalidPartError("The upload has no such part.", number=3, has_number=False),
        InvalidPartOrderError("Name the parts in the order of their numbers, each once.", number=2),
        PartTooSmallError(
            "Only the last part of a file may be so small.", number=1, size_bytes=10, minimum_bytes=5_242_880
        ),
        DigestMismatchError(
            "The body does not have the digest of its Content-MD5 header; nothing was stored.", header="Content-MD5"
        ),
    ],
    401: [
        UnauthenticatedError("This call needs an access key."),
        CredentialInvalidError("This access key opens nothing."),
    ],
    403: [
        AccessDeniedError("This key may not do that.", action="write", bucket="photos"),
        PlainCredentialError("A key is shown over TLS alone, so that nobody on the way can read it."),
        ForeignOriginError(
            "A page of another origin may not change anything; those that may are set by TRIVET_CORS_ORIGINS."
        ),
    ],
    404: [
        FileNotFoundInBucketError("There is no such file.", bucket="default", version=17, horizon=0),
        VersionNotFoundError("The file has no such version.", version=17),
        BucketNotFoundError("There is no such bucket.", bucket="photos", version=0),
        NodeNotFoundError("There is no such storage node.", node_id="storage-9"),
        UploadNotFoundError("There is no such upload.", upload_id="0000000000000011-8f14e45fceea167a5a36dedd4bea2543"),
        BackupNotFoundError("No such backup is under way.", backup_id="0f3a9c5be1d27b48"),
        IdentityNotFoundError("There is no such identity.", identity="9c1f0a6d2b8e4c7f" * 4),
        KeyNotFoundError("There is no such access key.", key="TV4Q7PZK2M9D0C8RW1XB"),
    ],
    405: [
        MethodNotAllowedError("This version is a delete marker; it can only be deleted.", version=17, is_marker=True)
    ],
    408: [RequestTimeoutError("The body broke off before its end; nothing was stored.")],
    409: [
        BucketNotEmptyError("The bucket still holds files; delete them first.", bucket="photos"),
        BucketProtectedError("The bucket 'default' always exists.", bucket="default"),
        BucketRecreatedError("The bucket was deleted and made again; start the upload again.", bucket="photos"),
        UploadCompletedError("The upload is completed already, of other parts.", upload=17),
        TooManyBucketsError("There are as many buckets as there may be; delete one first.", limit=10_000),
        VersioningCannotBeOffError("A bucket that kept versions once can be suspended, and not switched off."),
        BackupPinsVersionsError("A backup under way counts on the older versions.", backup_id="0f3a9c5be1d27b48"),
        TooFewNodesError("Fewer nodes would be left than a chunk has replicas.", left=2, needed=3),
        DrainInProgressError("Another storage node drains; one at a time.", node_id="storage-2"),
        NodeNotLostError("The cluster still hears of this node: drain it.", node_id="storage-2", state="active"),
        LastHolderError("No other storage node is live.", node_id="storage-2"),
        VerifyInProgressError("A verify is under way; wait for it, or cancel it.", nodes=["storage-2"]),
        KeyExistsError("There is a key of this id, or there was.", key="TV4Q7PZK2M9D0C8RW1XB"),
        TooManyKeysError("The identity has as many keys as it may have; delete one first.", limit=5),
        LastRootKeyError("This is the last key that may administer the cluster; make another first."),
        RequestInProgressError("A request with this Idempotency-Key is still running.", retry_after_s=1),
    ],
    410: [
        CursorExpiredError("The list is pinned to an index below the horizon; list again from the start.", horizon=900)
    ],
    412: [
        PreconditionFailedError(
            "If-Match did not hold.",
            precondition="If-Match",
            version=17,
            etag="60c0e811737deb00f76b3479be928656",
        )
    ],
    413: [PayloadTooLargeError("The file is larger than this cluster takes.", limit_bytes=31_457_280_000)],
    416: [RangeNotSatisfiableError("No byte of that range exists.", size_bytes=10)],
    421: [
        MisdirectedRequestError(
            "This gateway has no such name as the Host header says; its names are set by TRIVET_PUBLIC_HOSTS."
        )
    ],
    422: [IdempotencyKeyReusedError("This Idempotency-Key was used for a different request; use a new one.")],
    500: [InternalError("A defect of ours; it has been logged.")],
    503: [
        QuorumNotReachedError(
            "1 of the 2 replicas needed were stored.",
            needed=2,
            acknowledged=1,
            outcomes={"storage-2": "peer_unreachable", "storage-3": "disk_full"},
        ),
        LeaderUnavailableError("No consensus leader could be reached."),
        OutcomeUnknownError("The outcome was not learnt in time; repeat under the same Idempotency-Key."),
        OverloadedError("Too many file transfers are under way; try again.", limit=256),
        DataUnavailableError("No good replica of a chunk could be reached."),
    ],
    507: [DiskFullError("The storage nodes are full.", needed=2, acknowledged=0)],
}
"""One of every kind that a client may meet, with its facts."""


_SUBJECTS: Final[dict[type[TrivetError], set[Subject]]] = {
    InvalidNameError: {"files", "buckets", "settings", "copies", "batches", "tags", "uploads"},
    InvalidTagsError: {"copies", "tags", "uploads"},
    IdentityNotFoundError: {"identities", "keys"},
    KeyNotFoundError: {"keys"},
    KeyExistsError: {"keys"},
    TooManyKeysError: {"keys"},
    LastRootKeyError: {"identities", "keys"},
    InvalidPartError: {"uploads"},
    InvalidPartOrderError: {"uploads"},
    PartTooSmallError: {"uploads"},
    UploadNotFoundError: {"uploads"},
    UploadCompletedError: {"uploads"},
    SourceIsMarkerError: {"copies", "tags"},
    CopyOntoItselfError: {"copies"},
    DigestMismatchError: {"files", "uploads"},
    FileNotFoundInBucketError: {"files", "copies", "tags", "uploads"},
    VersionNotFoundError: {"files", "copies", "tags", "uploads"},
    BucketNotFoundError: {"files", "buckets", "settings", "copies", "batches", "tags", "uploads"},
    NodeNotFoundError: {"nodes"},
    BackupNotFoundError: {"backups"},
    TooFewNodesError: {"nodes"},
    DrainInProgressError: {"nodes"},
    NodeNotLostError: {"nodes"},
    LastHolderError: {"nodes"},
    VerifyInProgressError: {"verify"},
    BucketNotEmptyError: {"buckets"},
    BucketProtectedError: {"buckets"},
    TooManyBucketsError: {"buckets"},
    BucketRecreatedError: {"files", "uploads"},
    VersioningCannotBeOffError: {"settings"},
    BackupPinsVersionsError: {"settings"},
    QuorumNotReachedError: {"files", "uploads"},
    OverloadedError: {"files", "uploads", "batches"},
    DataUnavailableError: {"files"},
}
"""Where only some routes raise an error."""

_RETRY_AFTER: Final = {"Retry-After": answer_header("Seconds after which a retry makes sense.", "1")}
_VERSION: Final = {
    "X-Trivet-Version": answer_header("Of an answer about a file: log index that last changed this key.", "17")
}
_MARKER: Final = {"X-Trivet-Delete-Marker": answer_header("`true` where a delete marker is the answer.", "true")}
_HEADERS: Final = {
    401: {"WWW-Authenticate": answer_header("How to authenticate.", 'Bearer realm="trivet"')},
    404: _VERSION
    | _MARKER
    | {
        "X-Trivet-Horizon": answer_header(
            "Of a file that is absent: deletions at or below this log index are forgotten, and X-Trivet-Version is then 0.",
            "900",
        )
    },
    405: {"Allow": answer_header("What can be done with it.", "DELETE"), **_MARKER} | _VERSION,
    409: {
        "Retry-After": answer_header("Of `request_in_progress`: seconds until the first request may have ended.", "1")
    },
    412: _VERSION,
    416: _VERSION | {"Content-Range": answer_header("The size of the file.", "bytes */10")},
    503: _RETRY_AFTER,
}


def problems(*statuses: int, about: Subject) -> Responses:
    """The `responses` of a route that may end in these; `about` says whose errors are shown as examples."""
    return {
        status: described_problem(
            _DESCRIPTIONS[status],
            [error for error in _EXAMPLES[status] if about in _SUBJECTS.get(type(error), {about})],
            _HEADERS.get(status),
        )
        for status in sorted({*statuses, 401, 403, 421, 500})
    }


_ACCESS_KEY: Final = {
    "AccessKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "id.secret",
        "description": "An access key: its id, a dot and its secret, as the file that it was written to has them on one line.",
    }
}


def install(app: FastAPI) -> None:
    """Answer errors with the headers of RFC 9110, and describe them and the credential in OpenAPI as they are."""

    @app.exception_handler(TrivetError)
    async def on_trivet_error(request: Request, error: TrivetError) -> Response:
        return problem_answer(request.scope, error)

    describe_problems(app, {}, security_schemes=_ACCESS_KEY)


def problem_answer(scope: Scope, error: TrivetError) -> Response:
    """The answer to a request that ended in `error`."""
    answer = problem_response(error, scope["raw_path"].decode("latin-1"))
    version = error.facts.get("version", recorded_version(scope))
    if isinstance(version, int):
        answer.headers["x-trivet-version"] = str(version)
    if isinstance(horizon := error.facts.get("horizon"), int) and isinstance(error, NotFoundError):
        answer.headers["x-trivet-horizon"] = str(horizon)
    if error.facts.get("is_marker"):
        answer.headers["x-trivet-delete-marker"] = "true"
        if isinstance(error, MethodNotAllowedError):
            answer.headers["allow"] = "DELETE"
    if isinstance(error, UnauthenticatedError):
        answer.headers["www-authenticate"] = 'Bearer realm="trivet"'
    if isinstance(error, RangeNotSatisfiableError):
        answer.headers["content-range"] = f"bytes */{error.facts.get('size_bytes', 0)}"
    return answer
