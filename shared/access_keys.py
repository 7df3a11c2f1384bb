"""What an access key looks like where people and programs keep it: `TV…`, a dot and the secret, on one line.

So it stands in a file, and so a request shows it: `Authorization: Bearer TV….secret`.
"""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from typing import Final, Self

SECRET_MIN: Final = 32
SECRET_MAX: Final = 128
"""Characters of a secret, however it was made."""

_PREFIX: Final = "TV"
_ID_CHARACTERS: Final = string.ascii_uppercase + string.digits
_DRAWN_CHARACTERS: Final = 18
"""93 bits: an id is never drawn twice."""

_SECRET_CHARACTERS: Final = string.ascii_letters + string.digits
_DRAWN_OF_SECRET: Final = 40
"""238 bits."""


_LINE: Final = re.compile(rf"(TV[A-Z0-9]{{18}})\.([\x21-\x7e]{{{SECRET_MIN},{SECRET_MAX}}})")


@dataclass(frozen=True, slots=True)
class PlainKey:
    """An access key as one line has it."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Raises ValueError, which shows nothing of `line`."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(
                "an access key is one line: TV and 18 of A-Z 0-9, a dot, and a secret of "
                f"{SECRET_MIN}-{SECRET_MAX} visible ASCII characters"
            )
        return cls(found[1], found[2])

    def line(self) -> str:
        """For a file, and for `Authorization: Bearer`."""
        return f"{self.id}.{self.secret}"


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
