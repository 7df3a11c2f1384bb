"""Files of the store as files of this machine: which names they may have there."""

from __future__ import annotations

import pytest

from trivet.filesystem import file_system
from trivet.filesystem.file_system import TrivetFileSystem


class Store:
    """Writes an empty file for every one that is asked for."""

    async def download_file(self, bucket, key, target, **_) -> None:
        target.write_bytes(b"")


@pytest.fixture
def fs(monkeypatch) -> TrivetFileSystem:
    found = TrivetFileSystem(skip_instance_cache=True)
    monkeypatch.setattr(TrivetFileSystem, "client", Store())
    return found


@pytest.mark.parametrize("name", [".a.trivet-partial", ".a.trivet-journal"])
async def test_a_key_does_not_become_the_state_of_a_download(fs, tmp_path, name) -> None:
    """The next download of its neighbour would go on with it."""
    await fs._get_file("b/x/y", str(tmp_path / "a"))
    with pytest.raises(OSError, match="unfinished"):
        await fs._get_file(f"b/x/{name}", str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("is_new", [True, False])
async def test_no_key_leads_out_of_the_target(fs, tmp_path, monkeypatch, is_new) -> None:
    """With an fsspec that looks at that itself, and with an older one."""
    if not is_new:
        monkeypatch.setattr(file_system, "_FSSPEC_KEEPS_INSIDE", False)
        monkeypatch.setattr("fsspec.asyn.check_contained", lambda root, paths: None, raising=False)

    async def expand(path, **_):
        return ["b/x/a", "b/x/../../y/z"]

    monkeypatch.setattr(fs, "_expand_path", expand)
    with pytest.raises(ValueError, match=r"\.\."):
        await fs._get("b/x/", str(tmp_path / "here"), recursive=True)
    assert list(tmp_path.iterdir()) == []
    await fs._get(["b/x/../../y/z"], [str(tmp_path / "z")])
    assert [path.name for path in tmp_path.iterdir()] == ["z"]
