"""Decides who a request is made by and what that principal may do, with rows that are new enough to refuse by.

Two rules make the copy of the rows safe. What it allows is decided again when the log turns out to be ahead of it, before
anything is handed out or changed. What it would refuse is refused only after it was read anew: a key that was made at another
gateway a moment ago is known here, and one more read costs those who are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from services.gateway.access.context import AccessContext
from services.gateway.access.credentials import Bearer, bearer_of, invalid_credential
from services.gateway.access.key_table import KeyEntry, KeyTable
from services.gateway.access.key_use import KeyUse
from services.gateway.access.links import Now, SignedLink, check_link
from services.gateway.access.principal import Principal
from services.gateway.access.proofs import Proofs
from services.gateway.access.refusals import Refusals
from services.gateway.access.sealing import Sealer, UnsealError
from services.gateway.ports import Clock
from services.gateway.semantics.raw_names import FileName
from shared.errors import AccessDeniedError, CredentialInvalidError, TrivetError, UnauthenticatedError

logger = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 5.0
"""For so long what is under way goes on without another look at who asked for it."""

UNCONFIRMED_MAX_S: Final = 60.0
"""And for so long while consensus cannot be asked: whoever it answers may revoke what this gateway goes on with."""

Decision = Callable[[AccessContext], None]
"""Returns when the context's principal may; raises AccessDeniedError or UnauthenticatedError."""


class KeySecret:
    """Of a key that is in force, unsealed when it is asked for.

    Attributes:
        sealed: other bytes whenever the secret may be another one.
    """

    __slots__ = ("_key", "_unseal", "sealed")

    def __init__(self, key: KeyEntry, unseal: Callable[[KeyEntry], str | None]) -> None:
        self.sealed = key.secret.sealed
        self._key = key
        self._unseal = unseal

    def plain(self) -> str | None:
        """None where it cannot be unsealed here."""
        return self._unseal(self._key)


SignatureCheck = Callable[[KeySecret | None], None]
"""Returns when something is signed with that secret; raises CredentialInvalidError, for None also, which takes as long."""


