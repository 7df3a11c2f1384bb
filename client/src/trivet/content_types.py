"""What kind of file a key says it is: the one guess of `put`, `upload_file`, the command line and the file system."""

from __future__ import annotations

import mimetypes


def guessed_type(key: str) -> str | None:
    """By the ending of a key; None where it says nothing, or that the file is compressed."""
    kind, encoding = mimetypes.guess_type(key)
    return None if encoding else kind
