"""What files are called at their target: a file under its own name or a new one, a folder with or without its own. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trivet.cli import globs
from trivet.cli.addresses import Remote

SAME_TARGET: Final = "another source has this name, too, and goes to the same target. This one is left alone."


def target_of(place: Remote, key: str, goal: Remote) -> Remote:
    """Where the file `key`, which `place` names alone or among others, goes below `goal`."""
    name, own = name_below(place, key)
    return place_below(goal, name, own)


def place_below(goal: Remote, name: str, own: str | None) -> Remote:
    """Where a file goes in the store; `name` and `own` as `name_below` gives them."""
    if goal.is_folder:
        return goal.child((own or "") + name)
    return goal if own is None else goal.child("/" + name)


def name_below(place: Remote, key: str) -> tuple[str, str | None]:
    """The name of a file below what `place` names, and the name of that itself, with a slash.

    The latter is None for a single file, and empty where it is left away: a pattern, a bucket, a folder written with its slash.
    """
    if place.has_pattern:
        return key[len(globs.base(place.key)) :], ""
    own = globs.literal(place.key)
    if key == own:
        return key.rsplit("/", 1)[-1], None
    if place.is_folder:
        return key[len(own) :], ""
    return key[len(own) + 1 :], own.rsplit("/", 1)[-1] + "/"


class Targets:
    """The targets of one call: a second file that goes to the same one would replace the first.

    Args:
        source_count: the files of one source never have one target, and are not remembered.
    """

    def __init__(self, source_count: int) -> None:
        self._is_single = source_count == 1
        self._taken: set[str] = set()

    def take(self, target: Remote | Path) -> bool:
        """Whether no other file goes there; see `SAME_TARGET`."""
        name = str(target)
        if name in self._taken:
            return False
        if not self._is_single:
            self._taken.add(name)
        return True
