"""Pages of a bucket, and of all buckets. The first page of files pins a log index, and its cursor carries it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.gateway.access.context import acting_principal
from services.gateway.cursors import (
    AnyCursor,
    BucketCursor,
    Cursor,
    CursorSealer,
    CursorT,
    IdentityCursor,
    UploadCursor,
    VersionCursor,
)
from services.gateway.ports import Metadata
from services.gateway.semantics.parameters import Parameter, QueryParameters, flag, number, string
from shared.contracts.access import Identity, ListIdentities
from shared.contracts.metadata import DETAILS_LIMIT_MAX, LIST_LIMIT_MAX, Bucket, FilePage, ListBuckets, ListFiles
from shared.contracts.names import MAX_KEY_BYTES, check_bucket_name, check_object_key
from shared.contracts.objects import ListVersions, VersionPage
from shared.contracts.uploads import ListUploads, UploadPage
from shared.errors import BucketNotFoundError, InvalidRequestError

_MAX_DELIMITER_BYTES: Final = 64


def _limit(rows: str) -> Parameter[int, int]:
    return number("limit", f"Most {rows} of one page.", 1, LIST_LIMIT_MAX, default=LIST_LIMIT_MAX)


_LIMIT: Final = _limit("rows")
_CURSOR: Final = Parameter("cursor", "From the page before.", {"type": "string"}, str, default=None)
_PREFIX: Final = string("prefix", "Only keys that begin with this.", max_bytes=MAX_KEY_BYTES)
_DELIMITER: Final = string(
    "delimiter",
    "Keys that share everything up to the first delimiter after the prefix are shown as one prefix.",
    max_bytes=_MAX_DELIMITER_BYTES,
    is_filled=True,
)
_DETAILS: Final = flag(
    "details",
    f"Rows say `digest` and `user_metadata`; a page has at most {DETAILS_LIMIT_MAX}. Needs the right to read all files.",
)
_KEY: Final = Parameter(
    "key", "Only versions of this key.", {"type": "string", "minLength": 1}, check_object_key, default=None
)
_UPLOADS_BUCKET: Final = Parameter(
    "bucket", "Whose uploads.", {"type": "string"}, check_bucket_name, default="", is_required=True
)
FILES_QUERY: Final = QueryParameters(_PREFIX, _DELIMITER, _limit("files and prefixes"), _CURSOR, _DETAILS)
VERSIONS_QUERY: Final = QueryParameters(_PREFIX, _KEY, _DELIMITER, _limit("versions and prefixes"), _CURSOR)
UPLOADS_QUERY: Final = QueryParameters(_UPLOADS_BUCKET, _PREFIX, _DELIMITER, _limit("uploads and prefixes"), _CURSOR)
BUCKETS_QUERY: Final = QueryParameters(_limit("buckets"), _CURSOR)
IDENTITIES_QUERY: Final = QueryParameters(_limit("identities"), _CURSOR)


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `cursor` is None on the last one. `log_index` is that of the whole list."""

    rows: FilePage
    cursor: str | None
    log_index: int
    has_details: bool


@dataclass(frozen=True, slots=True)
class BucketPage:
    """One page of buckets, as they are at `log_index`; `cursor` is None on the last one."""

    buckets: list[Bucket]
    cursor: str | None
    log_index: int


@dataclass(frozen=True, slots=True)
class VersionListPage:
    """One page of versions, as they are at `log_index`; `cursor` is None on the last one."""

    rows: VersionPage
    cursor: str | None
    log_index: int


@dataclass(frozen=True, slots=True)
class UploadListPage:
    """One page of uploads under way; `cursor` is None on the last one."""

    rows: UploadPage
    cursor: str | None


@dataclass(frozen=True, slots=True)
class IdentityListPage:
    """One page of identities; `cursor` is None on the last one."""

    identities: list[Identity]
    cursor: str | None


