"""What is cited is there, in this tree, and the rules of `citations.py` find what is not in one that was made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy import citations
from tests.tidy.test_rules import plant

ROOT = Path(__file__).parents[2]


def test_decisions_that_are_cited_are_decided() -> None:
    """Anywhere in the tree."""
    assert citations.wrong_decisions(ROOT) == []


def test_documents_that_are_named_are_in_the_repository() -> None:
    """Nothing here depends on a text that a reader does not have."""
    assert citations.foreign_documents(ROOT) == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("# Sync the folder, too (S-22).", False),
        ("# RFC-22, UTF-8, X-Trivet-22 and abc-S-22 are none.", False),
        ("# Sync the folder, too (S-23).", True),
        ("# Sync the folder, too (G-22).", True),
    ],
)
def test_a_decision_that_is_not_there_is_found(tmp_path: Path, text: str, is_found: bool) -> None:
    """Also one that was cited under another part."""
    plant(tmp_path, **{"docs/decisions/storage.md": "### S-22 Sync\n", "shared/a.py": text})
    assert bool(citations.wrong_decisions(tmp_path)) is is_found


def test_a_number_given_twice_is_found(tmp_path: Path) -> None:
    """In two files, as when two people add a decision at once."""
    plant(tmp_path, **{"docs/decisions/storage.md": "### S-22 Sync\n", "docs/decisions/gateway.md": "### G-22 Ask\n"})
    assert citations.wrong_decisions(tmp_path) == ["G-22 and S-22 have one number"]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("See docs/time.md and README.md.", False),
        ('See docs/time.md,\n# "Sample\n# bound".', False),
        ("See docs/time.md, P7.", False),
        ("See https://example.org/NOTES.md and docs/*.md.", False),
        ("See NOTES.md, section 2.", True),
        ("See docs/gone.md.", True),
        ("See ../NOTES.md.", True),
        ('See docs/time.md, "Sample age".', True),
        ("See docs/time.md, P6.", True),
    ],
)
def test_a_document_outside_is_found(tmp_path: Path, text: str, is_found: bool) -> None:
    """And a heading that its document does not have."""
    plant(tmp_path, **{"docs/time.md": "## Sample bound\n\n### P7 Ordered by the log\n", "README.md": ""})
    plant(tmp_path, **{"shared/a.py": f"# {text}"})
    assert bool(citations.foreign_documents(tmp_path)) is is_found
