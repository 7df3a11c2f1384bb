"""What is counted while files are copied."""

from __future__ import annotations

import io

import pytest

from trivet.cli.output import Output
from trivet.cli.progress import Progress
from trivet.cli.transfers import counted
from trivet.models import Progress as State


@pytest.fixture
def progress() -> Progress:
    return Progress(Output(stdout=io.StringIO(), stderr=io.StringIO()), "Copying")


def test_what_was_there_before_counts_as_done_and_not_as_moved(progress) -> None:
    with counted(progress) as tell:
        tell(State(done_bytes=60, total_bytes=100, resumed_bytes=50))
        tell(State(done_bytes=100, total_bytes=100, resumed_bytes=50))
    progress.finish_file()
    assert (progress.done_bytes, progress.resumed_bytes, progress.done_files) == (100, 50, 1)
    assert progress.summary("Copied").startswith("Copied 1 file, 100 B, 50 B of them before in ")


def test_a_file_that_fails_counts_nothing(progress) -> None:
    """Others go on, and the sum stays right."""
    with counted(progress) as tell:
        tell(State(done_bytes=30, total_bytes=30))

    def fail() -> None:
        with counted(progress) as tell:
            tell(State(done_bytes=70, total_bytes=100, resumed_bytes=20))
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (progress.done_bytes, progress.resumed_bytes) == (30, 0)
