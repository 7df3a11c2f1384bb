"""Whoever a request is made by: an identity, a client without a credential, or Trivet itself. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from services.gateway.access.policy import ScopeTable
from shared.contracts.access import ANONYMOUS, SYSTEM, Action, IdentityLimits, Scope


@dataclass(frozen=True, slots=True)
class Principal:
    """What policy decides by.

    Attributes:
        id: an identity's, `anonymous` or `system`.
        is_root: may do everything, whatever its scopes say.
        limits: see `IdentityLimits`.
        key: by which it proved itself; None for `anonymous` and `system`.
        table: the scopes, ready to be asked.
    """

    id: str
    name: str
    is_root: bool = False
    scopes: tuple[Scope, ...] = ()
    limits: IdentityLimits = field(default_factory=IdentityLimits)
    key: str | None = None
    table: ScopeTable = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", ScopeTable(self.scopes))


UNKNOWN: Final = Principal("", "")
"""Whoever has not proved anything yet."""

NOBODY: Final = Principal(ANONYMOUS, ANONYMOUS)
"""A client without a credential, who may do nothing."""

READER: Final = Principal(ANONYMOUS, ANONYMOUS, scopes=(Scope(actions=[Action.READ, Action.LIST], bucket="*"),))
"""A client without a credential where everybody may read."""

WRITER: Final = Principal(
    ANONYMOUS,
    ANONYMOUS,
    scopes=(Scope(actions=[Action.READ, Action.LIST, Action.WRITE, Action.DELETE], bucket="*"),),
)
"""A client without a credential where everybody may read and change files."""

ITSELF: Final = Principal(SYSTEM, SYSTEM, is_root=True)
"""Trivet itself."""
