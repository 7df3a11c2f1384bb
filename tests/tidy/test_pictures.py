"""Pictures of the documents show what the program prints; `make pictures` draws them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_picture_of_cluster_status_is_what_the_program_prints() -> None:
    """Whoever changes what it prints runs `make pictures`, looks, and commits what it drew."""
    spec = importlib.util.spec_from_file_location("pictures", ROOT / ".ci" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.PICTURE.read_text(encoding="utf-8")
    assert drawn == module.cluster_status(), "docs/images/cluster-status.svg is old: run `make pictures`"
    for what in ("storage-2", "suspect", "consensus-1", "leader"):
        assert what in drawn
