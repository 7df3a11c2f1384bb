"""Starts a service with bugs or faults in it: `python -m tests.faults.planted.launch name[,name] services.gateway.main`."""

from __future__ import annotations

import importlib
import sys

from tests.faults.planted.bugs import BUGS, FAULTS


def main() -> None:
    """Apply, then run the service as if it had been started itself."""
    names, module = sys.argv[1:3]
    del sys.argv[1:3]
    for name in names.split(","):
        (BUGS | FAULTS)[name].apply()
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
