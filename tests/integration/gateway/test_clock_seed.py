"""A gateway keeps nothing on disk, so its first timestamp must not rest on what its host believes."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.second_gateway import SecondGateway
from tests.waiting import block_until

pytestmark = pytest.mark.cluster

LATE_S = 20 * 60


class UnwaitedGateway(SecondGateway):
    """Is not waited for when it starts."""

    def wait_until_ready(self) -> None:
        """At once."""


def first_time(url: str, bearer: dict[str, str]) -> str:
    """The hybrid timestamp of the first answer that is one, from the moment the process was started."""
    seen: list[str] = []

    def is_answered() -> bool:
        try:
            answer = httpx.get(f"{url}/v1/time", headers=bearer, trust_env=False, timeout=10)
        except httpx.TransportError:
            return False
        if answer.status_code == 200:
            seen.append(answer.json()["timestamp"]["hlc"])
        return answer.status_code == 200

    block_until(is_answered, "the time from a gateway that starts", 60)
    return seen[0]


def test_time_never_goes_back_when_a_gateway_restarts_on_a_late_host(cluster, gateway, bucket, tmp_path) -> None:
    """It serves nothing before it has heard from the leader where the cluster's time stands; receipts go on growing, too."""
    asked = httpx.get(f"{cluster.gateway_url}/v1/time", headers=cluster.bearer, trust_env=False, timeout=30)
    before = asked.json()["timestamp"]["hlc"]
    program = ["-m", "tests.integration.gateway.late_gateway", str(LATE_S)]
    # Without a clock service, which would put it right before anybody asks.
    alone = {"TRIVET_CLOCK_URLS": ""}
    with UnwaitedGateway(cluster, tmp_path / "late.log", environment=alone, program=program) as late:
        after = first_time(late.url, cluster.bearer)
        assert after > before, f"went back by {(int(before, 16) - int(after, 16)) / (1 << 32):.0f} s"
        url = f"{late.url}/v1/files/{bucket}/k"
        stored = httpx.put(url, content=b"x", headers=cluster.bearer, trust_env=False, timeout=30)
        assert stored.json()["timestamp"]["hlc"] > after
