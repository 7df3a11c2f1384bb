"""Runs S3 clients that are programs of their own; a test whose program is missing is skipped with a word."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

TIMEOUT_S = 100


def require_program(name: str, package: str) -> str:
    """Where it is; skips the test, saying how to get it, where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: {name} is not installed (Debian: apt-get install {package})")
    return found


@dataclass(frozen=True, slots=True)
class Program:
    """One program with the options that every call of it has, in an environment of its own."""

    command: tuple[str, ...]
    environment: Mapping[str, str]

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """What it printed. Fails the test when it ends in an error."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    def refusal(self, *arguments: str | Path) -> str:
        """What it printed when it ended in an error; fails the test when it did not."""
        done = self.run(*arguments)
        assert done.returncode != 0, f"{arguments} did not fail: {done.stdout.decode()}"
        return (done.stdout + done.stderr).decode()

    def run(self, *arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """To its end, whatever that is."""
        return subprocess.run(
            [*self.command, *map(str, arguments)],
            env=self.environment,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )


def clean_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this user's configuration: a home of its own."""
    home.mkdir(exist_ok=True)
    return {"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8", **extra}


def files_below(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of the last change, in nanoseconds, by the path below the folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents_below(folder: Path) -> dict[str, bytes]:
    """Without the times."""
    return {name: content for name, (content, _) in files_below(folder).items()}
