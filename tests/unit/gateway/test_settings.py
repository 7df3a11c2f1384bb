"""What a gateway refuses to start with."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.gateway.settings import FIRST_RESERVATION_BYTES
from shared.cluster_keys import key_file
from shared.roles import Role
from shared.units import MIB
from tests.unit.gateway.conftest import make_settings, sealing_key_file


def test_the_defaults_are_those_of_the_design(monkeypatch) -> None:
    """1 MiB chunks, 64 MiB in flight, N/W/R 3/2/2, and files of at least 5 GiB."""
    settings = make_settings(chunk_size_bytes=MIB, max_inflight_bytes=64 * MIB, max_concurrent_requests=256)
    defaults = type(settings).model_fields
    assert defaults["chunk_size_bytes"].default == MIB
    assert defaults["max_inflight_bytes"].default == 64 * MIB
    assert (settings.replica_count, settings.write_quorum, settings.read_quorum) == (3, 2, 2)
    assert settings.max_file_bytes >= 5 * 1024 * MIB


def test_settings_come_from_the_environment_with_the_common_prefix(monkeypatch) -> None:
    """Quorums too, although they are a mixin of their own."""
    for name, value in {
        "NODE_ID": "gateway-7",
        "CLUSTER_ID": "test-cluster",
        "PEER_KEYS": key_file("s" * 32, Role.GATEWAY),
        "CONSENSUS_URLS": "consensus-1=http://127.0.0.1:1,consensus-2=http://127.0.0.1:2/",
        "WRITE_QUORUM": "3",
        "SEALING_KEY_FILE": str(sealing_key_file()),
    }.items():
        monkeypatch.setenv(f"TRIVET_{name}", value)
    settings = type(make_settings())()
    assert settings.write_quorum == 3
    assert settings.consensus_urls[1].url == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    "changes",
    [
        {"write_quorum": 4},
        {"read_quorum": 4},
        {"write_quorum": 1, "read_quorum": 2},
        {"consensus_urls": []},
        {"peer_keys": None},
        {"peer_keys": "s" * 64},
        {"peer_keys": key_file("s" * 32, Role.STORAGE)},
        {"sealing_key_file": None},
        {"chunk_size_bytes": 100},
        {"max_file_bytes": 5 * 1024 * 1024 * MIB + 1},
    ],
)
def test_a_contradiction_is_refused(changes) -> None:
    """One clear mistake each."""
    with pytest.raises(ValidationError):
        make_settings(**changes)


def test_a_budget_that_could_deadlock_is_refused() -> None:
    """All first reservations and one chunk must fit beside what is kept for small transfers, exactly."""
    needed = (100 * FIRST_RESERVATION_BYTES + MIB) * 8 // 7 + 1
    make_settings(chunk_size_bytes=MIB, max_concurrent_requests=100, max_inflight_bytes=needed)
    with pytest.raises(ValidationError, match="TRIVET_MAX_INFLIGHT_BYTES"):
        make_settings(chunk_size_bytes=MIB, max_concurrent_requests=100, max_inflight_bytes=needed - 1)


def test_a_sealing_key_is_one_line_or_two_of_enough_characters(tmp_path) -> None:
    """Both edges; what people write 32 random bytes as is taken."""
    path = tmp_path / "sealing-key"
    for lines in (["k" * 43], ["0" * 64, "k" * 43 + " "], ["", "k" * 44, ""]):
        path.write_text("\n".join(lines))
        settings = make_settings(sealing_key_file=path)
        assert settings.read_sealing_keys() == [line.strip() for line in lines if line]
    for lines in ([], [""], ["k" * 42], ["k" * 43, "k" * 42], ["k" * 43] * 3):
        path.write_text("\n".join(lines))
        with pytest.raises(ValidationError):
            make_settings(sealing_key_file=path)
    with pytest.raises(ValidationError):
        make_settings(sealing_key_file=tmp_path / "absent")
    with pytest.raises(ValidationError, match="it has no default"):
        make_settings(sealing_key_file=None)
