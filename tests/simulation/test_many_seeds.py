"""The program that lives many seeds: it goes on where it was ended, says all in its last line, and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.many_seeds import GROUP, Report, main
from tests.waiting import block_until

ROOT = Path(__file__).parents[2]


def live_evenly(seeds: range) -> Report:
    """Every seed happens once; 7 fails."""
    failures = {seed: "it went wrong" for seed in seeds if seed == 7}
    return Report(
        len(seeds), failures, Counter({"beginnings": len(seeds), "multiples of ten": sum(not s % 10 for s in seeds)})
    )


def live_for_ever(seeds: range) -> Report:
    """Says who lives, in the working folder, and does not end."""
    Path(str(os.getpid())).touch()
    while seeds:
        time.sleep(60)
    return Report()


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Its exit code and its last line."""
    monkeypatch.setattr(sys, "argv", ["many_seeds", "--jobs", "1", *arguments])
    code = main(live_evenly, "lives", range(1), failures="losses")
    return code, capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_says_everything(monkeypatch, capsys) -> None:
    """How many, how many failed, which seeds, and how often everything happened."""
    code, last = run(monkeypatch, capsys, "--seeds", "0:30")
    assert code == 1
    assert last.startswith("30 lives, 1 losses, seeds 0-29, ")
    assert last.endswith("coverage: beginnings 30, multiples of ten 3")
    assert run(monkeypatch, capsys, "--seeds", "8:9")[0] == 0


def test_the_same_command_goes_on_where_it_was_ended(monkeypatch, capsys, tmp_path) -> None:
    """What is done is not lived again, and counts all the same; a line that was cut off is as good as none."""
    done = tmp_path / "done.jsonl"
    run(monkeypatch, capsys, "--seeds", f"0:{GROUP}", "--done", str(done))
    lived: list[range] = []

    def live(seeds: range) -> Report:
        lived.append(seeds)
        return live_evenly(seeds)

    done.write_text(done.read_text() + '{"first": 20, "en')
    monkeypatch.setattr(sys, "argv", ["many_seeds", "--jobs", "1", "--seeds", f"0:{2 * GROUP}", "--done", str(done)])
    assert main(live, "lives", range(1)) == 1
    assert lived == [range(GROUP, 2 * GROUP)]
    assert f"{2 * GROUP} lives, 1 failures" in capsys.readouterr().out
    assert main(live, "lives", range(1)) == 1
    assert lived == [range(GROUP, 2 * GROUP)], "all of it was done"


def test_workers_end_with_the_one_that_began_them(tmp_path) -> None:
    """Killed, it cannot tell them."""
    program = (
        "from tests.simulation import many_seeds as m, test_many_seeds as t; m.main(t.live_for_ever, '', range(100))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--jobs", "2"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        block_until(lambda: len(list(tmp_path.iterdir())) == 2, "both live", within_s=60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    block_until(lambda: not any(lives(worker) for worker in workers), "both are gone", within_s=60)


def lives(process_id: int) -> bool:
    """Whether there is such a process, and not only what is left of one that nobody has asked for."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
