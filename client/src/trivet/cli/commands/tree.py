"""`trivet tree`: a drawing of what is below an address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from trivet.cli import remote, words
from trivet.cli.addresses import Remote, parse_remote
from trivet.cli.failures import not_found
from trivet.cli.lazy import Command, asynchronous
from trivet.cli.output import Output
from trivet.cli.parameters import REMOTE
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import AsyncClient


@dataclass(slots=True)
class _Folder:
    """What is in a folder of the tree; `size_bytes` and `files` are of all that is below."""

    folders: dict[str, _Folder] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    files: int = 0

    def add(self, parts: list[str], size_bytes: int) -> None:
        folder = self
        folder.count(size_bytes)
        for part in parts[:-1]:
            folder = folder.folders.setdefault(part, _Folder())
            folder.count(size_bytes)
        if parts[-1]:
            folder.names[parts[-1]] = size_bytes

    def count(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self.files += 1


@click.command(cls=Command)
@click.argument("address", type=REMOTE)
@click.option("-L", "--depth", type=click.IntRange(1), metavar="N", help="Folders down to this depth.")
@click.option("-s", "--sizes", is_flag=True, help="With the size of each file and folder.")
@asynchronous
async def tree(session: Session, address: str, *, depth: int | None, sizes: bool) -> None:
    """Draw the files below an address as a tree.

    With --json one document: name, size_bytes, files, and children, which have the same fields (a file has no children).
    """
    place = parse_remote(address).literal
    place = place if place.is_folder else place.child("/")
    async with session.client() as client:
        root = await _load(client, place)
    if not root.files and place.key:
        raise not_found(place)
    if session.output.is_json:
        session.output.document(_document(f"{place.bucket}/{place.key}".rstrip("/"), root, depth))
        return
    session.output.result(session.output.paint(words.visible(f"{place.bucket}/{place.key}"), "strong"))
    _draw(session.output, root, "", depth, sizes)
    session.output.say(f"{words.count(root.files, 'file')}, {words.size(root.size_bytes)}")


async def _load(client: AsyncClient, place: Remote) -> _Folder:
    root = _Folder()
    async for file in remote.files_below(client, place):
        root.add(file.key[len(place.key) :].split("/"), file.size_bytes)
    return root


def _draw(output: Output, folder: _Folder, margin: str, depth: int | None, sizes: bool) -> None:
    rows: list[tuple[str, int, _Folder | None]] = [
        (name + "/", sub.size_bytes, sub) for name, sub in folder.folders.items()
    ]
    rows += [(name, size, None) for name, size in folder.names.items()]
    rows.sort(key=lambda row: row[0])
    for place, (name, size, sub) in enumerate(rows):
        is_last = place == len(rows) - 1
        shown = output.paint(words.visible(name), "strong" if sub else None)
        label = f"{shown}  {output.paint(words.size(size), 'dim')}" if sizes else shown
        output.result(f"{margin}{'└── ' if is_last else '├── '}{label}")
        if sub and depth != 1:
            _draw(output, sub, margin + ("    " if is_last else "│   "), depth and depth - 1, sizes)


def _document(name: str, folder: _Folder, depth: int | None) -> dict[str, Any]:
    document: dict[str, Any] = {"name": name, "size_bytes": folder.size_bytes, "files": folder.files}
    if depth != 0:
        below = [_document(label, sub, depth and depth - 1) for label, sub in folder.folders.items()]
        below += [{"name": label, "size_bytes": size} for label, size in folder.names.items()]
        document["children"] = sorted(below, key=lambda row: str(row["name"]))
    return document
