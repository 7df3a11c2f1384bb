"""Do the tests notice? Puts each mutant of shipped code into a copy of the tree and runs the one test that must fail.

    python -m tests.mutation [--quick] [--jobs 2] [part of a name, a group or a file ...]

A control run comes first: the same tests without a mutant must pass. Exit status 1 if a mutant survives or a trial is broken.

Why not a mutation tester from PyPI: mutmut 3 and cosmic-ray 8 make mutants by operators (`<` for `<=`) and take any failing
test for a catch; mutatest had its last release in 2022. None takes a change that a person wrote, such as an fsync that is
missing or an answer before the commit, and none holds a change to one named test that fails for a named reason, so a test that
fails by luck, or because nothing starts any more, passes for a strong one there. What is left to share is to copy a tree and
to run pytest. For finding new mutants in a pure module, mutmut serves well beside this.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.mutants import Mutant, StaleMutantError, load_mutants
from tests.mutation.trials import BROKEN, CAUGHT, Run, Tree, Verdict, judge, judge_control

_WIDTHS = "{:80} {:48} {:9} {:>6}  {}"


def main() -> int:
    """Entry point; 0 when every mutant was caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--quick", action="store_true", help="only the subset of `make test-slow`")
    parser.add_argument("--jobs", type=int, default=2, help="how many trials at once")
    parser.add_argument("words", nargs="*", help="only mutants with one of these words in name, group or file")
    chosen = parser.parse_args()
    mutants = [
        mutant
        for mutant in load_mutants()
        if (mutant.quick or not chosen.quick)
        and (not chosen.words or any(word in f"{mutant.group} {mutant.name} {mutant.file}" for word in chosen.words))
    ]
    began = time.monotonic()
    survivors = try_all(mutants, max(1, min(chosen.jobs, len(mutants))))
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants caught in {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def try_all(mutants: list[Mutant], jobs: int) -> int:
    """Try the mutants and print a table; gives how many were not caught."""
    print(_WIDTHS.format("mutant", "file", "verdict", "s", "expected test"))
    ordered = sorted(mutants, key=lambda mutant: mutant.test)
    with tempfile.TemporaryDirectory(prefix="trivet-mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        shares = [ordered[number::jobs] for number in range(jobs)]
        folders = [Path(folder) / str(number) for number in range(jobs)]
        return sum(pool.map(_try_share, shares, folders))


def _try_share(mutants: list[Mutant], folder: Path) -> int:
    tree = Tree(folder)
    control = tree.run(sorted({mutant.test for mutant in mutants}), is_control=True)
    uncaught = 0
    for mutant in mutants:
        began = time.monotonic()
        verdict = _try(mutant, tree, control)
        uncaught += verdict.state != CAUGHT
        _print(mutant, verdict, time.monotonic() - began)
    return uncaught


def _try(mutant: Mutant, tree: Tree, control: Run) -> Verdict:
    if (verdict := judge_control(mutant.test, control)) is not None:
        return verdict
    try:
        return judge(mutant.test, mutant.because, tree.run_with(mutant))
    except StaleMutantError as error:
        return Verdict(BROKEN, str(error))


def _print(mutant: Mutant, verdict: Verdict, took_s: float) -> None:
    name = f"{mutant.group}: {mutant.name}"
    line = _WIDTHS.format(name, mutant.file, verdict.state, f"{took_s:.1f}", mutant.test.removeprefix("tests/"))
    if verdict.state != CAUGHT:
        line += "\n    " + " ".join(verdict.evidence.split())[:300]
    # One write, so that the lines of two workers do not mix.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
