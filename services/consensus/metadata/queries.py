"""Answers queries from one read transaction. One function per query; nothing is changed."""

from __future__ import annotations

from functools import partial

from msgspec import structs

from services.consensus.metadata.access_queries import answer_about_access
from services.consensus.metadata.audit import list_audit
from services.consensus.metadata.history import History
from services.consensus.metadata.listing import list_page
from services.consensus.metadata.object_queries import Buckets, answer_about_objects
from services.consensus.metadata.outcomes import fingerprint_of, repeated_result
from services.consensus.metadata.references import answer_about_references
from services.consensus.metadata.rows import BucketRow, State
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.upload_queries import answer_about_uploads
from services.consensus.metadata.usage_queries import answer_usage
from shared.contracts.access import GetIdentity, GetKey, ListAccessChanges, ListIdentities
from shared.contracts.audit import ListAudit
from shared.contracts.backups import ListBackups
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import (
    DETAILS_LIMIT_MAX,
    Answer,
    AnyQuery,
    Bucket,
    BucketAnswer,
    BucketsAnswer,
    ClusterAnswer,
    FileEntry,
    FilePage,
    GetBucket,
    GetCluster,
    GetFile,
    GetRequest,
    ListBuckets,
    ListFiles,
    ReadResult,
    RequestAnswer,
)
from shared.contracts.objects import (
    CountObjects,
    GetBucketDocument,
    GetBucketSettings,
    ListVersions,
)
from shared.contracts.references import CheckReferences, ListReferenceChanges, ListReferences
from shared.contracts.uploads import GetUpload, ListPieces, ListUploads
from shared.contracts.usage import GetUsage
from shared.errors import CursorExpiredError, InvalidRequestError, TrivetError


def read_node_map(tables: Tables, state: State) -> NodeMap:
    """The node map of `state`'s epoch."""
    drains = tables.drains()
    return NodeMap(epoch=state.epoch, nodes=[node.to_wire(drains.get(node.node_id)) for node in tables.nodes()])


def answer_query(tables: Tables, state: State, query: AnyQuery, buckets: Buckets) -> ReadResult:
    """The answer, or the rejection as a problem document. `buckets` is filled on the way."""
    try:
        return ReadResult(answer=_answer(tables, state, query, buckets))
    except TrivetError as error:
        return ReadResult(problem=error.to_problem())


def _answer(tables: Tables, state: State, query: AnyQuery, buckets: Buckets) -> Answer:
    answer: Answer
    match query:
        case GetFile() | GetBucketSettings() | GetBucketDocument() | ListVersions() | CountObjects():
            return answer_about_objects(tables, state, query, buckets)
        case ListFiles():
            return _list_files(tables, state, query)
        case GetBucket() | ListBuckets():
            return _answer_buckets(tables, query)
        case GetCluster():
            # Members and leader are Raft's to know; the caller adds them.
            node_map = read_node_map(tables, state)
            return ClusterAnswer(cluster_id=state.cluster_id, leader_id=None, members=[], node_map=node_map)
        case GetRequest():
            return _get_request(tables, query)
        case ListPieces() | GetUpload() | ListUploads():
            answer = answer_about_uploads(tables, state, query)
        case ListReferences() | ListReferenceChanges() | CheckReferences() | ListBackups():
            answer = answer_about_references(tables, state, query)
        case ListAccessChanges() | GetIdentity() | GetKey() | ListIdentities():
            answer = answer_about_access(tables, state, query)
        case ListAudit():
            answer = list_audit(tables.database, query)
        case GetUsage():
            answer = answer_usage(tables, query)
    return answer


def _get_request(tables: Tables, query: GetRequest) -> Answer:
    known = tables.request(query.request_id)
    if known is None:
        return RequestAnswer()
    return RequestAnswer(result=repeated_result(known, tables), fingerprint=fingerprint_of(known))


def _answer_buckets(tables: Tables, query: GetBucket | ListBuckets) -> Answer:
    if isinstance(query, GetBucket):
        row = tables.bucket(query.bucket)
        return BucketAnswer(bucket=None if row is None else _bucket(row))
    rows = tables.buckets(query.after or "", query.limit + 1)
    return BucketsAnswer(buckets=[_bucket(row) for row in rows[: query.limit]], has_more=len(rows) > query.limit)


def _list_files(tables: Tables, state: State, query: ListFiles) -> Answer:
    at_index = state.last_applied if query.at_index is None else query.at_index
    if at_index > state.last_applied:
        raise InvalidRequestError("The list is pinned to an index that does not exist yet.", at_index=at_index)
    if at_index < state.horizon:
        raise CursorExpiredError(
            "The list is pinned to an index below the horizon; list again from the start.", horizon=state.horizon
        )
    # At the last applied index the present is the past, and cheaper to read.
    pinned = None if at_index == state.last_applied else at_index
    bucket = tables.bucket(query.bucket, pinned)
    if bucket is None:
        return FilePage(has_bucket=False, at_index=at_index)
    if query.details and query.limit > DETAILS_LIMIT_MAX:
        query = query.model_copy(update={"limit": DETAILS_LIMIT_MAX})
    if pinned is None:
        page = list_page(query, at_index, partial(tables.scan_files, bucket.incarnation))
    else:
        history = History(tables)
        scan = partial(history.scan_as_of, bucket.incarnation, at_index=pinned)
        page = list_page(query, at_index, scan, end_of_scan=partial(history.end_of_scan, bucket.incarnation))
    return page.model_copy(update={"files": _with_details(tables, page.files)}) if query.details else page


def _with_details(tables: Tables, files: list[FileEntry]) -> list[FileEntry]:
    found = []
    for file in files:
        details = tables.details(file.version)
        if details is not None:
            digest, user_metadata = details
            file = structs.replace(file, digest=digest, user_metadata=user_metadata)  # noqa: PLW2901 - the same row, with more
        found.append(file)
    return found


def _bucket(row: BucketRow) -> Bucket:
    return Bucket(name=row.name, incarnation=row.incarnation, created_ns=row.created_ns)
