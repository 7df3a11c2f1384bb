"""Term and vote on disk: one small checksummed file, replaced atomically and fsynced before anybody hears of either.

Written on the loop: it happens at elections only, and nothing else may happen before it is durable.
"""

from __future__ import annotations

from pathlib import Path

from services.consensus.persistence.checked_file import read_checked, write_checked
from services.consensus.raft.ports import HardStateChange, LogDamagedError


class FileHardState:
    """A `HardStateStore`. Invariant: what `term` and `voted_for` say is on disk."""

    def __init__(self, folder: Path, *, must_exist: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "hard_state"
        self._term: int = 0
        self._voted_for: str | None = None
        found = read_checked(self._path)
        if found is not None:
            self._term, self._voted_for = found
        elif must_exist:
            raise LogDamagedError(f"{self._path} is gone, and with it a vote that may have been given")
        else:
            write_checked(self._path, 0, None)

    @property
    def term(self) -> int:
        """See `HardStateStore`."""
        return self._term

    @property
    def voted_for(self) -> str | None:
        """See `HardStateStore`."""
        return self._voted_for

    def update(self, change: HardStateChange) -> None:
        """See `HardStateStore`. Raises OSError, after which the member must not go on."""
        term = change.get("term", self._term)
        voted_for = change.get("voted_for", self._voted_for)
        assert term >= self._term, "the term goes back"
        if (term, voted_for) == (self._term, self._voted_for):
            return
        write_checked(self._path, term, voted_for)
        self._term, self._voted_for = term, voted_for
