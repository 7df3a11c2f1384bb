"""Keeps what a process writes, and what it holds in memory, from other users of the machine."""

from __future__ import annotations

import os
import resource
from typing import Final

OWNER_ONLY: Final = 0o077
"""The umask of every process: files 0600, folders 0700."""


def make_process_private() -> None:
    """Call first in every `main`: new files are for their owner only, and a crash leaves no core dump.

    A core would hold secrets and the bytes of files. SQLite, Redis clients and libraries create files with modes of
    their own, which the umask covers.
    """
    os.umask(OWNER_ONLY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
