"""What the calls of every subject stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from trivet.caller import Caller
from trivet.config import Endpoint
from trivet.errors import answer_invalid

RowT = TypeVar("RowT")


class Page(Protocol):
    """A page of a list."""

    @property
    def cursor(self) -> str | None:
        """For the next page; None on the last."""


PageT = TypeVar("PageT", bound=Page)


class Calls:
    """A store, by its address and key."""

    def __init__(self, endpoint: Endpoint, caller: Caller) -> None:
        self._endpoint = endpoint
        self._caller = caller


async def pages_of(read: Callable[[str | None], Awaitable[PageT]]) -> AsyncIterator[PageT]:
    """All pages: `read` gives the one of a cursor, None for the first.

    Raises:
        ProblemError: a cursor came again: the list would never end.
    """
    page, seen = await read(None), set()
    yield page
    while page.cursor is not None:
        if page.cursor in seen:
            raise answer_invalid("a cursor came again")
        seen.add(page.cursor)
        page = await read(page.cursor)
        yield page


class Rows(AsyncIterator[RowT], Generic[PageT, RowT]):
    """The rows of all pages, read a page at a time.

    Attributes:
        pages: where they come from.
        of_page: the rows of one.
    """

    def __init__(self, pages: AsyncIterator[PageT], of_page: Callable[[PageT], Iterable[RowT]]) -> None:
        self.pages = pages
        self.of_page = of_page
        self._ready: Iterator[RowT] = iter(())

    async def __anext__(self) -> RowT:
        while True:
            for row in self._ready:
                return row
            self._ready = iter(self.of_page(await anext(self.pages)))
