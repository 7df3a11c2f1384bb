"""A pytest plugin that writes what became of each test, and why, as JSON lines into the file that `VARIABLE` names.

Why not the report for people: it quotes the source around a failure, so a reason searched in it could be found in the text of
the test itself. Here stands only what was raised, with the members of a group and the causes one by one.

Properties are tried with the same examples each time, and a failing one is not made smaller: nobody reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from hypothesis import Phase, settings

PLUGIN = "tests.mutation.outcomes"
VARIABLE = "TRIVET_TEST_OUTCOMES"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one test.

    Attributes:
        test: its node id.
        outcome: `passed`, `failed` or `skipped`; a failure in a fixture is a failure.
        phase: `setup`, `call` or `teardown`; where it failed.
        reason: what was raised; empty for a test that passed.
    """

    test: str
    outcome: str
    phase: str
    reason: str


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes in the file, in the order of the run; none when the run did not get that far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def raised(error: BaseException) -> str:
    """Type and message of an error, of its cause, and of each member of a group."""
    text = f"{type(error).__name__}: {error}"
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    if error.__cause__ is not None:
        inner.append(error.__cause__)
    return "\n".join([text, *map(raised, inner)])


def pytest_configure() -> None:
    """Make properties repeatable and quick to fail."""
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    settings.register_profile(PLUGIN, derandomize=True, database=None, phases=phases)
    settings.load_profile(PLUGIN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write one line when the call of a test ends, or when a fixture of it fails or skips it."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        reason = raised(call.excinfo.value) if call.excinfo is not None else ""
        outcome = Outcome(item.nodeid, report.outcome, report.when, reason)
        with Path(os.environ[VARIABLE]).open("a") as file:  # noqa: TID251 a plugin has no settings
            file.write(json.dumps(asdict(outcome)) + "\n")
    return report
