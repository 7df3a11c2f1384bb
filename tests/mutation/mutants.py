"""Mutants of shipped code: one wrong change each, and the one test that must notice it.

A mutant is a snippet of a module and what replaces it, not a patch with line numbers: code that moves within its file, or whose
surroundings change, needs no new mutant. The snippet must occur exactly once; a mutant whose snippet is gone is an error and
never "caught", so that the table cannot rot in silence (`test_mutants.py` checks that in every test run).

The mutants stand in `*.toml` files beside this module, one per room:

    [[mutant]]
    name = "an empty MAC is accepted"
    group = "M1"                                    # of the review; or the kind of fault
    file = "shared/peer_calls/request_signing.py"
    old = 'hmac.compare_digest(expected, mac)'      # occurs once in the file
    new = 'expected.startswith(mac)'
    test = "tests/unit/shared/peer_calls/test_request_signing.py::test_a_mac_that_is_nearly_right_is_refused"
    because = "DID NOT RAISE"                       # what the failure of that test says
    quick = true                                    # also run by `make test-slow`
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


class StaleMutantError(Exception):
    """The snippet of a mutant does not occur exactly once: the mutant says nothing about the code of today."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One wrong change of a shipped module.

    Attributes:
        name: what is wrong, in words; unique.
        group: M1 to M12 of the review, or the kind of fault.
        file: the module, relative to the root of the repository.
        old: a snippet that occurs once in the module.
        new: what stands there instead.
        test: the node id of the test that must fail; without the brackets of a parameter, any of its cases.
        because: a part of what the failure of that test says.
        quick: whether it belongs to the subset of `make test-slow`.
    """

    name: str
    group: str
    file: str
    old: str
    new: str
    test: str
    because: str
    quick: bool = False

    def mutated(self, source: str) -> str:
        """The source with the change in it.

        Raises:
            StaleMutantError: the snippet occurs not at all, or more than once.
        """
        if (count := source.count(self.old)) != 1:
            raise StaleMutantError(f"{self.name}: its snippet occurs {count} times in {self.file}")
        return source.replace(self.old, self.new)


def load_mutants(folder: Path = FOLDER) -> tuple[Mutant, ...]:
    """All mutants, in the order of the files and of their entries."""
    known = {field.name for field in fields(Mutant)}
    mutants: list[Mutant] = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["mutant"]:
            assert not entry.keys() - known, f"{path.name}: unknown fields {entry.keys() - known}"
            mutants.append(Mutant(**entry))
    return tuple(mutants)
