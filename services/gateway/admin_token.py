"""Who may change the cluster through a gateway's operations port: the holder of the admin token, which has no default."""

from __future__ import annotations

import hmac

from shared.errors import ForbiddenError, UnauthenticatedError


class AdminToken:
    """Invariant: without a configured token every change is refused."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def require(self, authorization: str | None) -> None:
        """Let a request pass whose Authorization header carries the token.

        Raises:
            ForbiddenError: no token is configured; definite.
            UnauthenticatedError: the header is missing or wrong; definite.
        """
        if self._token is None:
            raise ForbiddenError("Cluster changes are switched off: this gateway has no admin token.")
        scheme, _, given = (authorization or "").partition(" ")
        # Constant time, so that the token cannot be guessed byte by byte.
        is_right = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise UnauthenticatedError("Cluster changes need the admin token: 'Authorization: Bearer ...'.")
