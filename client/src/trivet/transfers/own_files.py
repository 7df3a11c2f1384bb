"""Opens files whose names others may know, and where they may have put something: a link, or a name of another file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

_TRIES_MAX: Final = 100


def open_own(path: Path, flags: int, mode: int) -> int:
    """A descriptor of the file of that name, which is made where there is none.

    What is no regular file of this user, or has a second name, is removed first: writing to it would change something else. The
    folder's owner counts as this user, for some file systems show all files as theirs.

    Raises:
        OSError: it cannot be opened, or not removed.
    """
    for _ in range(_TRIES_MAX):
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, mode)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        else:
            facts = os.fstat(descriptor)
            owners = {os.geteuid(), path.parent.stat().st_uid}
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_uid in owners:
                return descriptor
            os.close(descriptor)
            if facts.st_nlink == 0:
                # Another process is just done with it.
                continue
        path.unlink(missing_ok=True)
    raise FileExistsError(errno.EEXIST, "it is put in the way again and again", str(path))
