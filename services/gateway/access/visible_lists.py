"""Lists as a principal may see them: as if nothing existed but the names that it may list.

A page is read, and names outside are taken out of it. Where nothing that follows may be shown for a while, the walk goes on at
the next scope, or behind the denied one, instead of reading what lies between. A common prefix that may hold names of both
kinds is shown when one that may be shown is there, which one more read tells. A page may hold fewer rows than its limit, and
where it ends tells nothing of other names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from services.gateway.access.policy import Coverage, Prefixes
from shared.consensus_calls.client import ReadContext
from shared.contracts.calls import AnswerT, Query
from shared.contracts.metadata import BucketsAnswer, FilePage, ListBuckets, ListFiles
from shared.contracts.objects import ListVersions, VersionPage
from shared.contracts.uploads import ListUploads, UploadPage

_LAST_CHARACTER: Final = "\U0010ffff"
_READS_MAX: Final = 256
"""Of one page, and of one common prefix: more than an identity has scopes, twice."""

PageT = TypeVar("PageT", FilePage, VersionPage, UploadPage)


class Reads(Protocol):
    """Linearizable reads: `ports.Metadata`."""

    async def read(self, query: Query[AnswerT], *, deadline_s: float | None = None) -> tuple[AnswerT, ReadContext]:
        """As `Metadata.read`."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the fields of a list are called that differ from kind to kind.

    Attributes:
        rows: of a page.
        last: of a page, beside `last_key`; `after`: of a query, beside `after_key`.
    """

    rows: str
    last: str
    after: str


_SHAPES: Final[dict[type, _Shape]] = {
    ListFiles: _Shape("files", "last_prefix", "after_prefix"),
    ListVersions: _Shape("versions", "last_version", "after_version"),
    ListUploads: _Shape("uploads", "last_upload", "after_upload"),
}


async def read_visible(metadata: Reads, query: Query[PageT], names: Prefixes) -> tuple[PageT, ReadContext]:
    """The page that `query` asks for, of `names` alone (`policy.listed`); the context is that of its last read.

    A list of the versions of one key is the caller's to decide: it is read as it is.
    """
    walk = _VisibleWalk(metadata, query, names)
    if walk.asked.key is not None or names.coverage(walk.asked.prefix) is Coverage.ALL:
        return await metadata.read(query)
    return await walk.page()


async def visible_buckets(metadata: Reads, answer: BucketsAnswer, sees: Callable[[str], bool]) -> BucketsAnswer:
    """Of a page those that `sees` says; where there are none, of the next page that has some, and only the last is empty."""
    limit = len(answer.buckets)  # of a page behind which there is more
    while True:
        seen = [bucket for bucket in answer.buckets if sees(bucket.name)]
        if seen or not answer.has_more:
            has_more = answer.has_more or len(seen) > limit
            return answer.model_copy(update={"buckets": seen[:limit], "has_more": has_more})
        # Whole pages, however little was asked for: one request would be a read for each bucket that there is.
        answer, _ = await metadata.read(ListBuckets(after=answer.buckets[-1].name))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of the query."""

    prefix: str
    key: str | None
    is_first: bool


