"""Samples of a Python process as py-spy records them (speedscope's JSON), and whose code they were in. Pure but for `read`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

OUR_PACKAGES: Final = ("services", "shared", "local_cluster")
STANDARD_LIBRARY: Final = "standard library"


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of one file, whatever the line."""

    function: str
    file: str

    @property
    def owner(self) -> str:
        """Whose code it is: a module of ours by its dotted name, a library by its name, or the standard library."""
        return owner_of(self.file)


Stack = tuple[Frame, ...]
"""The outermost call first."""


@dataclass(frozen=True, slots=True)
class Share:
    """Parts of all samples: `own` in the innermost frame, `total` anywhere in the stack."""

    name: str
    own: float
    total: float


def owner_of(file: str) -> str:
    """The owner of the code in a file, by its path."""
    parts = PurePosixPath(file).parts
    for packages in ("site-packages", "dist-packages"):
        if packages in parts:
            return parts[parts.index(packages) + 1].removesuffix(".py")
    # The innermost folder of such a name: a checkout may lie in another one.
    starts = [at for at, part in enumerate(parts[:-1]) if part in OUR_PACKAGES]
    if starts:
        return ".".join(parts[starts[-1] :]).removesuffix(".py")
    return STANDARD_LIBRARY


def read(file: Path) -> Counter[Stack]:
    """How often each stack was seen, over all threads."""
    return parse(json.loads(file.read_text()))


def parse(document: Mapping[str, Any]) -> Counter[Stack]:
    """Read speedscope's file format."""
    frames = [Frame(frame["name"], frame.get("file", "")) for frame in document["shared"]["frames"]]
    stacks: Counter[Stack] = Counter()
    for profile in document["profiles"]:
        for sample in profile["samples"]:
            stacks[tuple(frames[index] for index in sample)] += 1
    return stacks


def shares_by_owner(stacks: Counter[Stack]) -> list[Share]:
    """Shares of libraries and of our modules, the largest own share first."""
    return _shares(
        stacks, [(stack[-1].owner, {frame.owner for frame in stack}, n) for stack, n in stacks.items() if stack]
    )


def shares_by_frame(stacks: Counter[Stack]) -> list[Share]:
    """Shares of functions, the largest own share first."""
    return _shares(
        stacks,
        [(_name(stack[-1]), {_name(frame) for frame in stack}, n) for stack, n in stacks.items() if stack],
    )


def _name(frame: Frame) -> str:
    return f"{frame.function} ({frame.owner})"


def _shares(stacks: Counter[Stack], seen: Sequence[tuple[str, set[str], int]]) -> list[Share]:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for innermost, everywhere, count in seen:
        own[innermost] += count
        for name in everywhere:
            total[name] += count
    samples = max(1, stacks.total())
    shares = [Share(name, own[name] / samples, total[name] / samples) for name in total]
    return sorted(shares, key=lambda share: (-share.own, -share.total, share.name))
