"""The runbooks of docs/security.md do what the page says: whatever secret is lost, its files are there for a new root key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import httpx
import pytest

from local_cluster.cluster import Cluster
from local_cluster.settings import PROJECT_ROOT
from tests.chance import random_bytes
from tests.free_ports import free_port_offset
from tests.integration.conftest import OVERRIDES
from tests.integration.test_operations_page import Shell

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PAGE = (PROJECT_ROOT / "docs" / "security.md").read_text(encoding="utf-8")
FIRST, *RUNBOOKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILE = "/v1/files/default/kept"


@pytest.fixture
def own(tmp_path) -> Iterator[Cluster]:
    """Not started."""
    found = Cluster(tmp_path / "local", free_port_offset(), OVERRIDES)
    yield found
    found.kill_all()


def test_every_runbook_ends_with_a_key_that_opens_what_was_stored(own: Cluster) -> None:
    """The key before opens nothing where it was deleted, or where nobody can check it any more."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "TRIVET_"))},  # noqa: TID251
        **OVERRIDES["clock"],
        "TRIVET_LOCAL_DIR": str(own.layout.root),
        "TRIVET_PORT_OFFSET": str(own.port_offset),
    }
    body, shell = random_bytes(3000), Shell(environment, own.port_offset)
    try:
        shell.run("make up")
        shell.run(FIRST)
        with httpx.Client(base_url=own.gateway_url, timeout=30, trust_env=False) as gateway:
            gateway.put(FILE, content=body, headers=own.bearer).raise_for_status()
            for runbook, opens_still in zip(RUNBOOKS, (False, True, True, False), strict=True):
                before = own.bearer
                shell.run(runbook)
                assert gateway.get(FILE, headers=own.bearer).content == body
                assert gateway.get(FILE, headers=before).is_success == opens_still, runbook
                assert own.bearer["authorization"] in own.layout.curl_config.read_text()
    finally:
        shell.close()
