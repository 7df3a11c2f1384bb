"""The limit of open files, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from shared.web import descriptors

_PROGRAM = """
import resource, sys
from shared.web.descriptors import max_connections, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[1:])))
raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), max_connections())
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(64, 512, [512, 512, 256]), (512, 512, [512, 512, 256]), (1024, 20_000, [20_000, 20_000, 8_192])],
)
def test_the_soft_limit_is_raised_and_half_of_it_is_for_clients(soft, hard, expected) -> None:
    """Never above the hard one."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip(f"NOT TESTED: this process may not open {hard} files")
    command = [sys.executable, "-c", _PROGRAM, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [int(number) for number in done.stdout.split()] == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)),
        ((100_000, resource.RLIM_INFINITY), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_no_limit_is_lowered(limits, expected, monkeypatch) -> None:
    """Nor is an endless one asked for."""
    told = []
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda _, wanted: told.append(wanted))
    descriptors.raise_descriptor_limit()
    assert told == ([] if expected is None else [expected])
