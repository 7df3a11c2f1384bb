"""Many files at a time."""

from __future__ import annotations

import pytest

from trivet import errors
from trivet.cli.output import Output
from trivet.cli.workers import Failures, run_all


async def numbers():
    for number in range(5):
        yield number


async def test_whatever_one_file_does_the_others_go_on(capsys) -> None:
    """Even where this program has a defect, which is said."""
    done, failures = [], Failures(Output())

    async def do(number: int) -> None:
        if number == 2:
            raise OverflowError("too large")
        done.append(number)

    await run_all(numbers(), do, jobs=2, failures=failures, name_of=str)
    assert sorted(done) == [0, 1, 3, 4]
    assert failures.count == 1
    assert "trivet: 2: a defect of this program: OverflowError: too large." in capsys.readouterr().err


async def test_what_every_file_would_meet_ends_all() -> None:
    failures = Failures(Output())

    async def do(number: int) -> None:
        raise errors.ConnectionFailed("nobody answers", definite=True)

    with pytest.raises(errors.ConnectionFailed):
        await run_all(numbers(), do, jobs=2, failures=failures, name_of=str)
    assert failures.count == 0
