"""Logging: one JSON object per line on standard error, with the service's id in each; no secrets, ever."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from io import TextIOBase
from pathlib import Path
from typing import Final, TextIO, cast

import structlog

from shared.errors import InternalError, TrivetError
from shared.request_trace import current_trace, request_ids
from shared.units import MIB

_STANDARD_OUTPUT: Final = 1
MAX_LOG_BYTES: Final = 16 * MIB
"""A longer log file is set aside as `<name>.1`, over the one before."""


def configure_logging(node_id: str, level: str, log_file: Path | None = None) -> Callable[[str], object]:
    """Set up structlog and the standard library's logging once, at the start of a process.

    With `log_file`, standard output and error go there from now on, a traceback of the interpreter included, and the
    file is rotated.

    Returns:
        What writes whole lines to standard output, from any thread.
    """
    numeric = logging.getLevelNamesMapping()[level.upper()]
    stream = sys.stderr if log_file is None else cast("TextIO", RotatingOutput(log_file))
    shared_processors: list[structlog.typing.Processor] = [
        _named(node_id),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared_processors, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared_processors,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(numeric, logging.WARNING))
    logging.getLogger("uvicorn.error").addFilter(shorten_broken_answer)
    return write_standard_output if log_file is None else stream.write


def write_standard_output(text: str) -> None:
    """All of it, past Python's own stream: whoever waits here for a slow reader holds no lock. Raises OSError."""
    left = text.encode(errors="backslashreplace")
    while left:
        left = left[os.write(_STANDARD_OUTPUT, left) :]


def _named(node_id: str) -> structlog.typing.Processor:
    """Puts the service's id into each line, and by which requests it is at work.

    The id not by a context variable: work in the background has none.
    """

    def name(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("node", node_id)
        if trace := current_trace.get():
            event.setdefault("requests", request_ids(trace))
        return event

    return name


class RotatingOutput(TextIOBase):
    """The process' standard output and error as one file of bounded length.

    The descriptors themselves are moved, not only Python's streams, so that what C code and the interpreter write is in
    the file, too, and a launcher may have opened the same file for them before.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES, descriptors: tuple[int, ...] = (2, 1)) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._descriptors = descriptors
        self._lock = threading.Lock()
        self._open()

    def write(self, text: str, /) -> int:
        """Append whole lines: one call, one write, so that lines of several threads do not mix."""
        line = text.encode(errors="backslashreplace")
        with self._lock:
            if os.fstat(self._descriptors[0]).st_size + len(line) > self._max_bytes:
                self._rotate()
            os.write(self._descriptors[0], line)
        return len(text)

    def _rotate(self) -> None:
        try:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._open()
        except OSError:
            return  # a log that is too long is better than none

    def _open(self) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for descriptor in self._descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)


def shorten_broken_answer(record: logging.LogRecord) -> bool:
    """Log an answer that ended with one of our own errors in one line: a traceback is for defects.

    When the answer has begun, such an error can only break the connection; uvicorn logs it as a defect of the
    application, with the whole way that it took.
    """
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if error is not None and (reasons := expected_reasons(error)):
        record.msg = "an answer was broken off: " + "; ".join(f"{reason.code}: {reason.message}" for reason in reasons)
        record.args = ()
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def expected_reasons(error: BaseException) -> list[TrivetError]:
    """The errors of ours that `error` consists of; empty when any part of it is a defect."""
    if isinstance(error, TrivetError):
        return [] if isinstance(error, InternalError) else [error]
    if isinstance(error, BaseExceptionGroup):
        parts = [expected_reasons(part) for part in error.exceptions]
        return [reason for part in parts for reason in part] if all(parts) else []
    # Starlette says so of an error that it would have answered, had the answer not begun.
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return expected_reasons(error.__cause__)
    return []
