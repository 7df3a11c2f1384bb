"""Logs: bounded, and a traceback only for a defect."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster.settings import PROJECT_ROOT
from shared.errors import InternalError, OverloadedError, TrivetError
from shared.telemetry import shorten_broken_answer

PROGRAM = """
import os, sys
from pathlib import Path
import structlog
from shared import telemetry
telemetry.RotatingOutput.__init__.__defaults__ = (4096, (2, 1))
telemetry.configure_logging("storage-1", "info", Path(sys.argv[1]))
for number in range(100):
    structlog.get_logger("x").info("a line", number=number)
print("to standard output", flush=True)
os.write(2, b"from the interpreter\\n")
"""


def test_a_log_file_is_set_aside_before_it_is_too_long(tmp_path: Path) -> None:
    """No line is lost on the way, older files are given up, and all output of the process ends in the newest."""
    path = tmp_path / "storage-1.log"
    subprocess.run([sys.executable, "-c", PROGRAM, path], cwd=PROJECT_ROOT, check=True, timeout=60)
    newest, older = path.read_text().splitlines(), path.with_name("storage-1.log.1").read_text().splitlines()
    assert newest[-2:] == ["to standard output", "from the interpreter"]
    numbers = [json.loads(line)["number"] for line in older + newest[:-2]]
    assert numbers == list(range(numbers[0], 100))
    assert {json.loads(line)["node"] for line in older + newest[:-2]} == {"storage-1"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["storage-1.log", "storage-1.log.1"]
    assert all(file.stat().st_size <= 4096 for file in tmp_path.iterdir())
    assert all(file.stat().st_mode & 0o077 == 0 for file in tmp_path.iterdir())


def raised_within(error: TrivetError) -> RuntimeError:
    """As Starlette wraps an error that it could not answer."""
    wrapper = RuntimeError("Caught handled exception, but response already started.")
    wrapper.__cause__ = error
    return wrapper


OVERLOADED = OverloadedError("The gateway holds as many bytes as it may.")


@pytest.mark.parametrize(
    ("error", "is_defect"),
    [
        (OVERLOADED, False),
        (ExceptionGroup("tasks", [OVERLOADED]), False),
        (raised_within(OVERLOADED), False),
        (ExceptionGroup("tasks", [raised_within(OVERLOADED), ExceptionGroup("more", [OVERLOADED])]), False),
        (ExceptionGroup("tasks", [OVERLOADED, ValueError("a defect")]), True),
        (InternalError("A defect of ours."), True),
        (RuntimeError("a defect"), True),
    ],
)
def test_only_a_defect_is_logged_with_a_traceback(error: Exception, is_defect: bool) -> None:
    """An answer that ends for lack of budget is one line of a few hundred bytes; what is not ours keeps its traceback."""
    record = logging.LogRecord(
        "uvicorn.error", logging.ERROR, __file__, 1, "Exception in ASGI application\n", (), (type(error), error, None)
    )
    assert shorten_broken_answer(record)
    assert (record.exc_info is not None) is is_defect
    assert ("overloaded" in record.getMessage()) is not is_defect
    assert record.levelno == (logging.ERROR if is_defect else logging.WARNING)


@pytest.mark.parametrize("has_file", [False, True])
def test_lines_for_standard_output_arrive_whole(tmp_path: Path, has_file: bool) -> None:
    """In the log file where there is one, else on standard output; the log itself goes to standard error."""
    program = (
        "import sys; from pathlib import Path; from shared import telemetry\n"
        "path = Path(sys.argv[1]) if len(sys.argv) > 1 else None\n"
        "write = telemetry.configure_logging('gateway-1', 'info', path)\n"
        "write(''.join(f'{number:09}\\n' for number in range(50_000)))\n"
    )
    path = tmp_path / "gateway-1.log"
    arguments = [sys.executable, "-c", program, *([str(path)] if has_file else [])]
    ended = subprocess.run(arguments, cwd=PROJECT_ROOT, check=True, timeout=60, capture_output=True, text=True)
    lines = (path.read_text() if has_file else ended.stdout).splitlines()
    assert lines == [f"{number:09}" for number in range(50_000)]
    assert ended.stderr == ""
