"""The mutants fit the code of today, and the verdicts on them are right."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.mutation.__main__ import try_all
from tests.mutation.mutants import ROOT, Mutant, StaleMutantError, load_mutants
from tests.mutation.outcomes import Outcome
from tests.mutation.trials import BROKEN, CAUGHT, SURVIVED, Run, Tree, judge, judge_control

MUTANTS = load_mutants()

_MODULE = "def double(number):\n    return 2 * number\n"
_TESTS = """
import subprocess, sys, time
from module import double

def test_it_doubles():
    assert double(2) == 4

def test_it_is_even():
    assert double(2) % 2 == 0

def test_it_ends():
    while double(2) != 4:
        time.sleep(0.1)

def test_it_leaves_a_process():
    stay = [sys.executable, "-c", "import time; time.sleep(300)", "left behind by a mutant"]
    subprocess.Popen(stay, start_new_session=True)
    assert double(2) == 4
"""


def test_every_mutant_fits_the_code_of_today() -> None:
    """Its snippet occurs once, and what replaces it is Python; a mutant that fits no more is mended or removed."""
    misfits = []
    for mutant in MUTANTS:
        try:
            compile(mutant.mutated((ROOT / mutant.file).read_text()), mutant.file, "exec")
        except (OSError, StaleMutantError, SyntaxError) as error:
            misfits.append(f"{mutant.name}: {error}")
    assert not misfits, "\n".join(misfits)


def test_every_expected_test_exists() -> None:
    """A test that was renamed takes its mutants along."""
    missing = []
    for mutant in MUTANTS:
        path, _, name = mutant.test.partition("::")
        # A function; or a test case that hypothesis made of a state machine.
        first, *_ = name.partition("[")[0].split("::")
        if not (ROOT / path).exists() or not re.search(
            rf"(def {first}\(|^{first} = )", (ROOT / path).read_text(), re.MULTILINE
        ):
            missing.append(f"{mutant.name}: {mutant.test}")
    assert not missing, "\n".join(missing)


def test_every_mutant_has_a_name_of_its_own_and_a_reason() -> None:
    """The table says which is which, and any failure at all is no catch."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert [mutant.name for mutant in MUTANTS if len(mutant.because) < 4] == []


@pytest.mark.parametrize(
    ("outcome", "reason", "state"),
    [
        ("failed", "AssertionError: assert 3 == 4", CAUGHT),
        ("failed", "ImportError: no such name", BROKEN),
        ("passed", "", SURVIVED),
        ("skipped", "Skipped: needs root", BROKEN),
    ],
)
def test_only_the_expected_failure_of_the_expected_test_is_a_catch(outcome: str, reason: str, state: str) -> None:
    """Any other failure says that the trial is broken."""
    run = Run([Outcome("tests/a.py::test_a[1]", outcome, "call", reason)], "")
    assert judge("tests/a.py::test_a", "assert 3 == 4", run).state == state


def test_a_failure_of_another_test_is_no_catch() -> None:
    """Not even of one whose name begins alike."""
    run = Run([Outcome("tests/a.py::test_ab", "failed", "call", "AssertionError: assert 3 == 4")], "")
    assert judge("tests/a.py::test_a", "assert 3 == 4", run).state == BROKEN


@pytest.mark.parametrize(("outcome", "is_sound"), [("passed", True), ("failed", False), ("skipped", False)])
def test_a_control_that_does_not_pass_breaks_the_trial(outcome: str, *, is_sound: bool) -> None:
    """A test that fails anyway catches nothing."""
    verdict = judge_control("tests/a.py::test_a", Run([Outcome("tests/a.py::test_a", outcome, "call", "")], ""))
    assert (verdict is None) == is_sound


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A copy of a repository of one module and its tests."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "module.py").write_text(_MODULE)
    (source / "test_module.py").write_text(_TESTS)
    # Where the plugin that writes outcomes is found.
    (source / "conftest.py").write_text("")
    (source / "tests").symlink_to(ROOT / "tests")
    (source / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    subprocess.run(["git", "init", "-q"], cwd=source, check=True)
    tree = Tree(tmp_path / "copy", source)
    (tree.folder / "tests").symlink_to(ROOT / "tests")
    return tree


def mutant_of(test: str, new: str = "3 * number") -> Mutant:
    """A wrong change of the module."""
    return Mutant(
        name="a", group="a", file="module.py", old="2 * number", new=new, test=f"test_module.py::{test}", because="6 =="
    )


def test_a_trial_puts_the_mutant_in_and_takes_it_out_again(tree: Tree) -> None:
    """The test fails with it, and passes before and after; the tree that was copied is never touched."""
    mutant = mutant_of("test_it_doubles")
    assert judge_control(mutant.test, tree.run([mutant.test], is_control=True)) is None
    assert judge(mutant.test, mutant.because, tree.run_with(mutant)).state == CAUGHT
    assert (tree.folder / "module.py").read_text() == _MODULE
    assert judge_control(mutant.test, tree.run([mutant.test])) is None


def test_a_mutant_that_a_test_does_not_see_survives(tree: Tree) -> None:
    """The verdict of a weak test."""
    mutant = mutant_of("test_it_is_even", new="4 * number")
    assert judge(mutant.test, mutant.because, tree.run_with(mutant)).state == SURVIVED


def test_a_mutant_that_makes_a_test_wait_for_ever_is_ended(tree: Tree) -> None:
    """And its failure says why."""
    mutant = mutant_of("test_it_ends")
    assert judge(mutant.test, "Timeout", tree.run_with(mutant, timeout_s=1)).state == CAUGHT


def test_what_a_trial_left_running_is_ended(tree: Tree) -> None:
    """Also a process in a session of its own."""
    tree.run_with(mutant_of("test_it_leaves_a_process"))
    assert [p for p in psutil.process_iter(["cmdline"]) if "left behind by a mutant" in (p.info["cmdline"] or [])] == []


def test_a_stale_mutant_is_an_error_and_no_verdict(tree: Tree) -> None:
    """Whether its snippet is gone or occurs twice."""
    (tree.folder / "module.py").write_text(_MODULE * 2)
    with pytest.raises(StaleMutantError):
        tree.run_with(mutant_of("test_it_doubles"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quick_mutants_are_caught() -> None:
    """One or two of each kind; `make test-mutants` tries all."""
    assert try_all([mutant for mutant in MUTANTS if mutant.quick], jobs=2) == 0
