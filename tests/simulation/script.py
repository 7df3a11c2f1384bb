"""The text form of a scenario: blocks of commands, a line of dashes, and what they must print.

    # A comment tells the story.
    campaign m1
    stabilize
    status
    ----
    m1 leader   term 2 last 2 commit 2 durable 2
    ...

Blocks are separated by blank lines. A block that prints nothing says `ok`. The form is that of cockroachdb's datadriven
tests, because a reader sees cause and effect side by side, and a change of behaviour shows as a change of text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

RULE = "----"


@dataclass(frozen=True, slots=True)
class Block:
    """A comment, the commands under it and what they print; `line` is where the first command stands."""

    comment: tuple[str, ...]
    commands: tuple[str, ...]
    output: tuple[str, ...]
    line: int


def parse(text: str) -> list[Block]:
    """The blocks of a scenario; a comment that stands alone is a block without commands."""
    blocks: list[Block] = []
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            blocks.append(_block(lines, number - len(lines)))
            lines = []
    return blocks


def _block(lines: list[str], first_line: int) -> Block:
    comment = tuple(line for line in lines if line.startswith("#"))
    rest = [line for line in lines if not line.startswith("#")]
    if not rest:
        return Block(comment, (), (), first_line)
    if RULE not in rest:
        raise ValueError(f"line {first_line}: a block needs a line of {RULE!r}")
    rule = rest.index(RULE)
    return Block(comment, tuple(rest[:rule]), tuple(rest[rule + 1 :]), first_line + len(comment))


def render(blocks: list[Block]) -> str:
    """The inverse of `parse`, up to blank lines."""
    parts = []
    for block in blocks:
        body = [*block.commands, RULE, *block.output] if block.commands else []
        parts.append("\n".join([*block.comment, *body]))
    return "\n\n".join(parts) + "\n"


async def play(blocks: list[Block], perform: Callable[[str], Awaitable[list[str]]]) -> list[Block]:
    """Perform every command; the same blocks with what was printed now. A failure names its line."""
    played = []
    for block in blocks:
        printed: list[str] = []
        for offset, command in enumerate(block.commands):
            try:
                printed += await perform(command)
            except Exception as error:
                error.add_note(f"line {block.line + offset}: {command}")
                raise
        played.append(replace(block, output=tuple(printed) or ("ok",)) if block.commands else block)
    return played


def read(path: Path) -> list[Block]:
    """The blocks of a file."""
    return parse(path.read_text())


def side_by_side(expected: list[Block], actual: list[Block]) -> str:
    """Every block that differs: its commands, then the expected and the actual lines next to each other."""
    report = []
    for wanted, found in zip(expected, actual, strict=True):
        if wanted.output == found.output:
            continue
        report += ["", f"line {wanted.line}: " + "; ".join(wanted.commands)]
        width = max(map(len, ("expected", *wanted.output)))
        report.append(f"    {'expected':{width}}   actual")
        for row in range(max(len(wanted.output), len(found.output))):
            left = wanted.output[row] if row < len(wanted.output) else ""
            right = found.output[row] if row < len(found.output) else ""
            report.append(f"  {' ' if left == right else '!'} {left:{width}} | {right}")
    return "\n".join(report)
