"""Every process of the product keeps its files and its memory to its owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster.settings import PROJECT_ROOT
from shared.disk.data_folder import claim_data_dir

ENTRY_POINTS = sorted(
    path
    for folder in ("services", "local_cluster")
    for path in (PROJECT_ROOT / folder).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_every_entry_point_makes_its_process_private_first(path: Path) -> None:
    """Before a setting is read or a file is made."""
    [main] = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == "main"
    ]
    assert ast.unparse(main.body[1]) == "make_process_private()"


def test_a_private_process_makes_private_files_and_no_core(tmp_path: Path) -> None:
    """In a process of its own, because the limit cannot be raised again."""
    program = f"""
import os, resource, sqlite3
from shared.private_process import make_process_private
make_process_private()
os.makedirs({str(tmp_path / "a" / "b")!r})
open({str(tmp_path / "a" / "file")!r}, "w").close()
sqlite3.connect({str(tmp_path / "a" / "database")!r}).execute("create table t (x)")
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
"""
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, check=True, timeout=60)
    found = list(tmp_path.rglob("*"))
    assert len(found) == 4
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_a_folder_that_was_open_to_others_is_closed_at_the_next_start(tmp_path: Path) -> None:
    """Folders of older versions are 0755; what lies in them is out of reach once the folder is 0700."""
    folder = tmp_path / "node"
    folder.mkdir(mode=0o755)
    claim_data_dir(folder, "cluster-one", "storage-1")
    assert folder.stat().st_mode & 0o777 == 0o700