class _VisibleWalk:
    """Reads what `query` asks for, in one or several reads."""

    def __init__(self, metadata: Reads, query: Any, names: Prefixes) -> None:
        self._metadata = metadata
        self._query = query
        self._names = names
        self._shape = _SHAPES[type(query)]
        is_first = query.after_key is None and getattr(query, self._shape.after) is None
        self.asked = _Asked(query.prefix, getattr(query, "key", None), is_first)

    async def page(self) -> tuple[Any, ReadContext]:
        """See `read_visible`."""
        query, prefix = self._query, self.asked.prefix
        if self.asked.is_first:
            start = first_covered(self._names, prefix)
            if start is not None and start != prefix:
                query = self._continued(query, _before(start, prefix), None)
        for _ in range(_READS_MAX):
            answer, context = await self._metadata.read(query)
            if isinstance(answer, FilePage):
                query = self._query = query.model_copy(update={"at_index": answer.at_index or context.log_index})
            page = await self._filtered(answer)
            if not page.has_more or self._rows(page) or page.prefixes:
                break
            query = self._continued(query, page.last_key, getattr(page, self._shape.last))
        return page, context

    async def _filtered(self, answer: Any) -> Any:
        """Only what may be shown, and the position behind which something that may be shown can follow."""
        shown: dict[str, Any] = {
            self._shape.rows: [row for row in self._rows(answer) if self._names.covers(row.key)],
            "prefixes": [prefix for prefix in answer.prefixes if await self._shows(prefix)],
        }
        if answer.has_more:
            shown |= self._position(answer)
        if isinstance(answer, FilePage):
            shown["at_index"] = self._query.at_index
        return answer.model_copy(update=shown)

    def _position(self, answer: Any) -> dict[str, Any]:
        last = answer.last_key
        beside = getattr(answer, self._shape.last)
        if isinstance(answer, FilePage):
            last, is_prefix = (last, False) if beside is None else (beside, True)
        else:
            is_prefix = beside is None
        lower = _end(last) if is_prefix else last
        follows = first_covered(self._names, lower)
        if follows == lower:
            return {}
        if follows is None or not follows.startswith(self.asked.prefix):
            return {"has_more": False, "last_key": None, self._shape.last: None}
        return {"last_key": _before(follows, lower), self._shape.last: None}

    async def _shows(self, common: str) -> bool:
        """Whether a name that may be shown begins with the common prefix."""
        coverage = self._names.coverage(common)
        if coverage is not Coverage.SOME:
            return coverage is Coverage.ALL
        query = self._query.model_copy(update={"prefix": common, "delimiter": None, "limit": 1})
        lower = common
        for _ in range(_READS_MAX):
            start = first_covered(self._names, lower)
            if start is None or not start.startswith(common):
                return False
            # A name that is there at `lower` itself was seen by the read before, but for the first.
            after = _before(start, lower) if start != lower else (None if lower == common else lower)
            answer, _ = await self._metadata.read(self._continued(query, after, None))
            rows = self._rows(answer)
            if rows:
                if self._names.covers(rows[0].key):
                    return True
                lower = rows[0].key
            elif answer.has_more:
                lower = answer.last_key
            else:
                return False
        return False

    def _rows(self, page: Any) -> list[Any]:
        return list(getattr(page, self._shape.rows))

    def _continued(self, query: Any, last_key: str | None, beside: Any) -> Any:
        return query.model_copy(update={"after_key": last_key, self._shape.after: beside})


def first_covered(names: Prefixes, lower: str) -> str | None:
    """The least text, from `lower` on, that can begin a name that is covered: `lower` itself where it can; None: none can."""
    if "" in names.deny:
        return None
    while True:
        behind = [_end(denied) for denied in names.deny if lower.startswith(denied)]
        if behind:
            lower = max(behind)
        elif lower.startswith(names.allow):
            return lower
        else:
            following = [allowed for allowed in names.allow if allowed > lower]
            if not following:
                return None
            lower = min(following)


def _end(prefix: str) -> str:
    """The least text behind everything that begins with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix[-1] < _LAST_CHARACTER else prefix


def _before(bound: str, read: str) -> str:
    """A text before `bound`, with no covered name between the two, and not before `read`, which is before `bound`.

    A scope ends with a slash, and so a bound with that or `0`. Of a name that was read it tells nothing but how many last
    characters stand where a bound ends.
    """
    stem = bound[:-1] + chr(ord(bound[-1]) - 1)
    behind = read[len(stem) :] if read.startswith(stem) else ""
    run = len(behind) - len(behind.lstrip(_LAST_CHARACTER))
    return stem + _LAST_CHARACTER * max(1, min(len(behind), run + 1))
