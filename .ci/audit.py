#!/usr/bin/env python3
"""Asks the OSV database for known vulnerabilities of every distribution in uv.lock, by way of `uv audit`.

Where the database cannot be reached nothing is known, and this says so: SKIPPED, exit status 0. Arguments are handed on to uv.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
FOUND: Final = 1
"""The exit status of `uv audit` when it found something; 2 stands for every error."""

NOT_REACHED: Final = "error sending request"
"""What uv says when no answer came at all. An answer that is an error stays an error."""


def main(arguments: list[str]) -> int:
    """Print what is known; the exit status."""
    answer = subprocess.run(  # noqa: S603 - the uv of this checkout
        [Path(sys.executable).with_name("uv"), "audit", "--frozen", "--preview-features", "audit-command", *arguments],
        cwd=PROJECT_ROOT,
        # One try is enough to learn that there is no network.
        env={**os.environ, "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "30"},  # noqa: TID251 - handed on to uv
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode not in {0, FOUND} and NOT_REACHED in answer.stdout:
        sys.stdout.write(
            "SKIPPED: the audit of uv.lock, because the vulnerability database cannot be reached from here\n"
        )
        return 0
    sys.stdout.write(answer.stdout)
    return answer.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
