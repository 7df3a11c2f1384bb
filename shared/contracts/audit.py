"""The audit trail: who changed what, row by row, each chained to the one before. The query and the rows.

Part of the commands, queries and answers of `shared.contracts.metadata`, which says how they are sent. All of it came with
entries of version 4. How rows are chained: `shared.audit_chain`.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from pydantic import Field

from shared.contracts.access import LogIndex
from shared.contracts.base import WireModel
from shared.contracts.calls import Query

AUDIT_PAGE_MAX: Final = 1000

OUTCOME_OK: Final = "ok"
"""What stands in a row of a change that was made."""


class AuditedFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One file of a batch. `version`: the one that was asked for."""

    key: str
    version: int | None = None
    outcome: str = OUTCOME_OK


class AuditedSource(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was copied. `version`: the one that was asked for."""

    bucket: str
    key: str
    version: int | None = None


class AuditRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One change that was made for somebody, or refused by the log. Fields that say nothing are left out.

    Attributes:
        index: of the log entry that decided it.
        time, hlc, clock: the stamp of the entry: about when, the hybrid timestamp as 16 hex digits, what the time is worth.
        principal: an identity, `anonymous` or `system`.
        kind: of command.
        outcome: `ok`, or the code of the refusal.
        access_key: the id of the key by which the principal proved itself.
        request, address: of the client's request, as the gateway said.
        version: the version that was made; else the one that was asked for.
        upload, part: by their numbers.
        source: of a copy; with `is_move` it is deleted.
        files: of a batch, in its order.
        identity, identity_key, node, backup, document: what is changed, where it is no file.
    """

    index: int
    time: str
    hlc: str
    clock: str
    principal: str
    kind: str
    outcome: str
    access_key: str | None = None
    request: str = ""
    address: str = ""
    bucket: str | None = None
    key: str | None = None
    version: int | None = None
    upload: int | None = None
    part: int | None = None
    source: AuditedSource | None = None
    is_move: bool = False
    files: tuple[AuditedFile, ...] = ()
    identity: str | None = None
    identity_key: str | None = None
    node: str | None = None
    backup: str | None = None
    document: str | None = None


class AuditPoint(WireModel):
    """A row by its index, and its link; index 0 and zeros before the first."""

    index: LogIndex
    link: str = Field(pattern=r"^[0-9a-f]{64}$")


class AuditPage(WireModel):
    """Rows of the trail, ascending.

    Attributes:
        begin: what the first row follows: the last row up to the index that was asked for, or where the kept part begins.
        lines: one for each row, as `shared.audit_chain` writes them.
        last_index: of the last row of the page; that of `begin` when there is none.
        head: the last row of the trail.
    """

    kind: Literal["audit"] = "audit"
    begin: AuditPoint
    lines: str
    last_index: LogIndex
    head: AuditPoint


class ListAudit(Query[AuditPage]):
    """Rows after an index; fewer than `limit` when they are long, but one at least where there is one."""

    kind: Literal["list_audit"] = "list_audit"
    after: LogIndex = 0
    limit: int = Field(default=AUDIT_PAGE_MAX, ge=1, le=AUDIT_PAGE_MAX)
