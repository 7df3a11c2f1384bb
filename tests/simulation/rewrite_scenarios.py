"""Write what the scenarios print now into their files: `python -m tests.simulation.rewrite_scenarios [name ...]`.

Read the difference before committing it: this is how a change of behaviour is looked at, not how a failure is silenced.
"""

from __future__ import annotations

import sys

from tests.simulation import script
from tests.simulation.player import play_scenario, scenario_paths


def main(names: list[str]) -> None:
    """Rewrite the named scenarios, or all of them."""
    for path in scenario_paths():
        if names and path.stem not in names:
            continue
        expected, actual = play_scenario(path)
        path.write_text(script.render(actual))
        if expected != actual:
            sys.stdout.write(f"rewritten: {path.stem}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
