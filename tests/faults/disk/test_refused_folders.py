"""D24: a service refuses the data folder of another cluster or node, one that is missing, and one that cannot be written."""

from __future__ import annotations

import json

import pytest

from shared.settings import EXIT_CONFIGURATION
from shared.units import MIB
from tests.integration.storage.support import StorageProcess

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("field", "words"),
    [("cluster_id", "belongs to cluster"), ("node_id", "belongs to node"), ("format_version", "format")],
)
def test_the_folder_of_somebody_else_is_refused(field, words, start_node, tmp_path):
    """One field of the identity is changed; the start ends with one sentence, and nothing in the folder has changed."""
    node = start_node(mode="disk")
    node.stop()
    path = node.data_dir / "identity.json"
    identity = json.loads(path.read_bytes())
    identity[field] = 99 if field == "format_version" else "somebody-else"
    path.write_text(json.dumps(identity))
    refused(node, words)
    assert json.loads(path.read_bytes()) == identity


def test_a_missing_folder_is_not_made_anew(tmp_path):
    """A disk that was not mounted must not become an empty node on the disk below."""
    node = StorageProcess(
        tmp_path / "node", mode="disk", extra={"TRIVET_DATA_DIR": str(tmp_path / "unmounted" / "node")}
    )
    refused(node, "No such file or directory")
    assert not (tmp_path / "unmounted").exists()


def test_a_folder_of_strange_files_is_refused(tmp_path):
    """Not empty and without an identity: it is somebody's."""
    node = StorageProcess(tmp_path / "node", mode="disk")
    node.data_dir.mkdir(parents=True)
    (node.data_dir / "thesis.tex").write_text("ten years of work")
    refused(node, "not one of Trivet's")


def test_a_read_only_folder_is_refused(mounts, tmp_path):
    """The sentence names the folder and the reason."""
    disk = mounts.loop_disk(32 * MIB)
    disk.become_read_only()
    refused(
        StorageProcess(tmp_path / "node", mode="disk", extra={"TRIVET_DATA_DIR": str(disk.folder / "node")}),
        "Read-only",
    )


def refused(node: StorageProcess, words: str) -> None:
    ended = node.run_to_end()
    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
