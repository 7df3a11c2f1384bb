"""What may come over the wire about the cluster."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.contracts.cluster import AddMemberRequest


def request(peer_address: str) -> AddMemberRequest:
    return AddMemberRequest(id="consensus-4", url="http://127.0.0.1:8204", peer_address=peer_address)


@pytest.mark.parametrize("address", ["", "g", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "host:\u0661"])
def test_a_peer_address_that_nobody_can_dial_is_refused(address) -> None:
    """Before it stands in the log, where every member would try it for ever."""
    with pytest.raises(ValidationError):
        request(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "consensus-4.trivet:65535", "[::1]:8251"])
def test_a_peer_address_is_host_and_port(address) -> None:
    """Names and addresses, the first and the last port."""
    assert request(address).peer_address == address
