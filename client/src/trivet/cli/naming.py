"""What files are called at their target: a file under its own name or a new one, a folder with or without its own. Pure."""

from __future__ import annotations

from trivet.cli import globs
from trivet.cli.addresses import Remote


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
