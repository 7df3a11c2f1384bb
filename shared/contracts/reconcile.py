"""What a storage node says about reconcile: the chunks it should hold against those that it does hold.

Routes of a storage node (all signed):

    POST   /v1/verify   VerifyReport; starts a pass over everything; 409 while one is under way
    GET    /v1/verify   VerifyReport of the pass under way, else of the last one
    DELETE /v1/verify   VerifyReport; ends the pass under way early; nothing to do when there is none

`ReconcileReport` is part of `shared.contracts.chunks.NodeStatus` and of heartbeats.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shared.contracts.base import WireModel

_Number = Annotated[int, Field(ge=0, lt=2**63)]
"""Sums and metrics are made of them: one that is negative, or larger than any count, would spoil those of the whole cluster."""


class ReconcileReport(WireModel):
    """How far a node is from holding what it should hold. What it does not know is None, never 0.

    The expected set is computed from the references up to `log_index`, placed over the node map of `epoch`. A node that
    cannot reach consensus keeps its last report, so both stay behind. No report at all: no listing was finished yet.

    Attributes:
        expected_chunks, expected_bytes: what this node should hold; None while `is_listing`.
        missing_chunks, missing_bytes: those of them that it does not hold, or of which its replica is bad. None until
            held and expected chunks were compared for the first time in this run, and while `is_listing`.
        surplus_chunks: held and referenced, but not expected here; they leave when the expected holders confirm theirs.
        orphan_chunks: held, and no file refers to them; young ones of uploads under way count, too.
        bytes_per_s: pulled from other nodes in the last minute.
        eta_s: until nothing is missing, at that rate; None while nothing is missing or nothing comes in.
        drained_index: this node is draining, and at that log index it held no chunk that a file refers to, by a node map
            of `epoch` that says so. None otherwise.
        is_listing: all references are being listed anew, because there was no position to go on from or placement changed.
    """

    epoch: _Number
    log_index: _Number
    expected_chunks: _Number | None
    expected_bytes: _Number | None
    missing_chunks: _Number | None
    missing_bytes: _Number | None
    surplus_chunks: _Number | None
    orphan_chunks: _Number | None
    bytes_per_s: _Number
    eta_s: _Number | None = None
    drained_index: _Number | None = None
    is_listing: bool


class VerifyState(StrEnum):
    """NEVER: no pass was started since the folder of the node was made."""

    NEVER = "never"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class VerifyReport(WireModel):
    """A pass over everything that a node should hold, and everything that it holds. The counts are so far.

    Attributes:
        epoch, log_index: the references at that index, placed over the node map of that epoch; None until they are listed.
        expected_chunks: to be checked; None until they are listed.
        checked_chunks, checked_bytes: of them, read past all caches and compared with their digest, or found to be missing.
        missing_chunks, bad_chunks: expected and not held; expected, held, and not the bytes of the digest. Both are fetched
            again from other nodes.
        surplus_chunks: held and referenced, but not expected here.
        orphaned_chunks: held, and no file refers to them; those of uploads under way count, too.
        progress: 0 to 1.
        eta_s: at the rate so far; None when that is not known, or the pass is over.
    """

    state: VerifyState
    epoch: _Number | None = None
    log_index: _Number | None = None
    expected_chunks: _Number | None = None
    checked_chunks: _Number = 0
    checked_bytes: _Number = 0
    missing_chunks: _Number = 0
    bad_chunks: _Number = 0
    surplus_chunks: _Number = 0
    orphaned_chunks: _Number = 0
    progress: float = Field(default=0.0, ge=0, le=1)
    eta_s: _Number | None = None
