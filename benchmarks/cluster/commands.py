"""Runs other programs for the benchmark: quietly, with an environment that holds no setting of this run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.cluster.errors import BenchmarkError

_NOT_HANDED_ON: Final = ("TRIVET_", "MAKE", "MFLAGS")
"""A cluster has default settings whatever the caller's are; make inside make must not inherit BASE=, ROWS= or -j."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment less settings of Trivet and of make, with `extra` on top."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_HANDED_ON)}  # noqa: TID251 - handed on
    return inherited | dict(extra or {})


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run to the end and give what it printed.

    Raises:
        BenchmarkError: it could not be started or failed; with the end of what it printed.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=clean_environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise BenchmarkError(f"{command[0]} cannot be started: {error.strerror}") from error
    with process:
        try:
            printed, complaint = process.communicate()
        except KeyboardInterrupt:
            # Not killed: it knows which processes it has begun to start, and stops them.
            process.terminate()
            process.communicate()
            raise
    if process.returncode:
        said = (complaint + printed).strip()[-1500:]
        raise BenchmarkError(f"`{' '.join(map(str, command))}` in {folder} ended with {process.returncode}:\n{said}")
    return printed.strip()
