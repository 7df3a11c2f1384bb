"""The clock's settings: the agreed defaults, every form of a server, and one clear sentence for a wrong one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.clock.settings import ClockSettings, NtpServer
from shared.cluster_keys import key_file
from shared.roles import Role


def settings(**values: object) -> ClockSettings:
    base = {
        "node_id": "clock-1",
        "cluster_id": "test-cluster",
        "peer_keys": key_file("s" * 40, Role.CLOCK),
        "port": 8301,
    }
    return ClockSettings.model_validate({**base, "data_dir": "/nowhere", **values})


def test_the_default_servers_and_interval_are_those_of_the_design() -> None:
    """pool.ntp.org, time.google.com and time.windows.com, every 64 s."""
    assert [str(server) for server in settings().ntp_servers] == ["pool.ntp.org", "time.google.com", "time.windows.com"]
    assert settings().ntp_poll_interval_s == 64
    assert settings().rules().holdover_after_ns == 192 * 10**9


def test_every_form_of_a_server_is_understood() -> None:
    """Names, IPv4, bare and bracketed IPv6, with and without a port."""
    text = "ntp.example.net, 192.0.2.7:1123,2001:db8::1,[2001:db8::2]:11123,[2001:db8::3]"
    assert settings(ntp_servers=text).ntp_servers == [
        NtpServer("ntp.example.net", 123),
        NtpServer("192.0.2.7", 1123),
        NtpServer("2001:db8::1", 123),
        NtpServer("2001:db8::2", 11123),
        NtpServer("2001:db8::3", 123),
    ]


def test_no_server_at_all_is_a_choice() -> None:
    """A closed network says so and gets logical time."""
    assert settings(ntp_servers="").ntp_servers == []


@pytest.mark.parametrize("text", ["host:abc", "host:1:2", ":123", "host:0", "host:65536", "[::1]x"])
def test_a_malformed_server_is_refused(text: str) -> None:
    """A typing mistake ends the start with a sentence instead of a service without time."""
    with pytest.raises(ValidationError):
        settings(ntp_servers=text)


def test_public_servers_are_never_polled_more_often_than_is_polite() -> None:
    """64 s is allowed, less is refused for public names and addresses and allowed for one's own."""
    assert settings(ntp_poll_interval_s=64).ntp_poll_interval_s == 64
    for public in ("time.google.com", "0.debian.pool.ntp.org", "8.8.8.8"):
        with pytest.raises(ValidationError, match="abuse"):
            settings(ntp_servers=public, ntp_poll_interval_s=63)
    assert settings(ntp_servers="127.0.0.1:11123,10.0.0.1,ntp.corp.example", ntp_poll_interval_s=1)
