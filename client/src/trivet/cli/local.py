"""Files of this machine as sources and targets, and which names must not become paths here.

A folder is walked in the order in which the store lists keys, so that both can be compared as they come. Links to folders are not
entered, and links to files are followed only within the folder that is copied: nothing else of this machine gets out by accident.

A key of the store is any text, `../../etc/passwd` too. `Folder` makes paths of those that stay inside the folder and refuses the
rest; a link that lies in the folder and leads out of it is not followed either.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.local_names import is_unfinished

_NAME_LIMIT_BYTES: Final = 255


class UnsafeNameError(Exception):
    """A key that would be written outside of the folder, or cannot be written at all."""


class LocalFile(msgspec.Struct, frozen=True):
    """A file below a folder: `name` is its path there with slashes, as the store would call it."""

    path: Path
    name: str
    size_bytes: int
    mtime_ns: int


Skipped = Callable[[str, str, bool], None]
"""Is told what a walk leaves out: its name, the reason, and whether that is a failure (it should have been read)."""


def walk(root: Path, skipped: Skipped) -> Iterator[LocalFile]:
    """All files below a folder, names ascending by their bytes.

    Raises:
        OSError: the folder itself cannot be read.
    """
    real_root = os.path.realpath(root)
    with os.scandir(root):
        pass
    yield from _walk(str(root), "", real_root, skipped)


def describe(path: Path, name: str) -> LocalFile:
    """One file. Raises Failure: it is not a file, or not there."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise Failure(f"{path}: there is no such file on this machine.", ExitCode.NOT_FOUND) from error
    if stat.S_ISDIR(found.st_mode):
        raise Failure(f"{path} is a folder; -r copies all that is in it.", ExitCode.USAGE)
    return LocalFile(path, name, found.st_size, found.st_mtime_ns)


def _walk(folder: str, prefix: str, real_root: str, skipped: Skipped) -> Iterator[LocalFile]:
    try:
        entries = [
            (entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry) for entry in os.scandir(folder)
        ]
    except OSError as error:
        skipped(prefix or folder, error.strerror or str(error), True)
        return
    # With its slash a folder stands where the store has the keys below it: behind `a.txt` and before `a0`.
    for label, entry in sorted(entries, key=lambda pair: os.fsencode(pair[0])):
        if is_unfinished(label):
            continue
        name = prefix + label
        if label.endswith("/") and not _why_no_name(entry.name):
            yield from _walk(entry.path, name, real_root, skipped)
            continue
        try:
            reason = _why_left_out(entry, real_root)
            found = entry.stat(follow_symlinks=not reason)
        except OSError as error:
            skipped(name, error.strerror or str(error), True)
            continue
        if reason:
            skipped(name, reason, False)
        else:
            yield LocalFile(Path(entry.path), name, found.st_size, found.st_mtime_ns)


def _why_left_out(entry: os.DirEntry[str], real_root: str) -> str:
    if problem := _why_no_name(entry.name):
        return problem
    if entry.is_symlink():
        real = os.path.realpath(entry.path)
        if os.path.isdir(real):  # noqa: PTH112 - a string from `realpath`
            return "it is a link to a folder, and links are not entered"
        if os.path.commonpath([real, real_root]) != real_root:
            return "it is a link that leads out of the folder"
        if not os.path.exists(real):  # noqa: PTH110 - likewise
            return "it is a link to nothing"
    if not entry.is_file():
        return "it is neither a file nor a folder"
    return ""


def _why_no_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, which keys are"
    return ""


class Folder:
    """A folder of this machine that files of the store are written to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = os.path.realpath(root)
        self._known: set[Path] = set()

    def path_of(self, name: str) -> Path:
        """Where the file of that name belongs; folders on the way are made.

        Raises:
            UnsafeNameError: it would be outside of the folder, or no file of this machine may be called so.
            OSError: a folder cannot be made; something else has its name.
        """
        parts = name.split("/")
        if problem := _why_unsafe(name, parts):
            raise UnsafeNameError(f"{problem}; it is left out")
        path = self.root.joinpath(*parts)
        if path.parent not in self._known:
            # Before anything is made: a link on the way would have folders made elsewhere.
            self._check_inside(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._known.add(path.parent)
        return path

    def _check_inside(self, folder: Path) -> None:
        real = os.path.realpath(folder)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise UnsafeNameError(f"{folder} is a link that leads out of {self.root}; it is left out")


def _why_unsafe(name: str, parts: list[str]) -> str:
    rules = (
        ("\0" in name, "the key has a NUL in it, which no path may have"),
        (name.startswith("/"), "the key begins with a slash, as an absolute path does"),
        (not {".", ".."}.isdisjoint(parts), "the key has . or .. between its slashes, and could leave the folder"),
        (not all(parts), "the key has an empty name between its slashes"),
        (any(map(is_unfinished, parts)), "the key has a name that only an unfinished download may have"),
        (
            any(len(part.encode()) > _NAME_LIMIT_BYTES for part in parts),
            f"the key has a name of more than {_NAME_LIMIT_BYTES} bytes",
        ),
        (
            os.name == "nt" and not set('\\:*?"<>|').isdisjoint(name),
            "the key has a character that no file may have here",
        ),
    )
    return next((reason for is_broken, reason in rules if is_broken), "")
