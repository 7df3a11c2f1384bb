"""Would the suites notice? Plants each bug into real processes, runs the tests that should fail, and prints a table.

    python -m tests.faults.planted_bugs [name ...]

A test may need luck to meet a bug, so each is tried a few times; without a bug, the same tests pass (`make test-faults`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.planted.bugs import BUGS, NOT_YET
from tests.faults.planted.plugin import VARIABLE

TRIES = 3
TIMEOUT_S = 600
_ROOT = Path(__file__).parents[2]
_CLUSTER = "tests/faults/cluster"
_DISK = "tests/faults/disk"

HUNTERS = {
    "no_directory_fsync": f"{_DISK}/test_sync_order.py",
    "acknowledge_at_one": f"{_CLUSTER}/test_process.py -k p7",
    "read_without_asking": f"{_CLUSTER}/test_network.py -k n1_",
    "believe_bytes": f"{_CLUSTER}/test_network.py -k wrong_bits",
    "forget_votes": f"{_DISK}/test_sync_order.py",
    "ignore_idempotency_keys": f"{_CLUSTER}/test_process.py -k p1_",
    "last_clock_wins": f"{_CLUSTER}/test_clock.py -k behind",
    "cache_without_asking": f"{_CLUSTER}/test_process.py -k p1_",
    "shorten_the_log": f"{_CLUSTER}/test_log_damage.py",
    "sync_again_after_a_failure": f"{_DISK}/test_failing_disk.py -k one_failed_sync",
}
"""Which tests are asked about which bug."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`evidence` is what the failing test said first."""

    bug: str
    is_caught: bool
    tries: int
    took_s: float
    evidence: str


def hunt(name: str) -> Verdict:
    """Run the tests of one bug until one fails, at most `TRIES` times."""
    began = time.monotonic()
    words = HUNTERS[name].split(" ")
    command = [sys.executable, "-m", "pytest", "-p", "tests.faults.planted.plugin", "-m", "faults", "-x", "-q", *words]
    evidence = ""
    for number in range(1, TRIES + 1):
        environment = {**os.environ, VARIABLE: name}  # noqa: TID251 handed on
        try:
            done = subprocess.run(
                command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            evidence = f"not finished after {TIMEOUT_S} s"
            continue
        if done.returncode == 1:
            return Verdict(name, True, number, time.monotonic() - began, _first_complaint(done.stdout))
        evidence = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
        if done.returncode != 0:
            break
    return Verdict(name, False, TRIES, time.monotonic() - began, evidence)


def _first_complaint(output: str) -> str:
    seed = next((line for line in output.splitlines() if line.startswith("seed ")), "")
    errors = [line.lstrip("E| ") for line in output.splitlines() if line.startswith("E  ")]
    # An error from among several tasks is drawn as a tree.
    errors += [line.lstrip("E| ") for line in output.splitlines() if line.startswith("  ") and "Error: " in line]
    return f"{errors[0] if errors else '?'} [{seed}]"


def main() -> int:
    """Entry point; 1 when a bug was not caught."""
    chosen = sys.argv[1:] or list(BUGS)
    verdicts = []
    for name in chosen:
        verdict = hunt(name)
        verdicts.append(verdict)
        state = f"caught at try {verdict.tries}" if verdict.is_caught else "NOT CAUGHT"
        print(
            f"{name:28} {state:16} {verdict.took_s:5.0f} s  {HUNTERS[name]}\n    {verdict.evidence[:200]}", flush=True
        )
    if not sys.argv[1:]:
        for name, reason in NOT_YET.items():
            print(f"{name:28} no such code yet: {reason}")
    caught = sum(verdict.is_caught for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} planted bugs caught")
    return 0 if caught == len(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
