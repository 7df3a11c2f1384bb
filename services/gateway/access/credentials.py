"""Reads the credential in the header Authorization. Pure.

A request has one credential, once: a bearer, or a signed link (`links`), or none. S3's signatures will be one more form, on
a port of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.errors import CredentialInvalidError, InvalidRequestError, UnauthenticatedError

_BEARER: Final = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
_KEY_AND_SECRET: Final = re.compile(r"(TV[A-Z0-9]{18})\.([!-~]{1,256})")


@dataclass(slots=True)
class Bearer:
    """`Authorization: Bearer <id>.<secret>`."""

    key: str
    secret: str = field(repr=False)


def bearer_of(authorization: bytes) -> Bearer:
    """What the value of Authorization says.

    Raises:
        UnauthenticatedError: it is of a scheme that is not taken here; definite.
        CredentialInvalidError: it is a bearer of another form; definite.
    """
    match = _BEARER.fullmatch(authorization.strip())
    if match is None:
        raise UnauthenticatedError("Authorization is 'Bearer <id>.<secret>', with the id and the secret of a key.")
    parts = _KEY_AND_SECRET.fullmatch(match[1].decode("ascii"))
    if parts is None:
        raise invalid_credential()
    return Bearer(parts[1], parts[2])


def refuse_two_credentials(authorization: Sequence[bytes], *, has_link: bool) -> None:
    """Refuse to choose between two.

    Raises:
        InvalidRequestError: Authorization is given twice, or beside a signed link; definite.
    """
    if len(authorization) + has_link > 1:
        raise InvalidRequestError("A request has one credential, once: a bearer in Authorization, or a signed link.")


def invalid_credential() -> CredentialInvalidError:
    """One text for every reason, so that it tells nobody which ids there are."""
    return CredentialInvalidError("The credential is not known, not valid, or not valid any more.")
