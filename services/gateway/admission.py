"""How many file transfers run at one time. One more is refused at once, which costs nothing, instead of late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import OverloadedError


class TransferSlots:
    """Invariant: 0 <= used <= limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        """Transfers under way."""
        return self._used

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one slot.

        Raises:
            OverloadedError: all are taken; nothing was started.
        """
        if self._used >= self._limit:
            raise OverloadedError("Too many file transfers are under way; try again.", limit=self._limit)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1
