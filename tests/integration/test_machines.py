"""Machines without containers: what the units start, at an address each, by the commands of docs/deploy-machines.md.

A machine is a network namespace with its address, and mounts of its own for what lies at fixed places. systemd is not there: the
units' command lines are started as they stand, with nothing in the environment but their files of settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from local_cluster.errors import LocalClusterError
from local_cluster.machines import FOLDER, write_machines
from local_cluster.redis_server import find_redis_server
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("trivet-*.service"))
ROLES = ("clock", "consensus", "redis", "storage", "gateway")
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PLACES = (Path("/etc/trivet"), Path("/var/lib/trivet"), Path("/run/trivet-redis"), Path("/opt/trivet"))
WITHIN_S = 60.0


def commands(*, containing: str) -> str:
    """The one block of the page with these words, as `make` and a shell would run it here."""
    page = (ROOT / "docs" / "deploy-machines.md").read_text()
    [found] = [textwrap.dedent(text) for _, text in BLOCK.findall(page) if containing in text]
    # What the recipe runs; `make` would look after the environment first, which tests must not.
    assert "\t@$(BIN)/python -m local_cluster.machines $(MACHINES)\n" in (ROOT / "Makefile").read_text()
    return re.sub(r'make machines MACHINES="(.*)"', r".venv/bin/python -m local_cluster.machines \1", found)


def setting(unit: str, name: str) -> list[str]:
    """All values of a setting in a unit's file."""
    lines = (ROOT / "systemd" / f"trivet-{unit}.service").read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


class Lan:
    """A bridge in a namespace of its own; nothing of it reaches this machine's network."""

    def __init__(self) -> None:
        self.name = f"trivet-lan-{os.getpid()}"
        self._names: list[str] = []

    def __enter__(self) -> Self:
        self.add(self.name)
        self.ip("link", "add", "lan", "type", "bridge")
        self.ip("link", "set", "lan", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "del", name], check=True)

    def add(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._names.append(name)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self.name, *words], check=True)

    def plug_in(self, name: str, address: str) -> None:
        self.add(name)
        port = f"port{len(self._names)}"
        self.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.ip("link", "set", port, "master", "lan", "up")
        subprocess.run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)


