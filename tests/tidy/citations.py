"""What code, tests and documents cite exists in this repository: decisions by their id, documents by path and heading.

Functions from a folder to findings, as in `rules.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.rules import MADE_BY_RUNS, TOP_LEVEL

DECISIONS = "docs/decisions"

WRITTEN_BY_RUNS = ("report.md",)
"""Documents that are not in the repository."""

_ID = re.compile(r"(?<![\w/-])[CDGSTX]-\d{1,3}(?![\w-])")
_DECISION = re.compile(r"^### ([CDGSTX]-(\d{1,3})) \S", re.MULTILINE)
_DOCUMENT = re.compile(r"(?<![\w/.:{}*-])((?:\.{0,2}/)*\w[\w/.-]*\.md)\b(?:,[\s#]+(?:\"([^\"]+)\"|([A-Z]\d+)\b))?")
_SUFFIXES = {"", ".cfg", ".env", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}


def wrong_decisions(root: Path) -> list[str]:
    """A decision that is cited by its id (`S-22`) has one heading, and no number is given to two decisions."""
    headings: dict[str, list[str]] = defaultdict(list)
    for page in sorted((root / DECISIONS).glob("*.md")):
        for decision, number in _DECISION.findall(page.read_text()):
            headings[number].append(decision)
    known = {decision for decisions in headings.values() for decision in decisions}
    findings = [f"{' and '.join(given)} have one number" for given in headings.values() if len(given) > 1]
    for path, text in _texts(root):
        findings += [
            f"{path.relative_to(root)} cites {decision}, which is not decided"
            for decision in sorted(set(_ID.findall(text)) - known)
        ]
    return findings


def foreign_documents(root: Path) -> list[str]:
    """A Markdown file that is named is one of the repository; so is the heading named behind it.

    `docs/time.md, "Sample bound"` names a heading, `docs/promises.md, P7` one that begins with `P7`.
    """
    findings = []
    for path, text in _texts(root):
        for name, quoted, short in _DOCUMENT.findall(text):
            page = _page(root, path.parent, name)
            heading = re.sub(r"[\s#]+", " ", quoted) or short
            if name in WRITTEN_BY_RUNS:
                continue
            if page is None:
                findings.append(f"{path.relative_to(root)} names {name}, which is not in the repository")
            elif heading and not re.search(rf"^#+ {re.escape(heading)}\b", page.read_text(), re.MULTILINE):
                findings.append(f"{path.relative_to(root)} names {heading} in {name}, which has no such heading")
    return findings


def _page(root: Path, folder: Path, name: str) -> Path | None:
    """By its path from the root or the folder, or by its name alone, as code names what it reads."""
    pages = [root / name, folder / name, *(root / where / name for where in ("docs", "benchmarks"))]
    return next((page for page in pages if page.is_file()), None)


def _texts(root: Path) -> Iterator[tuple[Path, str]]:
    """All files that somebody wrote, but not these rules and their tests, which name what must not be."""
    inside = (path for folder in TOP_LEVEL for path in (root / folder).rglob("*"))
    for path in sorted((*root.glob("*"), *inside)):
        skipped = ("tests/tidy/", "tests/golden/format", *MADE_BY_RUNS)
        if path.suffix in _SUFFIXES and path.is_file() and not str(path.relative_to(root)).startswith(skipped):
            yield path, path.read_text(encoding="utf-8")
