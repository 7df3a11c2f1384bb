"""Which chunks the log refers to, and which it has condemned: the command, the queries and the answers of garbage collection.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent. The life of a chunk
without references: docs/promises.md, "The life of a chunk".
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from shared.contracts.base import WireModel
from shared.contracts.calls import Command, Query
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.time import Stamp

CONDEMN_MAX: Final = 4096
"""Most chunks that one entry condemns."""

REFERENCES_MAX: Final = 10_000
"""Most chunks in one page of references, and in one question about them."""


class CondemnedChunks(WireModel):
    """How many of the chunks are condemned now that were not before."""

    condemned: int


class CondemnChunks(Command[CondemnedChunks]):
    """A storage node holds chunks that no page of references listed.

    One that is referenced, or condemned already after `start_index`, is left as it is. A node deletes a condemned chunk
    whose recorded start index is below the index of this entry.

    Attributes:
        digests: raw, 32 bytes each, 4,096 of them at most.
        start_indexes: what the node has recorded on each of them.
    """

    kind: Literal["condemn_chunks"] = "condemn_chunks"
    digests: bytes = Field(min_length=DIGEST_BYTES, max_length=CONDEMN_MAX * DIGEST_BYTES)
    start_indexes: list[int] = Field(min_length=1, max_length=CONDEMN_MAX)
    stamp: Stamp


class ReferencePage(WireModel):
    """Chunks that are referenced, each once. The next page starts after the last digest; see `has_more`.

    Attributes:
        digests: raw, 32 bytes each, ascending.
        sizes: in bytes, of each.
    """

    kind: Literal["references"] = "references"
    digests: bytes
    sizes: list[int]
    has_more: bool


class ReferenceChanges(WireModel):
    """What entries after `after_index` did to references, up to and with `next_index`, as far as it still holds.

    Attributes:
        added: raw digests that versions published there refer to; one may come more than once, and may have been
            referenced before. `added_sizes` has their sizes in bytes.
        condemned: raw digests, with the index of the entry that condemned each last (`condemned_indexes`), and whether it
            is referenced again now (`is_referenced`).
        next_index, next_chunk: where the next page goes on: so many chunks of the version `next_index` + 1 are listed.
        has_more: false when `next_index` is the applied index.
        horizon: the highest index whose condemned chunks are forgotten.
        must_restart: `after_index` lies below the horizon: chunks that were condemned in between are not known any more.
            The page is empty; list all references anew, and go on after the index at which that began.
    """

    kind: Literal["reference_changes"] = "reference_changes"
    added: bytes
    added_sizes: list[int]
    condemned: bytes
    condemned_indexes: list[int]
    is_referenced: list[bool]
    next_index: int
    next_chunk: int
    has_more: bool
    horizon: int
    must_restart: bool


class CheckedReferences(WireModel):
    """In the order of the question.

    Attributes:
        condemned_indexes: of the entry that condemned each chunk last, as far as that is known; 0 for none. A replica that
            came when its node had followed that entry already is deleted by it all the same: nobody condemns it again.
        aged_index: the last log index known to be applied `age_s` ago or earlier by the log's own clock; 0 for none.
    """

    kind: Literal["checked_references"] = "checked_references"
    is_referenced: list[bool]
    condemned_indexes: list[int] | None = None
    aged_index: int


class ListReferences(Query[ReferencePage]):
    """Which chunks are referenced: the first `limit` digests after `after`, in order.

    Attributes:
        after: raw digest, exclusive; empty for all.
    """

    kind: Literal["list_references"] = "list_references"
    after: bytes = Field(default=b"", max_length=DIGEST_BYTES)
    limit: int = Field(default=REFERENCES_MAX, ge=1, le=REFERENCES_MAX)


class ListReferenceChanges(Query[ReferenceChanges]):
    """Which chunks were referenced and condemned after a log index.

    Attributes:
        after_index, after_chunk: `next_index` and `next_chunk` of the page before.
        limit: chunks of each kind in a page, about: those that one entry condemned are not cut.
    """

    kind: Literal["list_reference_changes"] = "list_reference_changes"
    after_index: int = Field(ge=0, lt=2**63)
    after_chunk: int = Field(default=0, ge=0)
    limit: int = Field(default=REFERENCES_MAX, ge=1, le=REFERENCES_MAX)


class CheckReferences(Query[CheckedReferences]):
    """Whether chunks are referenced.

    Attributes:
        digests: raw, 32 bytes each, 10,000 of them at most.
        age_s: of the log index that the answer names.
    """

    kind: Literal["check_references"] = "check_references"
    digests: bytes = Field(max_length=REFERENCES_MAX * DIGEST_BYTES)
    age_s: int = Field(ge=0)
