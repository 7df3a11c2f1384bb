"""The site of the documentation, as `make docs` builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "docs_site.py"
EXTERNAL = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?(?:https?:)?//""")
"""What a browser would fetch from elsewhere; a link that somebody may follow is none."""


def test_the_site_is_built_and_needs_nobody_else(tmp_path: Path) -> None:
    """Strictly: a warning fails it."""
    for name in (".ci", "docs", "benchmarks", "tests"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("out", "*.py[co]", "__pycache__", "golden")
        )
    for entry in ROOT.iterdir():
        if entry.is_file():
            shutil.copy(entry, tmp_path)
        elif not (tmp_path / entry.name).exists() and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    built = subprocess.run(
        [sys.executable, tmp_path / ".ci" / "docs_site.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / ".local" / "docs" / "site"
    pages = list(site.rglob("*.html"))
    assert {"index.html", "api.html", "concepts.html", "runbooks.html"} <= {page.name for page in pages}
    assert [page.name for page in pages if EXTERNAL.search(page.read_text())] == []
    assert 'src="images/put.svg"' in (site / "concepts.html").read_text()
    assert "Idempotency-Key" in (site / "search.json").read_text()
