"""Patterns of keys and paths: `*` and `?` stay between two slashes, `**` crosses them, `[ab]` is one of several.

`[*]` is a star that belongs to the name, `[?]` and `[[]` likewise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

_MAGIC: Final = re.compile(r"[*?\[]")
_LONE: Final = re.compile(r"\[([*?\[])\]")
_CLASS: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]")


def has_pattern(text: str) -> bool:
    """Whether it may match more than one name."""
    return _MAGIC.search(_LONE.sub("", text)) is not None


def literal(text: str) -> str:
    """The one name that a text without a pattern stands for."""
    return _LONE.sub(r"\1", text)


def literal_prefix(pattern: str) -> str:
    """What every name that matches begins with."""
    end = 0
    while end < len(pattern):
        if lone := _LONE.match(pattern, end):
            end = lone.end()
        elif pattern[end] in "*?[":
            break
        else:
            end += 1
    return literal(pattern[:end])


def base(pattern: str) -> str:
    """The folder below which names differ, with its slash: `a/b*/c` has `a/`. Empty where there is none."""
    prefix = literal_prefix(pattern)
    return prefix[: prefix.rfind("/") + 1]


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """For `fullmatch` on whole names. Raises click.UsageError: it has a class that nothing can match, as `[z-a]`."""
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        lone, kind = _LONE.match(pattern, position), _CLASS.match(pattern, position)
        if lone:
            parts.append(re.escape(lone[1]))
            position = lone.end()
        elif pattern.startswith("**/", position):
            parts.append("(?:.*/)?")
            position += 3
        elif pattern.startswith("**", position):
            parts.append(".*")
            position += 2
        elif pattern[position] == "*":
            parts.append("[^/]*")
            position += 1
        elif pattern[position] == "?":
            parts.append("[^/]")
            position += 1
        elif kind:
            listed = re.sub(r"([\\\[\]&~|^])", r"\\\1", kind[2])
            parts.append(f"(?!/)[{'^' if kind[1] else ''}{listed}]")
            position = kind.end()
        else:
            parts.append(re.escape(pattern[position]))
            position += 1
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise click.UsageError(f"{pattern!r} is no pattern that can be read: {error}.") from error


def local_matches(pattern: str) -> Iterator[Path]:
    """Paths of this machine that match, in order. A hidden name matches a pattern that writes its dot; links are not entered."""
    text = os.path.expanduser(pattern)  # noqa: PTH111 - a pattern is no path
    start = base(text)
    matches = compile_pattern(text)
    depth = None if "**" in text else text.count("/") - start.count("/")
    for path in _walk(start, depth):
        if matches.fullmatch(path) and not _has_unasked_dot(text, path[len(start) :]):
            yield Path(path)


def _walk(folder: str, depth: int | None) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        yield folder + entry.name
        if depth != 0 and entry.is_dir(follow_symlinks=False):
            yield from _walk(f"{folder}{entry.name}/", None if depth is None else depth - 1)


def _has_unasked_dot(pattern: str, name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return hidden and not any(part.startswith(".") for part in pattern.split("/") if part not in {".", ".."})
