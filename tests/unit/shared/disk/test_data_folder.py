"""`shared.disk.data_folder`: whose folder it is survives a power cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.disk.data_folder import claim_data_dir, hand_over_data_dir
from tests.synced import Synced


def test_no_power_cut_takes_back_whose_folder_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first claim on, and after it was handed over to another cluster."""
    synced = Synced(monkeypatch)
    os.close(claim_data_dir(tmp_path, "old", "storage-1").lock_fd)
    (identity,) = (path for path in tmp_path.iterdir() if path.suffix == ".json")
    assert synced.is_kept(identity)
    hand_over_data_dir(tmp_path, "old", "new", "storage-1")
    assert synced.is_kept(identity)
    os.close(claim_data_dir(tmp_path, "new", "storage-1").lock_fd)
