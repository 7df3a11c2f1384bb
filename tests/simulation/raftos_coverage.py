"""Which raftos functions run under the engine, and how much of each: `python -m tests.simulation.raftos_coverage`.

A report, not a gate: the share says what kind of dependency raftos is, it is not a goal. Statements in function bodies are
counted; docstrings are not, and neither is what runs at import.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import raftos

from tests.simulation.chaos import Chaos
from tests.simulation.player import play_scenario, scenario_paths
from tests.simulation.virtual_loop import run_simulation

FOLDER = str(Path(raftos.__file__).parent)
SEEDS = range(5)


def statements_of(path: Path) -> dict[str, set[int]]:
    """First lines of the statements in every function body of a module, by qualified name."""
    found: dict[str, set[int]] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = (
                f"{name}{child.name}"
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                else ""
            )
            if isinstance(child, ast.ClassDef):
                visit(child, f"{inner}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                body = child.body[1:] if ast.get_docstring(child) is not None else child.body
                found[inner] = {line for statement in body for line in _lines(statement)}
                visit(child, f"{inner}.")

    visit(ast.parse(path.read_text()), "")
    return {name: lines for name, lines in found.items() if lines}


def _lines(statement: ast.stmt) -> set[int]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.lineno}
    inner = {line for child in ast.walk(statement) if isinstance(child, ast.stmt) for line in [child.lineno]}
    return inner | {statement.lineno}


class Tracer:
    """Collects the lines of raftos that run; everything else runs untraced."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = defaultdict(set)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self


def run_everything() -> Tracer:
    """The directed scenarios and a few random lives, traced."""
    tracer = Tracer()
    sys.settrace(tracer)
    try:
        for path in scenario_paths():
            play_scenario(path)
        for seed in SEEDS:
            run_simulation(seed, Chaos(seed, duration_s=30).run())
    finally:
        sys.settrace(None)
    return tracer


def main() -> None:
    """Print each module with its live functions."""
    tracer = run_everything()
    live_total = all_total = 0
    for path in sorted(Path(FOLDER).glob("*.py")):
        functions = statements_of(path)
        ran = {name: len(lines & tracer.lines[str(path)]) for name, lines in functions.items()}
        live, total = sum(ran.values()), sum(map(len, functions.values()))
        live_total, all_total = live_total + live, all_total + total
        if total:
            sys.stdout.write(f"{path.name:16} {live:4} of {total:4} statements\n")
        for name, count in ran.items():
            if count:
                sys.stdout.write(f"    {name:56} {count:3} of {len(functions[name]):3}\n")
    sys.stdout.write(f"{'all':16} {live_total:4} of {all_total:4} statements, {100 * live_total / all_total:.1f} %\n")


if __name__ == "__main__":
    main()
