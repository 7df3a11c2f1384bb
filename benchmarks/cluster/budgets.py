"""Budgets of CPU per operation: read from `benchmarks/budgets.toml`, compared with what a row costs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.rows import ROWS

BUDGETS_FILE: Final = Path(__file__).parent.parent / "budgets.toml"


class Budget(BaseModel):
    """At most so many ms of CPU per operation, over all processes. A goal that is not reached yet is "not yet"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_most_ms: float = Field(gt=0)
    aim_ms: float = Field(gt=0)
    state: Literal["kept", "not yet"]

    def mark(self, cpu_ms: float) -> str:
        """What a table says of a row that costs `cpu_ms`."""
        if cpu_ms <= self.at_most_ms:
            return "within"
        return "OVER" if self.state == "kept" else "not yet"


Budgets = Mapping[str, Budget]


def read_budgets(text: str) -> dict[str, Budget]:
    """Budgets by row.

    Raises:
        BenchmarkError: it is not TOML of that form, or names a row that does not exist.
    """
    try:
        budgets = TypeAdapter(dict[str, Budget]).validate_python(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise BenchmarkError(f"{BUDGETS_FILE.name}: {error}") from error
    unknown = sorted(set(budgets) - {row.name for row in ROWS})
    if unknown:
        raise BenchmarkError(f"{BUDGETS_FILE.name} names rows that do not exist: {', '.join(unknown)}")
    return budgets