class Machine:
    """One machine of the page: `a`, `b`, ..."""

    def __init__(self, lan: Lan, folder: Path, name: str, address: str) -> None:
        self._namespace = f"{lan.name}-{name}"
        lan.plug_in(self._namespace, address)
        self.folder = folder / f"machine-{name}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for part in ("etc", "var", "run", "log"):
            (self.folder / part).mkdir(parents=True)

    def install(self, files: Path) -> None:
        """What rsync brings to /etc/trivet."""
        shutil.rmtree(self.folder / "etc")
        shutil.copytree(files, self.folder / "etc")

    def start(self, unit: str) -> None:
        """As `systemctl start`, but for the user."""
        for path in setting(unit, "ConditionPathExists"):
            if not (self.folder / "etc" / Path(path).name).exists():
                return
        for path in setting(unit, "StateDirectory"):
            (self.folder / "var" / Path(path).relative_to("trivet")).mkdir(mode=0o700, exist_ok=True)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        for path in setting(unit, "EnvironmentFile"):
            lines = (self.folder / "etc" / Path(path).name).read_text().splitlines()
            environment |= dict(line.split("=", 1) for line in lines)
        [command] = setting(unit, "ExecStart")
        command = command.replace("/usr/bin/redis-server", str(find_redis_server()))
        with (self.folder / "log" / unit).open("ab") as log:
            self.processes[unit] = subprocess.Popen(
                self._inside(f"cd {setting(unit, 'WorkingDirectory')[0]} && exec {command}"),
                env=environment,
                stdout=log,
                stderr=log,
            )

    def run(self, script: str, folder: Path) -> str:
        """What a shell in `folder` on this machine prints."""
        done = subprocess.run(
            self._inside(f"cd {folder}\nset -e -o pipefail\n{script}"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def is_ready(self) -> bool:
        answer = subprocess.run(
            self._inside("curl -fsS -o /dev/null http://127.0.0.1:8080/readyz"), capture_output=True, check=False
        )
        return answer.returncode == 0

    def kill(self) -> None:
        """The machine is off."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def restart(self, unit: str) -> None:
        self.processes[unit].send_signal(signal.SIGTERM)
        assert self.processes[unit].wait(timeout=WITHIN_S) in {0, -signal.SIGTERM}, (
            self.folder / "log" / unit
        ).read_text()[-2000:]
        self.start(unit)

    def _inside(self, script: str) -> list[str]:
        """`script` in the namespaces of this machine, in place of the process that makes them."""
        places = (self.folder / "etc", self.folder / "var", self.folder / "run", ROOT)
        mounts = "\n".join(f"mount --bind {source} {place}" for source, place in zip(places, PLACES, strict=True))
        entered = ["ip", "netns", "exec", self._namespace, "unshare", "--mount", "--propagation", "private"]
        return [*entered, "bash", "-c", f"set -e\n{mounts}\n{script}"]


@pytest.fixture
def places() -> Iterator[None]:
    """The fixed places, as mount points; a machine that has them runs a real Trivet, and is left alone."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip (Debian: iproute2) to make machines")
    made = []
    for place in PLACES:
        if place.exists() and any(place.iterdir()):
            pytest.skip(f"{place} is in use")
        if not place.exists():
            place.mkdir()
            made.append(place)
    yield
    for place in made:
        place.rmdir()


@pytest.fixture
def admin(tmp_path: Path) -> Path:
    """A clone as the page speaks of it; what it writes stays in it."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("local_cluster", "services", "shared", ".venv"):
        (clone / name).symlink_to(ROOT / name)
    return clone


@pytest.fixture
def lan(places: None) -> Iterator[Lan]:
    with Lan() as lan:
        yield lan


@pytest.fixture
def machines(lan: Lan, tmp_path: Path) -> Iterator[dict[str, Machine]]:
    made = {name: Machine(lan, tmp_path, name, f"10.77.0.{number}") for number, name in enumerate("abcd", 1)}
    yield made
    for machine in made.values():
        machine.kill()


def bring(machines: dict[str, Machine], admin: Path, names: str) -> None:
    for name in names:
        machines[name].install(admin / FOLDER / name)


def start(machine: Machine) -> None:
    for role in ROLES:
        machine.start(role)


@pytest.mark.slow
def test_three_machines_and_the_loss_of_one(machines: dict[str, Machine], admin: Path) -> None:
    """Files go in and out at every gateway; another machine takes the place of one that is lost, and is filled."""
    a, b, c, d = (machines[name] for name in "abcd")
    a.run(commands(containing='b=10.77.0.2 c=10.77.0.3"'), admin)
    bring(machines, admin, "abc")
    for machine in (a, b, c):
        start(machine)
    a.run(commands(containing="tools.initialise"), admin)
    for machine in (a, b, c):
        block_until(machine.is_ready, "the gateway is ready", within_s=WITHIN_S)
    assert a.run(commands(containing="hello.txt"), admin).endswith("hello\n")
    get = "curl -K .local/machines/curl.conf -fsS http://127.0.0.1:8080/v1/files/default/hello.txt"
    assert b.run(get, admin) == c.run(get, admin) == "hello\n"

    c.kill()
    a.run(commands(containing="b=10.77.0.2 d=10.77.0.4"), admin)
    bring(machines, admin, "abd")
    start(d)
    for machine in (a, b):
        machine.restart("gateway")
        block_until(machine.is_ready, "the gateway is ready again", within_s=WITHIN_S)
    a.run(commands(containing="change_members"), admin)
    block_until(lambda: _replaced(a, admin), "the leader takes the node for lost", within_s=150)
    cluster = "curl -K .local/machines/curl.conf -fsS http://127.0.0.1:8080/v1/cluster"
    block_until(
        lambda: json.loads(a.run(cluster, admin))["under_replicated_chunks"] == 0, "the new node is filled", within_s=90
    )
    shown = json.loads(a.run(cluster, admin))
    assert {node["id"] for node in shown["nodes"]} == {"storage-1", "storage-2", "storage-4"}
    assert {member["id"] for member in shown["members"]} == {"consensus-1", "consensus-2", "consensus-4"}
    block_until(d.is_ready, "the gateway of the new machine is ready", within_s=WITHIN_S)
    assert d.run(get, admin) == "hello\n"


def _replaced(machine: Machine, admin: Path) -> bool:
    """Refused while the lost node was heard of less than the time of grace ago."""
    try:
        machine.run(commands(containing="/replace"), admin)
    except AssertionError as error:
        if "409" in str(error):
            return False
        raise
    return True


def test_a_fourth_machine_has_no_member(tmp_path: Path) -> None:
    """Numbers are never given twice, and what is not named any more is dropped."""
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate("abcd", 1)}
    inventory = write_machines(tmp_path, addresses)
    assert (inventory.members, inventory.next_number) == (["a", "b", "c"], 5)
    assert [(tmp_path / name / "consensus.env").exists() for name in "abcd"] == [True, True, True, False]
    del addresses["c"]
    replaced = write_machines(tmp_path, addresses | {"e": "10.77.0.9"})
    assert (replaced.cluster_id, replaced.members) == (inventory.cluster_id, ["a", "b", "d"])
    assert (replaced.machines["e"].number, (tmp_path / "c").exists()) == (5, False)
    back = write_machines(tmp_path, addresses | {"c": "10.77.0.3"})
    assert back.machines["c"].number == 6


def test_the_keys_of_an_operator_are_nowhere_else(tmp_path: Path) -> None:
    """No machine can sign as somebody else, and no file is open to others."""
    write_machines(tmp_path, {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.name in {"peer-keys-operator", "cluster-secret"}} == {"secrets"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    secret = (tmp_path / "secrets" / "cluster-secret").read_text().strip()
    assert [path.name for path in files if secret in path.read_text()] == ["cluster-secret"]


@pytest.mark.parametrize(
    "addresses",
    [
        {"a": "10.0.0.1", "b": "10.0.0.2"},
        {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.2"},
        {"a": "10.0.0.1", "b": "10.0.0.2", "../c": "10.0.0.3"},
        {"a": "10.0.0.1", "b": "10.0.0.2", "secrets": "10.0.0.3"},
        {"a": "10.0.0.1", "b": "10.0.0.2", "c": "machine.example.org"},
    ],
)
def test_what_makes_no_cluster_is_refused(tmp_path: Path, addresses: dict[str, str]) -> None:
    """And nothing is written for a machine."""
    with pytest.raises(LocalClusterError):
        write_machines(tmp_path, addresses)
    assert not (tmp_path / "a").exists()


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Every line is known to it, and none of what they may do is left open by mistake."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for unit in (*UNITS, ROOT / "systemd" / "trivet.target"):
        # The programs are not installed here; everything else must be right.
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    units = sorted(map(str, tmp_path.iterdir()))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert {path.stem.removeprefix("trivet-") for path in UNITS} == set(ROLES)
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", *map(str, UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-1500:] + rated.stderr