class Listings:
    """All lists of a gateway."""

    def __init__(self, metadata: Metadata, sealer: CursorSealer) -> None:
        self._metadata = metadata
        self._sealer = sealer

    async def page(self, bucket: str, values: dict[str, str]) -> Page:
        """One page of `bucket` as the query `values` ask for it, keys in UTF-8 byte order.

        Raises:
            InvalidRequestError: a parameter is malformed or contradicts the cursor.
            BucketNotFoundError: there is no such bucket.
            CursorExpiredError: the cursor's index is too old.
        """
        query = self._query(bucket, values)
        answer, context = await self._metadata.read(query)
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=bucket)
        log_index = answer.at_index or context.log_index
        cursor = None
        if answer.has_more:
            cursor = self._sealed(
                Cursor(bucket, query.prefix, query.delimiter, answer.last_key, answer.last_prefix, log_index)
            )
        return Page(answer, cursor, log_index, query.details is True)

    async def buckets(self, values: dict[str, str]) -> BucketPage:
        """One page of the buckets, by name. Later pages show them as they are by then.

        Raises:
            InvalidRequestError: a parameter is malformed.
            CursorExpiredError: the cursor is from another cluster.
        """
        after = self._opened(values["cursor"], BucketCursor).after if "cursor" in values else None
        answer, context = await self._metadata.read(ListBuckets(limit=_LIMIT.of(values), after=after))
        cursor = self._sealed(BucketCursor(answer.buckets[-1].name)) if answer.has_more else None
        return BucketPage(answer.buckets, cursor, context.log_index)

    async def versions(self, bucket: str, values: dict[str, str]) -> VersionListPage:
        """One page of the versions in `bucket`: keys in UTF-8 byte order, the versions of a key from the latest on.

        Later pages show the bucket as it is by then.

        Raises:
            InvalidRequestError: a parameter is malformed or contradicts another one or the cursor.
            BucketNotFoundError: there is no such bucket.
            CursorExpiredError: the cursor is from another cluster.
        """
        query = self._versions_query(bucket, values)
        answer, context = await self._metadata.read(query)
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=bucket)
        cursor = None
        if answer.has_more and answer.last_key is not None:
            place = (query.prefix, query.delimiter, query.key, answer.last_key, answer.last_version)
            cursor = self._sealed(VersionCursor(bucket, *place))
        return VersionListPage(answer, cursor, context.log_index)

    async def uploads(self, values: dict[str, str]) -> UploadListPage:
        """One page of the uploads under way in a bucket: keys in UTF-8 byte order, those of a key as they began.

        Later pages show the bucket as it is by then.

        Raises:
            InvalidRequestError: a parameter is malformed or contradicts the cursor.
            BucketNotFoundError: there is no such bucket.
            CursorExpiredError: the cursor is from another cluster.
        """
        bucket, limit = _UPLOADS_BUCKET.of(values), _LIMIT.of(values)
        prefix, delimiter = _PREFIX.of(values), _DELIMITER.of(values)
        query = ListUploads(bucket=bucket, prefix=prefix or "", delimiter=delimiter, limit=limit)
        if "cursor" in values:
            after = self._opened(values["cursor"], UploadCursor)
            _check_cursor(after, bucket, prefix, delimiter)
            place = {"after_key": after.after_key, "after_upload": after.after_upload}
            query = query.model_copy(update={"prefix": after.prefix, "delimiter": after.delimiter, **place})
        answer, _ = await self._metadata.read(query)
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=bucket)
        cursor = None
        if answer.has_more and answer.last_key is not None:
            cursor = self._sealed(
                UploadCursor(bucket, query.prefix, query.delimiter, answer.last_key, answer.last_upload)
            )
        return UploadListPage(answer, cursor)

    async def identities(self, values: dict[str, str]) -> IdentityListPage:
        """One page of the identities, by id. Later pages show them as they are by then.

        Raises:
            InvalidRequestError: a parameter is malformed.
            CursorExpiredError: the cursor is from another cluster.
        """
        after = self._opened(values["cursor"], IdentityCursor).after if "cursor" in values else None
        answer, _ = await self._metadata.read(ListIdentities(limit=_LIMIT.of(values), after=after))
        cursor = self._sealed(IdentityCursor(answer.identities[-1].id)) if answer.has_more else None
        return IdentityListPage(answer.identities, cursor)

    def _sealed(self, cursor: AnyCursor) -> str:
        return self._sealer.seal(cursor, acting_principal())

    def _opened(self, text: str, kind: type[CursorT]) -> CursorT:
        return self._sealer.open(text, kind, acting_principal())

    def _versions_query(self, bucket: str, values: dict[str, str]) -> ListVersions:
        prefix, delimiter = _PREFIX.of(values), _DELIMITER.of(values)
        key, limit = _KEY.of(values), _LIMIT.of(values)
        if key is not None and (prefix is not None or delimiter is not None):
            raise InvalidRequestError("A list of one key has no prefix and no delimiter.", parameter="key")
        if "cursor" not in values:
            return ListVersions(bucket=bucket, prefix=prefix or "", delimiter=delimiter, key=key, limit=limit)
        cursor = self._opened(values["cursor"], VersionCursor)
        _check_cursor(cursor, bucket, prefix, delimiter)
        if key not in {None, cursor.key}:
            raise _other_list()
        return ListVersions(
            bucket=bucket,
            prefix=cursor.prefix,
            delimiter=cursor.delimiter,
            key=cursor.key,
            limit=limit,
            after_key=cursor.after_key,
            after_version=cursor.after_version,
        )

    def _query(self, bucket: str, values: dict[str, str]) -> ListFiles:
        prefix, delimiter, limit = _PREFIX.of(values), _DELIMITER.of(values), _LIMIT.of(values)
        # True or None: members before entries of version 4 know no such field.
        details = _DETAILS.of(values) or None
        if "cursor" not in values:
            return ListFiles(bucket=bucket, prefix=prefix or "", delimiter=delimiter, limit=limit, details=details)
        cursor = self._opened(values["cursor"], Cursor)
        _check_cursor(cursor, bucket, prefix, delimiter)
        return ListFiles(
            bucket=bucket,
            prefix=cursor.prefix,
            delimiter=cursor.delimiter,
            limit=limit,
            after_key=cursor.after_key,
            after_prefix=cursor.after_prefix,
            at_index=cursor.at_index,
            details=details,
        )


def _check_cursor(
    cursor: Cursor | VersionCursor | UploadCursor, bucket: str, prefix: str | None, delimiter: str | None
) -> None:
    """Refuse a cursor of another list; what the query does not repeat is that of the cursor."""
    if cursor.bucket != bucket or prefix not in {None, cursor.prefix} or delimiter not in {None, cursor.delimiter}:
        raise _other_list()


def _other_list() -> InvalidRequestError:
    return InvalidRequestError("The cursor belongs to another list.", parameter="cursor")
