"""Runs named tests in a copy of the tree, with and without a mutant, and judges what became of them.

The working tree is never touched: each worker has its own copy of the tracked and new files. A trial ends by itself: pytest's
own timeout fails the test, a later one ends the whole run, and every process that the run left behind (a mutated cluster) is
known by a variable of its environment and ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.mutation.mutants import ROOT, Mutant
from tests.mutation.outcomes import PLUGIN, VARIABLE, Outcome, read_outcomes

TEST_TIMEOUT_S = 45
"""For one test; a mutant that makes it wait for ever fails it with this timeout."""

_GRACE_S = 30
"""For pytest to start and to end, beyond the timeouts of its tests."""

_MARK = "TRIVET_TRIAL"

CAUGHT = "caught"
SURVIVED = "SURVIVED"
BROKEN = "BROKEN"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial of one mutant showed.

    Attributes:
        state: `CAUGHT`: the expected test failed for the expected reason. `SURVIVED`: it passed. `BROKEN`: the trial says
            nothing, because the test fails without the mutant, too, or failed for another reason, or did not run.
        evidence: the failure, or what is broken.
    """

    state: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of pytest left: the outcomes of its tests, and its last words when there are none."""

    outcomes: list[Outcome]
    last_words: str

    def of(self, test: str) -> list[Outcome]:
        """The outcomes of the test, or of all its cases."""
        return [outcome for outcome in self.outcomes if is_case_of(outcome.test, test)]


def is_case_of(node_id: str, test: str) -> bool:
    """Whether the node is the test itself or a case of it."""
    return node_id == test or node_id.startswith((f"{test}[", f"{test}::"))


def judge(expected: str, because: str, run: Run) -> Verdict:
    """The verdict on a run with a fault in the code, given that the test passes without it."""
    outcomes = run.of(expected)
    failures = [outcome for outcome in outcomes if outcome.outcome == "failed"]
    for failure in failures:
        if because in failure.reason:
            return Verdict(CAUGHT, failure.reason)
    if failures:
        return Verdict(BROKEN, f"failed for another reason: {failures[0].reason}")
    if any(outcome.outcome == "passed" for outcome in outcomes):
        return Verdict(SURVIVED, "the test passes")
    return Verdict(BROKEN, f"the test did not run: {run.last_words}")


def judge_control(test: str, run: Run) -> Verdict | None:
    """What is wrong with the test itself, or None when it passes without a fault in the code."""
    outcomes = run.of(test)
    if not outcomes:
        return Verdict(BROKEN, f"without the mutant, the test did not run: {run.last_words}")
    if wrong := [outcome for outcome in outcomes if outcome.outcome == "failed"]:
        return Verdict(BROKEN, f"fails without the mutant, too: {wrong[0].reason}")
    if all(outcome.outcome == "skipped" for outcome in outcomes):
        return Verdict(BROKEN, f"skipped here: {outcomes[0].reason}")
    return None


class Tree:
    """A copy of the repository's files, tracked and new, in which one mutant at a time can live."""

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in listed.stdout.split("\0"):
            if name and (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / name, folder / name, follow_symlinks=False)

    def run_with(self, mutant: Mutant, *, timeout_s: float = TEST_TIMEOUT_S) -> Run:
        """Run the mutant's test with the mutant in the tree; it is out again when this returns.

        Raises:
            StaleMutantError: the mutant does not fit the code.
        """
        path = self.folder / mutant.file
        original, times = path.read_bytes(), path.stat()
        path.write_text(mutant.mutated(original.decode()))
        try:
            return self.run([mutant.test], timeout_s=timeout_s)
        finally:
            path.write_bytes(original)
            # As it was, so that what was compiled before is still right.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def run(
        self,
        tests: list[str],
        *,
        is_control: bool = False,
        timeout_s: float = TEST_TIMEOUT_S,
        plugins: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Run the tests, each for at most `timeout_s`; ends every process that they left."""
        report = self.folder / f"outcomes-{uuid.uuid4()}.jsonl"
        mark = str(uuid.uuid4())
        changes = {_MARK: mark, VARIABLE: str(report), **(environment or {})}
        if not is_control:
            # What a mutant compiles to must not be taken for the module of the next trial.
            changes["PYTHONDONTWRITEBYTECODE"] = "1"
        # schemathesis takes as long to import as everything else together, and only the specifications need it.
        chosen = ("no:cacheprovider", "no:schemathesis", PLUGIN, *plugins)
        options = [word for plugin in chosen for word in ("-p", plugin)]
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", f"--timeout={timeout_s}", *options, *tests]
        output = self.folder / f"output-{mark}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **changes},  # noqa: TID251 handed on
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(timeout_s * len(tests) + _GRACE_S)
            except subprocess.TimeoutExpired:
                file.write(b"\nended by force: it did not stop by itself")
            finally:
                end_all(mark)
                process.wait()
        last_words = " ".join(output.read_text(errors="replace").split()[-40:])
        output.unlink()
        run = Run(read_outcomes(report), last_words)
        report.unlink(missing_ok=True)
        return run


def end_all(mark: str) -> None:
    """End every process that carries the mark, until there is none; a daemon leaves its session, but keeps its environment."""
    deadline = time.monotonic() + _GRACE_S
    while marked := [process for process in psutil.process_iter() if _carries(process, mark)]:
        assert time.monotonic() < deadline, f"still running: {marked}"
        for process in marked:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(marked, timeout=1)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
