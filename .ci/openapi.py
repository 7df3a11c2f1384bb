#!/usr/bin/env python3
"""Write what every service says about its API to docs/openapi/, so that a change of a surface shows in its diff.

tests/integration/test_openapi_files.py holds the files against running services.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "openapi"


def build_apps(data_dir: Path) -> dict[str, FastAPI]:
    """One application of every service. None is started: nothing listens, nothing is stored."""
    from services.clock.main import build_app as build_clock
    from services.clock.settings import ClockSettings
    from services.consensus.main import build_app as build_consensus
    from services.consensus.settings import ConsensusSettings
    from services.gateway.main import build_app as build_gateway
    from services.gateway.settings import GatewaySettings
    from services.storage.main import build_app as build_storage
    from services.storage.settings import StorageSettings
    from shared.cluster_keys import key_file
    from shared.roles import Role

    sealing_key_file = data_dir / "sealing-key"
    sealing_key_file.write_text("0" * 64)
    sealing = {"sealing_key_file": str(sealing_key_file)}
    common: dict[str, str | int] = {
        "node_id": "documentation-1",
        "cluster_id": "documentation",
        "consensus_urls": "consensus-1=http://127.0.0.1:1",
        "data_dir": str(data_dir),
        "port": 1,
    }

    def told(role: Role) -> dict[str, str | int]:
        return {**common, "peer_keys": key_file("0" * 32, role)}

    storage = StorageSettings.model_validate(
        told(Role.STORAGE) | {"storage_mode": "disk", "advertised_url": "http://127.0.0.1:1", "zone": "documentation"}
    )
    services = {
        "clock": build_clock(ClockSettings.model_validate(told(Role.CLOCK)), registry=CollectorRegistry()),
        "consensus": build_consensus(ConsensusSettings.model_validate(told(Role.CONSENSUS))),
        "gateway": build_gateway(GatewaySettings.model_validate(told(Role.GATEWAY) | sealing)),
        "storage": build_storage(storage),
    }
    operations = services["gateway"].operations
    if operations is None:
        raise ValueError("a gateway has an operations listener")
    # That of the others is health alone.
    return {**services, "gateway-operations": operations}


def main() -> None:
    """Rewrite the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, app in build_apps(Path(folder)).items():
            text = json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False)
            (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
