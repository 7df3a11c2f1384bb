"""Between the engine and the metadata: committed entries in, stored results out."""

from __future__ import annotations

from collections.abc import Sequence

from services.consensus.metadata.entries import CommittedEntry
from services.consensus.metadata.store import MetadataStore
from services.consensus.raft.ports import Entry, EntryKind
from shared.contracts.metadata import ProposalResult


class MetadataMachine:
    """The engine's `StateMachine` over the metadata store. `apply` runs on the applying thread only."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    @property
    def last_applied(self) -> int:
        """See `StateMachine`."""
        return self._store.last_applied

    def apply(self, first_index: int, entries: Sequence[Entry]) -> list[ProposalResult | None]:
        """See `StateMachine`: one transaction for all of them."""
        return self._store.apply_batch(
            [
                CommittedEntry(index, entry.term, entry.payload if entry.kind == EntryKind.COMMAND else None)
                for index, entry in enumerate(entries, first_index)
            ]
        )
