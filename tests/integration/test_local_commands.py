"""The launcher's commands where there is no cluster, and what it says of a choice that a person may regret."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from local_cluster import __main__ as commands
from local_cluster.__main__ import _rounds, port_warning
from local_cluster.administration import Administration
from local_cluster.cluster import Cluster
from local_cluster.plan import Shape, all_ports
from local_cluster.settings import PROJECT_ROOT, LocalSettings
from tests.free_ports import free_port_offset
from tests.waiting import block_until


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As make does."""
    return subprocess.run(
        [sys.executable, "-m", "local_cluster", *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, "TRIVET_LOCAL_DIR": str(folder)},  # noqa: TID251 - as a shell would
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "sentence"), [("status", "Nothing is running: `make run`"), ("down", "Nothing was running.")]
)
def test_where_nothing_runs_the_command_says_so_and_ends_well(tmp_path: Path, command: str, sentence: str) -> None:
    """No table of red rows, no error of make's behind it, no "Stopped." for what was not running; nothing is made."""
    folder = tmp_path / "local"
    ended = launch(folder, command)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sentence in ended.stdout
    assert not folder.exists()


@pytest.mark.parametrize(
    ("command", "names", "status", "sentence"),
    [
        ("up", ["storage-9"], 1, "There is no process storage-9; there are redis-1,"),
        ("restart", ["storage-1", "gateway"], 1, "There is no process gateway;"),
        ("down", ["storage-1"], 0, "Nothing was running."),
        ("status", ["storage-1"], 2, "status takes no names"),
        ("verify", [], 1, "Nothing is running"),
        ("node-add", [], 1, "Nothing is running"),
        ("node-drain", ["--cancel", "storage-4"], 1, "Nothing is running"),
        ("node-remove", ["storage-4", "--lost"], 1, "Nothing is running"),
        ("node-remove", ["storage-4", "--cancel"], 2, "--cancel goes with node-drain"),
        ("node-drain", ["storage-4", "--lost"], 2, "--lost with node-remove"),
        ("node-drain", [], 2, "node-drain takes one storage node"),
        ("node-remove", ["storage-1", "storage-2"], 2, "node-remove takes one storage node"),
    ],
)
def test_a_command_takes_the_names_of_processes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    names: list[str],
    status: int,
    sentence: str,
) -> None:
    """Of those that there are, where it can be asked for some of them; nothing is made for others."""
    monkeypatch.setattr(commands, "make_process_private", lambda: None)  # this process goes on with other tests
    monkeypatch.setattr(sys, "argv", ["local_cluster", command, *names])
    monkeypatch.setenv("TRIVET_LOCAL_DIR", str(tmp_path / "local"))
    try:
        ended = commands.main()
    except SystemExit as refused:
        ended = refused.code
    assert ended == status
    printed = capsys.readouterr()
    assert sentence in printed.out + printed.err
    assert not (tmp_path / "local").exists()


def test_the_settings_of_one_process_can_be_evaluated_by_a_shell(tmp_path: Path) -> None:
    """Whatever the folder is called; secrets stand in it as paths only."""
    folder = tmp_path / "it's $HOME"
    ended = launch(folder, "settings", "storage-2")
    shown = subprocess.run(
        ["sh", "-c", 'eval "$1"; echo "$TRIVET_NODE_ID $TRIVET_DATA_DIR"', "sh", ended.stdout],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"storage-2 {folder}/data/storage-2\n"
    assert (folder / "secrets" / "cluster-secret").read_text().strip() not in ended.stdout


def test_a_start_that_is_told_to_end_leaves_no_process_that_it_does_not_know(tmp_path: Path) -> None:
    """In the moment in which one is being started: `down` finds all of them."""
    folder = tmp_path / "local"
    environment = {"TRIVET_LOCAL_DIR": str(folder), "TRIVET_PORT_OFFSET": str(free_port_offset())}
    command = [sys.executable, "-m", "local_cluster", "up"]
    with subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        env=os.environ | environment,  # noqa: TID251 - as a shell would
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as start:
        block_until((folder / "log" / "consensus-2.log").exists, "a process is being started", within_s=60)
        start.terminate()
        _, said = start.communicate(timeout=60)
    try:
        assert (start.returncode, "Interrupted" in said) == (1, True), said
        assert launch(folder, "down").returncode == 0
        assert processes_of(folder) == []
    finally:
        for pid in processes_of(folder):
            os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """Those whose settings name the folder, whoever knows them."""
    return [
        process.pid
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("TRIVET_LOCAL_DIR") == str(folder)
    ]


def test_a_restart_of_all_services_takes_one_of_a_kind_at_a_time(tmp_path: Path) -> None:
    """So that a quorum of each is left; every service once, and no Redis, which reads no secret of theirs."""
    cluster = Cluster(tmp_path, shape=Shape(storage_nodes=4, gateways=2))
    rounds = _rounds(cluster)
    for group in rounds:
        kinds = [name.rpartition("-")[0] for name in group]
        assert len(set(kinds)) == len(kinds), group
    assert rounds[-2:] == [["gateway-1"], ["gateway-2"]]
    names = [name for group in rounds for name in group]
    assert sorted(names) == sorted(name for name in cluster.names() if not name.startswith("redis"))


def test_an_empty_setting_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TRIVET_LOCAL_DIR=` would otherwise put data and secrets into the working directory."""
    monkeypatch.setenv("TRIVET_LOCAL_DIR", "")
    monkeypatch.setenv("TRIVET_PORT_OFFSET", "")
    settings = LocalSettings()
    assert (settings.local_dir, settings.port_offset) == (PROJECT_ROOT / ".local", 0)


@pytest.mark.parametrize(
    ("offset", "is_refused"), [(0, False), (1989, False), (1990, True), (2000, True), (2001, False)]
)
def test_a_port_that_browsers_refuse_is_named(offset: int, is_refused: bool) -> None:
    """The Fetch standard blocks 10080, which is the gateway's port at offset 2000 and its operations port at 1990."""
    warning = port_warning([8080 + offset, 8090 + offset])
    assert (warning is not None) is is_refused
    assert warning is None or "10080" in warning


def test_no_two_processes_share_a_port() -> None:
    """Data, peer and operations ports of all kinds."""
    ports = all_ports(0)
    assert len(ports) == len(set(ports))
    assert {8080, 8090, 8101, 8181, 8201, 8251, 8281, 8301, 8381} <= set(ports)


def test_a_node_id_is_a_name_and_no_part_of_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """`storage-4?lost=true` must not remove storage-4 as lost."""
    asked = []
    with Administration("http://127.0.0.1:1", {}) as administration:
        monkeypatch.setattr(administration, "_call", lambda _, path: asked.append(path))
        administration.remove("storage-4?lost=true", is_lost=False)
        administration.cancel_drain("../storage-4")
        administration.remove("storage-4", is_lost=True)
    nodes = "/v1/cluster/nodes/"
    assert asked == [f"{nodes}storage-4%3Flost%3Dtrue", f"{nodes}..%2Fstorage-4/drain", f"{nodes}storage-4?lost=true"]