class AccessControl:
    """Of one gateway."""

    def __init__(self, table: KeyTable, sealer: Sealer, clock: Clock, use: KeyUse, refusals: Refusals) -> None:
        self.table = table
        self.use = use
        self.refusals = refusals
        self._sealer = sealer
        self._proofs = Proofs()
        self._clock = clock

    async def identify(self, context: AccessContext, authorization: bytes) -> None:
        """Have `context` be that of whom a bearer proves, which is the value of Authorization.

        Raises:
            UnauthenticatedError: it is of another scheme; definite.
            CredentialInvalidError: nobody, or a key or identity that is disabled, deleted or expired; definite.
            TrivetError: as a metadata read.
        """
        if self.table.is_behind:
            await self.table.refresh()
        if self.recognise(context, authorization):
            return
        bearer = bearer_of(authorization)
        if (principal := self._known_principal(bearer)) is None:
            await self.table.refresh()
            if (principal := self._known_principal(bearer)) is None:
                raise invalid_credential()
        self._proofs.put(authorization, self.table.edition, bearer.key)
        self._enter_as(context, principal)

    def recognise(self, context: AccessContext, authorization: bytes) -> bool:
        """As `identify`, for a bearer that was right before; False, and nothing else, where it has to be looked at."""
        if self.table.is_behind or (principal := self._proved_before(authorization)) is None:
            return False
        self._enter_as(context, principal)
        return True

    def _enter_as(self, context: AccessContext, principal: Principal) -> None:
        context.principal = principal
        self.enter(context)
        self.use.used(principal.key or "")

    def _proved_before(self, authorization: bytes) -> Principal | None:
        key_id = self._proofs.find(authorization, self.table.edition)
        key = None if key_id is None else self.table.find(key_id)
        return None if key is None else self.principal_in_force(key)

    def _known_principal(self, bearer: Bearer) -> Principal | None:
        key = self.table.find(bearer.key)
        # The secret first, whatever else is wrong: the time that this takes tells nothing of the key.
        is_proved = self._sealer.is_secret_of(key, bearer.secret)
        return self.principal_in_force(key) if is_proved and key is not None else None

    async def identify_by_link(
        self,
        context: AccessContext,
        link: SignedLink,
        *,
        method: str,
        name: FileName,
        raw_headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """Have `context` be that of whoever made the link, for what the link is for and nothing else.

        Raises:
            CredentialInvalidError: as `identify`; definite.
            LinkExpiredError, HeaderNotSignedError, InvalidRequestError: as `check_link`; definite.
            TrivetError: as a metadata read.
        """

        def check(secret: KeySecret | None) -> None:
            plain = None if secret is None else secret.plain()
            check_link(link, plain, method=method, name=name, raw_headers=raw_headers, now=Now.of(self._clock))

        context.is_by_link = True
        await self.identify_by_signature(context, link.key, check)

    async def identify_by_signature(self, context: AccessContext, key_id: str, check: SignatureCheck) -> None:
        """Have `context` be that of the key `key_id`, when `check` returns for its secret.

        What is refused is decided again with rows that are read now, so `check` may be called twice.

        Raises:
            CredentialInvalidError: `check` raised it; definite.
            TrivetError: as a metadata read.
            Exception: whatever else `check` raises.
        """
        if self.table.is_behind:
            await self.table.refresh()
        try:
            principal = self._checked(key_id, check)
        except CredentialInvalidError:
            await self.table.refresh()
            principal = self._checked(key_id, check)
        context.principal = principal
        self.enter(context)
        self.use.used(key_id)

    def _checked(self, key_id: str, check: SignatureCheck) -> Principal:
        key = self.table.find(key_id)
        principal = None if key is None else self.principal_in_force(key)
        check(None if key is None or principal is None else KeySecret(key, self._unsealed))
        if principal is None:
            raise invalid_credential()
        return principal

    def _unsealed(self, key: KeyEntry) -> str | None:
        try:
            return None if self.table.realm is None else self._sealer.unseal(self.table.realm, key)
        except UnsealError:
            logger.warning("the secret of a key cannot be unsealed here", key=key.id)
            return None

    def enter(self, context: AccessContext) -> None:
        """The principal of `context` was made of the rows as they are here now."""
        context.edition, context.access_index = self.table.edition, max(0, self.table.access_index)

    def principal_in_force(self, key: KeyEntry) -> Principal | None:
        """Whom `key` proves now; None where it is disabled or has expired, or its identity is disabled or gone."""
        if key.expires_ns is not None and Now.of(self._clock).latest_ns >= key.expires_ns:
            return None
        return self.table.principal(key)

    def renew(self, context: AccessContext) -> None:
        """Make the context's principal of the rows as they are now, and decide what its route decided at the door again.

        Raises:
            CredentialInvalidError: its key does not prove anybody any more; definite.
            AccessDeniedError: it may not do this any more; definite.
        """
        if (key_id := context.principal.key) is not None:
            key = self.table.find(key_id)
            principal = None if key is None else self.principal_in_force(key)
            if principal is None:
                raise invalid_credential()
            context.principal = principal
        self.enter(context)
        context.require_target()

    async def decide(self, context: AccessContext, decision: Decision) -> None:
        """Returns when `decision` does; what it would refuse is decided with rows that are read now.

        Raises:
            AccessDeniedError, UnauthenticatedError: it refused; definite.
            TrivetError: as a metadata read.
        """
        if not self.is_allowed(context, decision):
            await self.table.refresh()
            self.renew(context)
            decision(context)

    def is_allowed(self, context: AccessContext, decision: Decision) -> bool:
        """Whether `decide` returns without another read: all that most requests need."""
        try:
            if context.edition != self.table.edition:
                self.renew(context)
            decision(context)
        except (AccessDeniedError, UnauthenticatedError):
            return False
        return True

    def is_current(self, context: AccessContext, access_index: int) -> bool:
        """Whether `context` was decided by rows as new as those of an answer; else `decide_again`."""
        return access_index <= self.table.access_index and context.edition == self.table.edition

    async def decide_again(self, context: AccessContext, decision: Decision, access_index: int) -> None:
        """As `decide`, where the log was found to have changes up to `access_index`, which the copy may lack."""
        if access_index > self.table.access_index:
            await self.table.refresh()
        if context.edition != self.table.edition:
            await self.decide(context, decision)

    def standing(self, context: AccessContext) -> StandingAccess:
        """What the request of `context` was just allowed."""
        return StandingAccess(self, context)

    async def after_change(self, context: AccessContext) -> None:
        """The log has refused a change, because something about its principal had changed. Raises as `renew`."""
        await self.table.refresh()
        self.renew(context)


class StandingAccess:
    """What lasts long, such as a download, goes on only while its principal may still do what its route does."""

    def __init__(self, control: AccessControl, context: AccessContext) -> None:
        self._control = control
        self._context = context
        self._next_s = time.monotonic() + CHECK_INTERVAL_S

    async def check(self) -> None:
        """Look again, if the last look is `CHECK_INTERVAL_S` ago.

        Raises:
            CredentialInvalidError, AccessDeniedError: it may not be done any more.
            TrivetError: nobody has been able to say so for `UNCONFIRMED_MAX_S`.
        """
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + CHECK_INTERVAL_S
        if self._is_unconfirmed(now_s, CHECK_INTERVAL_S):
            try:
                await self._control.table.refresh()
            except TrivetError:
                if self._is_unconfirmed(now_s, UNCONFIRMED_MAX_S):
                    raise
                return
        self._control.renew(self._context)

    def _is_unconfirmed(self, now_s: float, max_age_s: float) -> bool:
        table = self._control.table
        return table.is_behind or table.confirmed_s is None or now_s - table.confirmed_s > max_age_s
