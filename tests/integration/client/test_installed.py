"""`pip install` of the client in a bare environment: what is in it, and that it needs nothing else of the repository.

By every Python that is found here: `TRIVET_PYTHONS` (paths, by colons), those on PATH, and pyenv's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from local_cluster.settings import PROJECT_ROOT
from tests.chance import random_bytes

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
UV = Path(sys.executable).with_name("uv")

PROGRAM = """
import sys, time
began = time.perf_counter()
import trivet
imported_ms = 1000 * (time.perf_counter() - began)
assert trivet.__file__.startswith(sys.prefix), trivet.__file__
early = {"httpx", "aiohttp", "rich", "msgspec", "fsspec"} & set(sys.modules)
assert not early, early

import asyncio
body = bytes(range(256)) * (6 << 12)
with trivet.Client() as store:
    store.create_bucket("installed")
    receipt = store.put("installed", "k", body)
    assert store.get("installed", "k", version=receipt.version) == body
    try:
        store.get("installed", "nothing")
    except trivet.FileNotFound:
        pass

async def main():
    async with trivet.AsyncClient() as store:
        assert [row.key async for row in store.list("installed", prefix="k")] == ["k"]

asyncio.run(main())

import fsspec
with fsspec.open("trivet://installed/of.txt", "w") as file:
    file.write("by URL")
assert fsspec.open("trivet://installed/of.txt").open().read() == b"by URL"
print(f"{sys.version.split()[0]}: import trivet {imported_ms:.0f} ms")
"""


def pythons() -> dict[str, Path]:
    """By their versions."""
    places = [Path(place) for place in os.environ.get("TRIVET_PYTHONS", "").split(":") if place]  # noqa: TID251 of a test run
    places += [Path(found) for version in VERSIONS if (found := shutil.which(f"python{version}"))]
    places += sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))
    found = {}
    for place in (*places, Path(sys.executable)):
        asked = [place, "-c", "import sys, venv, ensurepip; print('.'.join(map(str, sys.version_info[:3])))"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False)
        version = said.stdout.strip()
        if said.returncode == 0 and version.rpartition(".")[0] in VERSIONS:
            found.setdefault(version, place)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "-q", PROJECT_ROOT / "client", "-o", folder], check=True)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture
def environment(cluster, tmp_path) -> dict[str, str]:
    """Of somebody who has set where the store is, and nothing else."""
    return {
        "PATH": os.environ["PATH"],  # noqa: TID251 to find the system's tools
        "HOME": str(tmp_path),
        "TRIVET_URL": cluster.gateway_url,
        "TRIVET_KEY": str(cluster.layout.root_key),
    }


def use(binaries: Path, folder: Path, environment: dict[str, str]) -> None:
    """The package, the program and the file system, from a folder in which there is nothing."""
    subprocess.run([binaries / "python", "-I", "-c", PROGRAM], cwd=folder, env=environment, check=True, timeout=60)
    program = binaries / "trivet"
    (folder / "in.bin").write_bytes(random_bytes(9 << 20))
    for arguments in (
        ("--help",),
        ("--version",),
        ("cp", "in.bin", "installed/"),
        ("cp", "installed/in.bin", "out.bin"),
    ):
        subprocess.run([program, *arguments], cwd=folder, env=environment, check=True, timeout=60, capture_output=True)
    assert (folder / "out.bin").read_bytes() == (folder / "in.bin").read_bytes()


@pytest.mark.parametrize("version", pythons())
def test_it_is_installed_by_pip_and_used(version, built, environment, tmp_path, capfd) -> None:
    """In a venv of its own."""
    python, venv = pythons()[version], tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{built[1]}[fsspec]"], cwd=tmp_path, check=True)
    (tmp_path / "work").mkdir()
    use(venv / "bin", tmp_path / "work", environment)
    with capfd.disabled():
        print(capfd.readouterr().out)


def test_the_oldest_versions_that_it_says_will_do(built, environment, tmp_path) -> None:
    """Of what it names itself."""
    venv = tmp_path / "venv"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, venv], check=True)
    chosen = ["--resolution", "lowest-direct", "--python", venv / "bin" / "python"]
    subprocess.run([UV, "pip", "install", "-q", *chosen, f"{built[1]}[fsspec]"], cwd=tmp_path, check=True)
    (tmp_path / "work").mkdir()
    use(venv / "bin", tmp_path / "work", environment)


def test_a_folder_can_be_installed_as_the_readme_says(environment, tmp_path) -> None:
    """`pip install ./client`: built from the checkout."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "./client"], cwd=PROJECT_ROOT, check=True)
    shown = subprocess.run(
        [venv / "bin" / "trivet", "ls"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert "default" in shown.stdout


def test_the_distributions_hold_the_package_and_nothing_else(built) -> None:
    """The same files in both, typed, with their licence and what finds the program and the file system."""
    source, wheel = built
    package = PROJECT_ROOT / "client" / "src"
    ours = {str(path.relative_to(package)) for path in package.rglob("*.py")} | {"trivet/py.typed"}
    name = wheel.name.removesuffix("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
        points = opened.read(f"{name}.dist-info/entry_points.txt").decode()
    about = {
        f"{name}.dist-info/{part}" for part in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert inside == ours | about
    assert "trivet = trivet.cli.main:main" in points
    assert "trivet = trivet.filesystem.TrivetFileSystem" in points
    with tarfile.open(source) as opened:
        names = {member.name.removeprefix(f"{name}/") for member in opened.getmembers() if member.isfile()}
    assert names - {".gitignore"} == {f"src/{path}" for path in ours} | {
        "LICENSE",
        "README.md",
        "PKG-INFO",
        "pyproject.toml",
    }


def test_the_licence_is_that_of_the_whole() -> None:
    """A copy: the distribution is built from its own folder."""
    assert (PROJECT_ROOT / "client" / "LICENSE").read_bytes() == (PROJECT_ROOT / "LICENSE").read_bytes()
