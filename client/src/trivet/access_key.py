"""An access key as people and programs keep it: `TV…`, a dot and the secret, on one line, in a variable or in a file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from trivet.errors import ConfigError

_LINE: Final = re.compile(r"(TV[A-Z0-9]{18})\.([\x21-\x7e]{32,128})")
_SECRET_LENGTH_MIN: Final = 32


@dataclass(frozen=True, slots=True)
class AccessKey:
    """The id, which is public, and the secret, which no message shows."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """A key as one line has it.

        Raises:
            ConfigError: it is none. The message does not show it.
        """
        found = _LINE.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                "An access key is one line: TV and 18 of A-Z 0-9, a dot, and a secret of 32-128 visible characters."
            )
        return cls(found[1], found[2])

    @classmethod
    def load(cls, text_or_path: str) -> Self:
        """A key, or the one in the file of that path.

        Raises:
            ConfigError: there is no such file, or no key in it.
        """
        if _LINE.fullmatch(text_or_path.strip()):
            return cls.parse(text_or_path)
        path = Path(text_or_path).expanduser()
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            # The text may be a mistyped key, or its secret alone, which an error must not show.
            is_path = "TV" not in text_or_path and (
                len(text_or_path) < _SECRET_LENGTH_MIN
                or (path.parent not in {Path(), Path("/")} and path.parent.is_dir())
            )
            raise ConfigError(
                "TRIVET_KEY is neither an access key nor the path of a file that holds one: "
                f"{f'the file {path}' if is_path else 'it'} cannot be read."
            ) from (error if is_path else None)
        except ConfigError as error:
            raise ConfigError(f"{path} holds no access key. {error.message}") from None

    @property
    def line(self) -> str:
        """For a file, and for `Authorization: Bearer`."""
        return f"{self.id}.{self.secret}"
