"""How the programs of this folder are ended: whoever tells them to leave finds no cluster left behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130
"""The exit status."""


def run_until_told(main: Coroutine[object, object, T]) -> T:
    """`asyncio.run` that SIGTERM and SIGHUP end as Ctrl-C does: everything is cleaned up first.

    Raises:
        KeyboardInterrupt: it was ended.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    return asyncio.run(main)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
