"""Every error that a Trivet service can answer with.

    TrivetError
    ├── InvalidRequestError 400
    │   ├── InvalidNameError
    │   ├── InvalidTagsError
    │   ├── SourceIsMarkerError
    │   ├── CopyOntoItselfError
    │   ├── DigestMismatchError
    │   ├── InvalidPartError
    │   ├── InvalidPartOrderError
    │   └── PartTooSmallError
    ├── UnauthenticatedError 401
    │   ├── SignatureRejectedError
    │   ├── CredentialInvalidError
    │   └── LinkExpiredError
    ├── ForbiddenError 403
    │   ├── ForeignOriginError
    │   ├── AccessDeniedError
    │   ├── HeaderNotSignedError
    │   ├── PlainCredentialError
    │   └── QuotaExceededError
    ├── NotFoundError 404
    │   ├── BucketNotFoundError
    │   ├── FileNotFoundInBucketError
    │   ├── ChunkNotFoundError
    │   ├── VersionNotFoundError
    │   ├── NodeNotFoundError
    │   ├── UploadNotFoundError
    │   ├── VersionGoneError
    │   ├── BackupNotFoundError
    │   ├── IdentityNotFoundError
    │   └── KeyNotFoundError
    ├── MethodNotAllowedError 405
    ├── RequestTimeoutError 408
    ├── ConflictError 409
    │   ├── BucketNotEmptyError
    │   ├── BucketProtectedError
    │   ├── BucketRecreatedError
    │   ├── TooManyBucketsError
    │   ├── VersioningCannotBeOffError
    │   ├── BackupPinsVersionsError
    │   ├── PromotionDeferredError
    │   ├── UploadCompletedError
    │   ├── ChunkCondemnedError
    │   ├── NodeRemovedError
    │   ├── NodeReplacedError
    │   ├── NodeDrainingError
    │   ├── DrainInProgressError
    │   ├── TooFewNodesError
    │   ├── RemovalNotProvedError
    │   ├── RunSupersededError
    │   ├── NodeNotLostError
    │   ├── LastHolderError
    │   ├── VerifyInProgressError
    │   ├── RequestInProgressError
    │   ├── AccessChangedError
    │   ├── IdentityExistsError
    │   ├── KeyExistsError
    │   ├── TooManyKeysError
    │   ├── KeySlotTakenError
    │   ├── LastRootKeyError
    │   ├── AccessNotInitialisedError
    │   └── ClusterMismatchError
    ├── CursorExpiredError 410
    ├── PreconditionFailedError 412
    ├── PayloadTooLargeError 413
    ├── RangeNotSatisfiableError 416
    ├── NotLeaderError 421
    ├── MisdirectedRequestError 421
    ├── IdempotencyKeyReusedError 422
    ├── TooManyRequestsError 429
    ├── InternalError 500
    ├── UnavailableError 503
    │   ├── QuorumNotReachedError
    │   ├── LeaderUnavailableError
    │   ├── OutcomeUnknownError
    │   ├── OverloadedError
    │   ├── NotReadyError
    │   ├── UpgradeUnfinishedError
    │   ├── PeerUnreachableError
    │   ├── PeerAnswerInvalidError
    │   ├── ChunkCorruptError
    │   └── DataUnavailableError
    └── DiskFullError 507

`definite` follows Maelstrom: true means the requested change certainly did not happen. A timeout, a leader lost in
mid-proposal or one partial acknowledgement is not definite. Facts are fields of the problem document, never only prose.
Only the HTTP edge (`shared.web.service_app`, `shared.peer_calls.http_client`) speaks status codes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final


class TrivetError(Exception):
    """Base of every error with a meaning on the wire.

    Attributes:
        code: stable machine-readable name, lower snake case.
        status: the HTTP status it is answered with.
        definite: whether the requested change certainly did not happen.
        message: one sentence for people; says what to do next where that is known.
        facts: JSON-serialisable fields that go into the problem document next to the standard ones.
        retry_after_s: whole seconds after which a retry makes sense, or None.
        is_transient: a new attempt of the very same request may succeed at once, because the state that refused this one
            is not the request's to know. Such a refusal is never stored under an Idempotency-Key.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    default_definite: ClassVar[bool] = True
    is_transient: ClassVar[bool] = False

    def __init__(
        self, message: str, *, definite: bool | None = None, retry_after_s: int | None = None, **facts: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.definite = self.default_definite if definite is None else definite
        self.retry_after_s = retry_after_s
        self.facts = facts

    def to_problem(self) -> dict[str, Any]:
        """The RFC 9457 problem document, without `instance`."""
        problem: dict[str, Any] = {
            "type": f"urn:trivet:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "definite": self.definite,
        }
        if self.retry_after_s is not None:
            problem["retry_after_s"] = self.retry_after_s
        return problem | self.facts


class InvalidRequestError(TrivetError):
    """The request is malformed; sending it again changes nothing."""

    code = "invalid_request"
    status = 400


class InvalidNameError(InvalidRequestError):
    """A bucket name, key, node id or digest breaks its rule."""

    code = "invalid_name"


class InvalidTagsError(InvalidRequestError):
    """Too many tags, or one that is too long."""

    code = "invalid_tags"


class SourceIsMarkerError(InvalidRequestError):
    """The version is a delete marker, which has neither bytes nor tags. Fact: `version`."""

    code = "source_is_marker"


class CopyOntoItselfError(InvalidRequestError):
    """The copy would be what is there already; replace its metadata or its tags, or copy an older version."""

    code = "copy_onto_itself"


class DigestMismatchError(InvalidRequestError):
    """The body does not have the digest that was announced for it."""

    code = "digest_mismatch"


class InvalidPartError(InvalidRequestError):
    """An upload has no part of that number and etag."""

    code = "invalid_part"


class InvalidPartOrderError(InvalidRequestError):
    """The parts of a file are named in the order of their numbers, each once."""

    code = "invalid_part_order"


class PartTooSmallError(InvalidRequestError):
    """A part that is not the last one of its file is smaller than parts may be."""

    code = "part_too_small"


class UnauthenticatedError(TrivetError):
    """No usable credential came with the request."""

    code = "unauthenticated"
    status = 401


class SignatureRejectedError(UnauthenticatedError):
    """An internal request's signature is missing, wrong, replayed or meant for somebody else."""

    code = "signature_rejected"


class CredentialInvalidError(UnauthenticatedError):
    """The key does not exist, is disabled or has expired, or its secret or signature is another one."""

    code = "credential_invalid"


class LinkExpiredError(UnauthenticatedError):
    """The link is not valid any more, or its time is not told."""

    code = "link_expired"


class ForbiddenError(TrivetError):
    """The credential does not allow this."""

    code = "forbidden"
    status = 403


class ForeignOriginError(ForbiddenError):
    """A page of another origin asked for a change through somebody's browser."""

    code = "foreign_origin"


class AccessDeniedError(ForbiddenError):
    """The principal may not do this. Facts: `action`, and `bucket` where the request named one."""

    code = "access_denied"


class HeaderNotSignedError(ForbiddenError):
    """A header that changes what is stored or read is not among those that the link names. Fact: `header`."""

    code = "header_not_signed"


class PlainCredentialError(ForbiddenError):
    """A secret came over a connection that others can read; use TLS."""

    code = "plain_credential"


class QuotaExceededError(ForbiddenError):
    """The bucket or the identity would have more bytes or files than it may have. Facts: `limit`, `used`, `needed`, `of`."""

    code = "quota_exceeded"


class NotFoundError(TrivetError):
    """Nothing is known under that name."""

    code = "not_found"
    status = 404


class BucketNotFoundError(NotFoundError):
    """No such bucket."""

    code = "bucket_not_found"


class FileNotFoundInBucketError(NotFoundError):
    """The bucket exists and holds no such key."""

    code = "file_not_found"


class ChunkNotFoundError(NotFoundError):
    """This node does not hold the chunk."""

    code = "chunk_not_found"


class VersionNotFoundError(NotFoundError):
    """The file has no such version; it may have been removed for good. Fact: `version`, the index that last changed the key."""

    code = "version_not_found"


class NodeNotFoundError(NotFoundError):
    """No storage node of that id is known."""

    code = "node_not_found"


class UploadNotFoundError(NotFoundError):
    """No such upload is under way: it never began, was aborted, or expired."""

    code = "upload_not_found"


class VersionGoneError(NotFoundError):
    """The version was removed for good, and its bytes are not kept any more."""

    code = "version_gone"


class BackupNotFoundError(NotFoundError):
    """No such backup is under way, or its lease ran out: what it copied may lack chunks by now. Fact: `backup_id`."""

    code = "backup_not_found"


class IdentityNotFoundError(NotFoundError):
    """There is no such identity. Fact: `identity`."""

    code = "identity_not_found"


class KeyNotFoundError(NotFoundError):
    """There is no such access key. Fact: `key`."""

    code = "key_not_found"


class MethodNotAllowedError(TrivetError):
    """The path is known, the method does not fit it; the Allow header says which do."""

    code = "method_not_allowed"
    status = 405


class RequestTimeoutError(TrivetError):
    """The client was too slow; what it asked for was not done, or not to the end."""

    code = "request_timeout"
    status = 408


class ConflictError(TrivetError):
    """The state of the resource forbids this now."""

    code = "conflict"
    status = 409


class BucketNotEmptyError(ConflictError):
    """A bucket is deleted only when it holds no file."""

    code = "bucket_not_empty"


class BucketProtectedError(ConflictError):
    """The bucket `default` always exists."""

    code = "bucket_protected"


class BucketRecreatedError(ConflictError):
    """The bucket was deleted and made again while this upload was under way."""

    code = "bucket_recreated"
    is_transient = True


class TooManyBucketsError(ConflictError):
    """The cluster has as many buckets as it may have; delete one first."""

    code = "too_many_buckets"


class VersioningCannotBeOffError(ConflictError):
    """A bucket that has kept versions can stop keeping more of them (suspended), and is never again one that kept none."""

    code = "versioning_cannot_be_off"


class BackupPinsVersionsError(ConflictError):
    """A backup under way counts on the older versions; keep them as long as before, or end it. Fact: `backup_id`."""

    code = "backup_pins_versions"


class PromotionDeferredError(ConflictError):
    """Another file of the same batch got an older version back, which one entry does once; send this file again."""

    code = "promotion_deferred"


class UploadCompletedError(ConflictError):
    """The upload is completed already, of other parts than these."""

    code = "upload_completed"


class ChunkCondemnedError(ConflictError):
    """A chunk of this upload was condemned after the upload began; start it again."""

    code = "chunk_condemned"
    is_transient = True


class NodeRemovedError(ConflictError):
    """A node that acknowledged a chunk has left the cluster since; start the upload again."""

    code = "node_removed"
    is_transient = True


class NodeReplacedError(ConflictError):
    """A node that acknowledged a chunk has another disk or Redis since; start the upload again. Fact: `node_id`."""

    code = "node_replaced"
    is_transient = True


class NodeDrainingError(ConflictError):
    """A node that acknowledged a chunk drains by now and counts no more; start the upload again. Fact: `node_id`."""

    code = "node_draining"
    is_transient = True


class DrainInProgressError(ConflictError):
    """Another storage node drains; one at a time. Fact: `node_id` of that one."""

    code = "drain_in_progress"


class TooFewNodesError(ConflictError):
    """Without this node, fewer would be left than a chunk has replicas. Facts: `left`, `needed`."""

    code = "too_few_nodes"


class RemovalNotProvedError(ConflictError):
    """Nothing proves that the node holds no chunk that is referenced, or what was proved is out of date; prove it anew."""

    code = "removal_not_proved"
    is_transient = True


class RunSupersededError(ConflictError):
    """Another process runs under this storage node's name since; this one is refused for ever."""

    code = "run_superseded"


class NodeNotLostError(ConflictError):
    """A storage node that is to be removed as lost is heard of; drain it instead. Facts: `node_id`, `state`."""

    code = "node_not_lost"


class LastHolderError(ConflictError):
    """No other storage node is live: what is stored may be on this one alone. Fact: `node_id`."""

    code = "last_holder"


class VerifyInProgressError(ConflictError):
    """A verify is under way; wait for it, or cancel it. Fact: `nodes`."""

    code = "verify_in_progress"


class RequestInProgressError(ConflictError):
    """A request with the same Idempotency-Key is still running."""

    code = "request_in_progress"


class AccessChangedError(ConflictError):
    """What the principal may do changed after the gateway decided; it decides again and makes a new attempt."""

    code = "access_changed"
    is_transient = True


class IdentityExistsError(ConflictError):
    """There is an identity of that id."""

    code = "identity_exists"


class KeyExistsError(ConflictError):
    """There is a key of that id, or there was."""

    code = "key_exists"


class TooManyKeysError(ConflictError):
    """The identity has as many keys as it may have; delete one first."""

    code = "too_many_keys"


class KeySlotTakenError(ConflictError):
    """Another key of the identity got this slot meanwhile; choose another."""

    code = "key_slot_taken"


class LastRootKeyError(ConflictError):
    """This is the last key that may administer the cluster; make another first."""

    code = "last_root_key"


class AccessNotInitialisedError(ConflictError):
    """The realm that secrets are sealed for has no name yet."""

    code = "access_not_initialised"


class ClusterMismatchError(ConflictError):
    """The caller, or its data folder, belongs to another cluster."""

    code = "cluster_mismatch"


class CursorExpiredError(TrivetError):
    """The cursor's log index is below the horizon; list again from the start."""

    code = "cursor_expired"
    status = 410


class PreconditionFailedError(TrivetError):
    """If-Match or If-None-Match did not hold."""

    code = "precondition_failed"
    status = 412


class PayloadTooLargeError(TrivetError):
    """The body is larger than this route takes."""

    code = "payload_too_large"
    status = 413


class RangeNotSatisfiableError(TrivetError):
    """No byte of the requested range exists."""

    code = "range_not_satisfiable"
    status = 416


class NotLeaderError(TrivetError):
    """This consensus member does not lead; `leader_url` names the one that does, when known."""

    code = "not_leader"
    status = 421


class MisdirectedRequestError(TrivetError):
    """The Host header names another server than this one."""

    code = "misdirected_request"
    status = 421


class IdempotencyKeyReusedError(TrivetError):
    """The Idempotency-Key was used for a different request."""

    code = "idempotency_key_reused"
    status = 422


class TooManyRequestsError(TrivetError):
    """The identity's limit of requests or bytes per second is used up; `retry_after_s` says when there is room."""

    code = "too_many_requests"
    status = 429


class InternalError(TrivetError):
    """A defect of ours. What was asked for may or may not have happened."""

    code = "internal_error"
    status = 500
    default_definite = False


class UnavailableError(TrivetError):
    """Cannot be done now; a retry may succeed."""

    code = "unavailable"
    status = 503

    def __init__(
        self, message: str, *, definite: bool | None = None, retry_after_s: int | None = 1, **facts: Any
    ) -> None:
        super().__init__(message, definite=definite, retry_after_s=retry_after_s, **facts)


class QuorumNotReachedError(UnavailableError):
    """Fewer replicas answered than the quorum needs. Facts: `needed`, `acknowledged`, `outcomes` by node."""

    code = "quorum_not_reached"


class LeaderUnavailableError(UnavailableError):
    """No consensus leader could be reached before anything was proposed."""

    code = "leader_unavailable"


class OutcomeUnknownError(UnavailableError):
    """A proposal was sent and its outcome was not learnt within the deadline. A retry with the same id is safe."""

    code = "outcome_unknown"
    default_definite = False


class OverloadedError(UnavailableError):
    """A byte or request budget is used up; nothing was started."""

    code = "overloaded"


class NotReadyError(UnavailableError):
    """The service has started but cannot serve yet."""

    code = "not_ready"


class UpgradeUnfinishedError(UnavailableError):
    """Some consensus member runs a version that does not know this yet; it works once all are upgraded."""

    code = "upgrade_unfinished"


class PeerUnreachableError(UnavailableError):
    """Another service did not answer. Definite only when no byte of the request can have reached it. Fact: `peer`."""

    code = "peer_unreachable"
    default_definite = False


class PeerAnswerInvalidError(UnavailableError):
    """Another service, or a stranger at its address, sent something that is no answer of ours. Fact: `peer`."""

    code = "peer_answer_invalid"
    default_definite = False


class ChunkCorruptError(UnavailableError):
    """A replica's bytes do not hash to their digest; the replica is not served."""

    code = "chunk_corrupt"


class DataUnavailableError(UnavailableError):
    """No good replica of a chunk could be reached."""

    code = "data_unavailable"


class DiskFullError(TrivetError):
    """Fewer bytes than the reserve remain; reads and deletes go on."""

    code = "disk_full"
    status = 507


def _tree(root: type[TrivetError]) -> dict[str, type[TrivetError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


ERRORS_BY_CODE: Final = _tree(TrivetError)
_STANDARD_FIELDS: Final = {"type", "title", "status", "detail", "code", "definite", "retry_after_s", "instance"}


def error_from_problem(problem: dict[str, Any]) -> TrivetError:
    """The typed error behind a problem document that another Trivet service sent; the inverse of `to_problem`.

    A code that this version does not know becomes an `InternalError` that is not definite.

    Raises:
        TypeError, AttributeError: it is no problem document.
    """
    kind = ERRORS_BY_CODE.get(str(problem.get("code")), InternalError)
    facts = {name: value for name, value in problem.items() if name not in _STANDARD_FIELDS}
    return kind(
        str(problem.get("detail", "")),
        definite=problem.get("definite") is True,
        retry_after_s=retry_after_s if isinstance(retry_after_s := problem.get("retry_after_s"), int) else None,
        **facts,
    )
