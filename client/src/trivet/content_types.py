"""What kind of file a key says it is: the one guess of `put`, `upload_file`, the command line and the file system."""

from __future__ import annotations

import mimetypes
from posixpath import splitext


def guessed_type(key: str) -> str | None:
    """By the ending of a key; None where it says nothing, or that the file is compressed."""
    ending = splitext(key)[1].lower()
    if not ending or ending in mimetypes.encodings_map:
        return None
    # Python's own table goes first: that of the machine is another one on each, and takes longer to read than the guess.
    if (known := mimetypes.types_map.get(ending)) is not None:
        return known
    kind, encoding = mimetypes.guess_type(key)
    return None if encoding else kind
