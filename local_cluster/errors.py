"""The one error of the launcher: a sentence for the person at the terminal, never a traceback."""

from __future__ import annotations


class LocalClusterError(Exception):
    """The cluster cannot be started, reached or stopped. The message says what to do about it."""
