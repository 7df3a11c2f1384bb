"""What stands on a terminal, at three widths, with and without colours; and what comes out of a pipe.

The pictures are in `golden`. What differs from run to run, times and versions, is written as `#` before they are compared.
`TRIVET_WRITE_GOLDEN=1` writes them anew: look at them then.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.chance import random_bytes
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(60)]

GOLDEN = Path(__file__).parent / "golden"
VARYING = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::[\d.]+Z)?|(?<=Version       )\d+")
# Of a file's bytes, which are the same in every run.
CONSTANT_BYTES = b"0123456789" * 123_456


FILES = {
    "2026/march/cat.jpg": 1_234_560,
    "2026/march/a rather long name that does not fit where the terminal is narrow.jpg": 999,
    "2026/april/東京タワー.jpg": 20_000,
    "notes.txt": 7,
}
ODD_KEY = "odd\nname\x1b[31m.txt"


@pytest.fixture(scope="module")
def filled(well_cluster) -> None:
    """A bucket `pictures` whose files are the same in every run; one has a name that would steer a terminal."""
    url, headers = well_cluster.gateway_url, well_cluster.bearer
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as gateway:
        gateway.put("/v1/buckets/pictures").raise_for_status()
        for key, size in FILES.items():
            body, kind = CONSTANT_BYTES[:size], {"content-type": "image/jpeg"}
            gateway.put(f"/v1/files/pictures/{key}", content=body, headers=kind).raise_for_status()
        source, target = ({"bucket": "pictures", "key": key} for key in ("notes.txt", ODD_KEY))
        gateway.post("/v1/copy", json={"source": source, "target": target}).raise_for_status()


def compare(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    shown = VARYING.sub("#", text)
    if os.getenv("TRIVET_WRITE_GOLDEN"):
        path.write_text(shown)
    assert path.exists(), f"{path} is missing; it would be\n{shown}"
    assert shown == path.read_text(), f"{path} is another picture now:\n{shown}"


PICTURES = {
    "ls": (("ls", "-r", "pictures"), (40, 80, 160)),
    "ls-folder": (("ls", "pictures"), (40, 80)),
    "tree": (("tree", "-s", "pictures"), (40, 80)),
    "du": (("du", "-d", "1", "pictures"), (80,)),
    "stat": (("stat", "pictures/2026/march/cat.jpg"), (40, 80)),
}


@pytest.mark.parametrize(("name", "columns"), [(name, columns) for name in PICTURES for columns in PICTURES[name][1]])
def test_a_terminal_shows_what_it_did(trivet, filled, name, columns) -> None:
    screen = trivet.terminal(*PICTURES[name][0], columns=columns)
    assert screen.code == 0
    assert b"\x1b[" in screen.data, "with colours"
    compare(f"{name}-{columns}", screen.text)


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_done_without(trivet, filled, setting) -> None:
    """The same picture, and not one byte that steers the terminal, names of files with such included."""
    screen = trivet.terminal("ls", "-r", "pictures", environment=dict([setting]))
    assert b"\x1b" not in screen.data
    compare("ls-80", screen.text)


@pytest.mark.parametrize("columns", [40, 80])
def test_the_help_fits(trivet, columns, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = trivet("--help").out
    assert max(map(len, text.splitlines())) <= columns
    compare(f"help-{columns}", text)


def test_a_pipe_gets_lines_with_tabs(trivet, filled) -> None:
    compare("ls-pipe", trivet("ls", "-r", "pictures").out)


@pytest.fixture
def slow_key(trivet, bucket, operations):
    """A key by which bytes go so slowly that a bar can be seen."""
    made = trivet("keys", "create", "slow", "--allow", f"read,write,list@{bucket}", "--json").document
    operations.patch(f"/v1/identities/{made['identity']}", json={"limits": {"bytes_per_s": 4 << 20}}).raise_for_status()
    path = trivet.folder / "slow.key"
    path.write_text(made["line"])
    yield path
    trivet("keys", "delete", made["identity"], "--yes")


@pytest.mark.parametrize(("columns", "shown"), [(40, "%"), (80, "MiB/s"), (160, " of 14.3 MiB")])
def test_a_bar_shows_how_far_it_is(trivet, bucket, slow_key, columns, shown) -> None:
    """With rate and estimate where there is room; it is gone at the end, and a summary stands in its place."""
    (trivet.folder / "film").write_bytes(random_bytes(15_000_000))
    trivet("cp", "film", f"{bucket}/film")
    screen = trivet.terminal("cp", f"{bucket}/film", "back", "--key", slow_key, columns=columns)
    assert screen.code == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", screen.data).decode()
    frames = [line for line in re.split(r"[\r\n]+", text) if "%" in line]
    assert any(shown in frame for frame in frames), frames
    assert any(re.search(r"0:0[1-9]", frame) for frame in frames), "an estimate"
    assert max(map(len, frames)) <= columns
    assert screen.text.startswith("Copied 1 file, 14.3 MiB in ")
    assert "%" not in screen.text


def test_a_bar_of_many_files_says_how_many_there_are(trivet, bucket) -> None:
    """From the beginning, though files are looked up as they are copied."""
    (trivet.folder / "many").mkdir()
    for number in range(60):
        (trivet.folder / "many" / f"{number}").write_bytes(b"x" * 100)
    screen = trivet.terminal("cp", "-r", "-j", "1", "many", f"{bucket}/", columns=100)
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", screen.data).decode()
    assert re.search(r"Copying \d+/60 ", text), text
    assert screen.text.startswith("Copied 60 files, 5.9 KiB in ")


def test_ctrl_c_leaves_a_clean_terminal(trivet, bucket, slow_key) -> None:
    """The bar is gone, one line says how to go on, and the cursor is back."""
    (trivet.folder / "film").write_bytes(random_bytes(15_000_000))
    seen = bytearray()

    def interrupt(running, data: bytes) -> None:
        had = b"%" in seen
        seen.extend(data)
        if b"%" in seen and not had:
            os.kill(running.pid, signal.SIGINT)

    command = ("cp", "film", f"{bucket}/film", "--part-size", "5MiB", "--key", slow_key)
    screen = trivet.terminal(*command, on_bytes=interrupt)
    assert screen.code == 130
    assert screen.text.strip() == "trivet: Interrupted. The same command goes on where this one stopped."
    assert screen.data.rindex(b"\x1b[?25h") > screen.data.rindex(b"\x1b[?25l")


@pytest.mark.parametrize(("reply", "code", "left"), [(b"n\n", 4, 1), (b"y\n", 0, 0), (b"\x03", 130, 1)])
def test_a_question_is_asked_on_a_terminal(trivet, bucket, reply, code, left) -> None:
    """It says how much it is about. No is a refusal, and so is Ctrl-C."""
    (trivet.folder / "a").write_bytes(b"a")
    trivet("cp", "a", f"{bucket}/sub/a")

    seen = bytearray()

    def answer(running, data: bytes) -> None:
        had = b"[y/N]" in seen
        seen.extend(data)
        if b"[y/N]" in seen and not had:
            # Python misses a Ctrl-C that comes between its question and its reading.
            block_until(lambda: "(sleeping)" in Path(f"/proc/{running.pid}/status").read_text(), "it reads the answer")
            os.write(running.terminal, reply)

    screen = trivet.terminal("rm", "-r", f"{bucket}/sub", on_bytes=answer)
    assert screen.text.startswith(f"Delete 1 file below trivet://{bucket}/sub? [y/N]:")
    assert screen.code == code
    assert len(trivet("ls", "-r", bucket, "--json").rows) == left


@pytest.mark.parametrize("quote", ["", '"'])
def test_bash_runs_nothing_that_a_key_says(trivet, bucket, quote) -> None:
    """What is completed is the name, whatever is in it; within quotes it may be another one."""
    key = 're$(touch "RUN")`touch RUN`;touch RUN;*'
    (trivet.folder / "film").write_bytes(b"a film")
    trivet("cp", "film", f"trivet://{bucket}/{key}")
    # What is typed, each when the former has been answered by what stands before it.
    waiting = [
        (b"ready>", b'eval "$(trivet completion bash)"\n'),
        (b"ready>", f"trivet cat {quote}{bucket}/r\t".encode()),
        (b"*", b"\n"),
        (b"ready>", b"exit\n"),
    ]
    seen = bytearray()

    def type_on(running, data: bytes) -> None:
        seen.extend(data)
        if waiting and waiting[0][0] in seen:
            seen.clear()
            os.write(running.terminal, waiting.pop(0)[1])

    screen = trivet.terminal(
        "--norc",
        "-i",
        command=("bash",),
        environment={"PS1": "ready>", "PATH": f"{trivet.program.parent}:{os.getenv('PATH')}"},
        columns=160,
        on_bytes=type_on,
    )
    assert not waiting, screen.text
    assert [path.name for path in trivet.folder.glob("RUN*")] == []
    assert quote or "a film" in screen.text, screen.text
