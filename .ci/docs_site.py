#!/usr/bin/env python3
"""Build the documentation as a site, in .local/docs/site: `make docs`. Nothing is fetched, and nothing of it needs a server.

The pages are those of the repository, README.md first, as they are read there. Links between them are made to lead from page
to page; a link to code, which the site does not have, becomes its text.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CONFIGURATION: Final = ROOT / "docs" / "zensical.toml"
WORK: Final = ROOT / ".local" / "docs"
"""Holds `CONFIGURATION` as it is used, and beside it, as that says, the pages and the site."""

MOVED: Final = {
    "README.md": "index",
    "ARCHITECTURE.md": "architecture",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "benchmarks/RESULTS.md": "results",
    "tests/faults/README.md": "fault-tests",
    "tests/simulation/garbage/README.md": "garbage-simulation",
    "docs/decisions/README.md": "decisions/index",
}
"""Pages that have another place on the site than below docs/, or another name; without `PAGE`."""

PAGE: Final = ".md"

_FENCED: Final = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)")
_ELSEWHERE: Final = re.compile(r"[a-z]+:|#")


def places() -> dict[str, str]:
    """Of every file of the site: its path in the repository, and on the site."""
    docs = ROOT / "docs"
    own = {path.relative_to(ROOT).as_posix(): path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.*"))}
    kept = {path: place for path, place in own.items() if path.endswith((PAGE, ".svg", ".png"))}
    return kept | {path: place + PAGE for path, place in MOVED.items()}


def page(path: str, text: str, place_of: dict[str, str]) -> str:
    """The text of the page at `path` of the repository, with its links as the site needs them. Raises ValueError: a dead link."""

    def link(found: re.Match[str]) -> str:
        mark, shown, target = found.groups()
        if _ELSEWHERE.match(target):
            return found[0]
        file, _, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        if wanted in place_of:
            here = posixpath.dirname(place_of[path]) or "."
            return f"{mark}[{shown}]({posixpath.relpath(place_of[wanted], here)}{'#' if anchor else ''}{anchor})"
        if not (ROOT / wanted).exists():
            raise ValueError(f"{path} links to {target}, which is not there")
        return shown

    parts = _FENCED.split(text)
    # Who draws them would come from somebody else's server; concepts.md has drawings.
    shown = (
        part.replace("```mermaid", "```text", 1) if part.startswith("```") else _LINK.sub(link, part) for part in parts
    )
    return "".join(shown)


def write_pages(folder: Path) -> None:
    """All of them, and what they show."""
    shutil.rmtree(folder, ignore_errors=True)
    place_of = places()
    for path, place in place_of.items():
        target = folder / PurePosixPath(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(PAGE):
            target.write_text(page(path, (ROOT / path).read_text(), place_of))
        else:
            shutil.copyfile(ROOT / path, target)


def moved(configuration: str) -> str:
    """With the places on the site in place of those in the repository."""
    for path, place in places().items():
        configuration = configuration.replace(f'"{path}"', f'"{place}"')
    return configuration


def main() -> int:
    """Write the pages and have them built; the exit status."""
    write_pages(WORK / "pages")
    configuration = WORK / CONFIGURATION.name
    configuration.write_text(moved(CONFIGURATION.read_text()))
    command: list[str | Path] = [
        Path(sys.executable).with_name("zensical"),
        "build",
        "--strict",
        "--clean",
        "-f",
        configuration,
    ]
    built = subprocess.run(command, cwd=ROOT, env=dict(os.environ), check=False)  # noqa: S603, TID251 - a build, as make runs it
    if built.returncode == 0:
        print(f"Open {WORK.relative_to(ROOT)}/site/index.html")  # noqa: T201 - for whoever built it
    return built.returncode


if __name__ == "__main__":
    sys.exit(main())
