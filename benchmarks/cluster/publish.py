"""Hands the tables of the last run over to `benchmarks/RESULTS.md`, between two markers: `make bench-publish`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from benchmarks.cluster.budgets import BUDGETS_FILE, read_budgets
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.output import LATEST, OUT_DIR, read_result
from benchmarks.cluster.report import make_tables, to_markdown
from local_cluster.terminal import complain, say

BEGIN: Final = "<!-- make bench: begin -->"
END: Final = "<!-- make bench: end -->"
RESULTS_FILE: Final = Path(__file__).parent.parent / "RESULTS.md"


def replace_between_markers(document: str, report: str) -> str:
    """The document with `report` between its markers. Raises BenchmarkError: it has not one of each, in that order."""
    before, found_begin, rest = document.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found_begin and found_end):
        raise BenchmarkError(f"The document has no `{BEGIN}` followed by `{END}`.")
    return f"{before}{BEGIN}\n{report.strip()}\n{END}{after}"


def main() -> int:
    """Publish; the exit status."""
    try:
        result = read_result(OUT_DIR / LATEST)
        report = to_markdown(result, make_tables(result, read_budgets(BUDGETS_FILE.read_text())))
        RESULTS_FILE.write_text(replace_between_markers(RESULTS_FILE.read_text(), report))
    except BenchmarkError as error:
        complain(str(error))
        return 1
    say(f"{RESULTS_FILE} has the tables of {result.began_at}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
