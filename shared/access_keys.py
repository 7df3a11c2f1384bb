"""What an access key looks like where people and programs keep it: `TV…`, a dot and the secret, on one line.

So it stands in a file, and so a request shows it: `Authorization: Bearer TV….secret`.
"""

from __future__ import annotations

import secrets
import string
from typing import Final

_PREFIX: Final = "TV"
_ID_CHARACTERS: Final = string.ascii_uppercase + string.digits
_DRAWN_CHARACTERS: Final = 18
"""93 bits: an id is never drawn twice."""

_SECRET_CHARACTERS: Final = string.ascii_letters + string.digits
_DRAWN_OF_SECRET: Final = 40
"""238 bits."""


def draw_key_id() -> str:
    """A new id. It is public, and fits `shared.contracts.access.KeyId`."""
    return _PREFIX + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_DRAWN_CHARACTERS))


def draw_secret() -> str:
    """A new secret: letters and digits."""
    return "".join(secrets.choice(_SECRET_CHARACTERS) for _ in range(_DRAWN_OF_SECRET))


def draw_credential() -> str:
    """A new id and a new secret, as one line has them."""
    return f"{draw_key_id()}.{draw_secret()}"


def bearer_of(credential: str) -> str:
    """The value of the header `Authorization` that shows this key."""
    return f"Bearer {credential}"
