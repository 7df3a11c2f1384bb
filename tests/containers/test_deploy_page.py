"""The commands of docs/deploy-containers.md do what the page says, in its order and in one shell."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest

from local_cluster.settings import PROJECT_ROOT
from tests.containers.load import requests_under_way

pytestmark = [pytest.mark.containers, pytest.mark.root, pytest.mark.timeout(900)]

PAGE = PROJECT_ROOT / "docs" / "deploy-containers.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0][:60] for block in BLOCKS])
def test_a_block_of_the_page_does_what_it_says(cluster, block) -> None:
    """With what the blocks before exported. `make images` was run by a fixture, which has the network that a build needs."""
    before = "".join(BLOCKS[: BLOCKS.index(block)])
    exports = re.findall(r"^export .*\n", before, re.MULTILINE)
    program = 'PATH="$PWD/.venv/bin:$PATH"\n'  # as `pip install ./client` leaves it
    script = "".join([program, *exports, block.replace("make images\n", "")])
    is_upgrade = "--force-recreate" in block
    with requests_under_way(cluster) if is_upgrade else nullcontext({"failed": 0}) as counts:
        print(cluster.run("bash", "-euo", "pipefail", "-c", script, timeout_s=600))
    assert counts["failed"] == 0


def test_nothing_is_left_of_it(cluster) -> None:
    """The last block of the page took everything away."""
    for kind in ("container", "volume"):
        everything = ["--all"] if kind == "container" else []
        assert cluster.engine.run("docker", kind, "ls", *everything, "--quiet") == ""
    assert "trivet" not in cluster.engine.run("docker", "network", "ls", "--format", "{{.Name}}")
