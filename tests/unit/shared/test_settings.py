"""`shared.settings`: a wrong setting ends the start with one sentence that says which one and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from shared.cluster_keys import derive_peer_keys, key_file
from shared.peer_address import PeerAddress
from shared.roles import Role
from shared.settings import (
    EXIT_CONFIGURATION,
    ConsensusList,
    QuorumSettings,
    ServiceSettings,
    load_settings,
    read_secret,
)

SECRET = "s" * 32
KEYS = key_file(SECRET, Role.STORAGE)


class PeerSettings(ServiceSettings):
    """A service with peers."""

    ROLE = Role.STORAGE

    consensus_urls: ConsensusList = Field(default_factory=list)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A complete environment of one service."""
    (tmp_path / "keys").write_text(KEYS)
    monkeypatch.setenv("TRIVET_NODE_ID", "storage-1")
    monkeypatch.setenv("TRIVET_CLUSTER_ID", "test-cluster")
    monkeypatch.setenv("TRIVET_PEER_KEYS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("TRIVET_PORT", "8101")
    return monkeypatch


def refusal(capsys: pytest.CaptureFixture[str], kind: type[ServiceSettings] = PeerSettings) -> str:
    """The one line on standard error with which a start ends."""
    with pytest.raises(SystemExit) as caught:
        load_settings(kind)
    assert caught.value.code == EXIT_CONFIGURATION
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert not any(word in lines[0] for word in (SECRET, *re.findall("[0-9a-f]{64}", KEYS)))
    return lines[0]


def test_a_complete_environment_is_taken(environment) -> None:
    """The keys come from their file."""
    settings = load_settings(PeerSettings)
    assert settings.node_id == "storage-1"
    assert settings.read_peer_keys() == derive_peer_keys(SECRET, Role.STORAGE)


def test_settings_may_come_from_a_file(environment, tmp_path) -> None:
    """TRIVET_ENV_FILE names it; the environment wins."""
    (tmp_path / "env").write_text("TRIVET_LOG_LEVEL=debug\nTRIVET_PORT=1\n")
    environment.setenv("TRIVET_ENV_FILE", str(tmp_path / "env"))
    settings = load_settings(PeerSettings)
    assert (settings.log_level, settings.port) == ("debug", 8101)


def test_a_service_without_peer_keys_refuses_to_start(environment, capsys) -> None:
    """There are no default keys, and the cluster secret is not in their place."""
    environment.delenv("TRIVET_PEER_KEYS_FILE")
    assert "the peer keys are missing: set TRIVET_PEER_KEYS_FILE" in refusal(capsys)
    environment.setenv("TRIVET_CLUSTER_SECRET", SECRET)
    assert "the peer keys are missing: set TRIVET_PEER_KEYS_FILE" in refusal(capsys)


def test_the_keys_of_another_role_are_refused(environment, capsys, tmp_path) -> None:
    """A gateway's file at a storage node is somebody's mistake."""
    (tmp_path / "keys").write_text(key_file(SECRET, Role.GATEWAY))
    assert "the keys are those of a gateway; this is a storage" in refusal(capsys)


def test_an_unreadable_file_of_keys_is_named(environment, capsys, tmp_path) -> None:
    """The sentence names setting and file."""
    environment.setenv("TRIVET_PEER_KEYS_FILE", str(tmp_path / "absent"))
    line = refusal(capsys)
    assert "TRIVET_PEER_KEYS_FILE" in line
    assert "absent" in line


def test_keys_given_twice_are_refused(environment, capsys) -> None:
    """Which are meant cannot be known."""
    environment.setenv("TRIVET_PEER_KEYS", KEYS)
    assert "not both" in refusal(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRIVET_NODE_ID", "Storage 1"),
        ("TRIVET_CLUSTER_ID", "short"),
        ("TRIVET_CLUSTER_ID", "with space"),
        ("TRIVET_PORT", "0"),
        ("TRIVET_PORT", "65536"),
        ("TRIVET_PORT", "http"),
        ("TRIVET_LOG_LEVEL", "loud"),
        ("TRIVET_SHUTDOWN_GRACE_S", "-1"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(environment, capsys, name, value) -> None:
    """The person at the terminal learns which variable to change."""
    environment.setenv(name, value)
    assert name in refusal(capsys)


def test_all_mistakes_are_told_at_once(environment, capsys) -> None:
    """Not one per start."""
    environment.delenv("TRIVET_NODE_ID")
    environment.setenv("TRIVET_PORT", "x")
    line = refusal(capsys)
    assert "TRIVET_NODE_ID" in line
    assert "TRIVET_PORT" in line


def test_peers_are_a_comma_separated_list(environment) -> None:
    """Blanks and a final slash do not matter."""
    environment.setenv("TRIVET_CONSENSUS_URLS", "consensus-1=http://a:1/, consensus-2=https://b:2,")
    peers = load_settings(PeerSettings).consensus_urls
    assert peers == [
        PeerAddress("consensus-1", "http://a:1", Role.CONSENSUS),
        PeerAddress("consensus-2", "https://b:2", Role.CONSENSUS),
    ]


@pytest.mark.parametrize("value", ["http://a:1", "consensus-1=a:1", "consensus-1=ftp://a"])
def test_a_peer_without_id_or_scheme_is_refused(environment, capsys, value) -> None:
    """Signatures need the id, the client needs the scheme."""
    environment.setenv("TRIVET_CONSENSUS_URLS", value)
    assert "TRIVET_CONSENSUS_URLS" in refusal(capsys, PeerSettings)


@pytest.mark.parametrize(("n", "w", "r"), [(3, 2, 2), (1, 1, 1), (3, 3, 1), (5, 3, 3), (16, 16, 16)])
def test_quorums_that_overlap_are_taken(n: int, w: int, r: int) -> None:
    """W <= N, R <= N, W + R > N."""
    assert QuorumSettings(replica_count=n, write_quorum=w, read_quorum=r).replica_count == n


@pytest.mark.parametrize(
    ("n", "w", "r", "reason"),
    [(3, 4, 2, "no write could succeed"), (3, 2, 4, "no read could succeed"), (3, 1, 2, "do not overlap")],
)
def test_quorums_that_cannot_work_are_refused(n: int, w: int, r: int, reason: str) -> None:
    """One past each edge."""
    with pytest.raises(ValidationError, match=reason):
        QuorumSettings(replica_count=n, write_quorum=w, read_quorum=r)


def test_quorums_that_do_not_overlap_need_a_flag() -> None:
    """And with the flag they are taken."""
    assert QuorumSettings(replica_count=3, write_quorum=1, read_quorum=1, allow_non_overlapping_quorums=True)


def test_no_secret_is_none_and_not_an_empty_one() -> None:
    """The caller decides whether it can do without."""
    assert read_secret(None, None, "X") is None
    assert read_secret(SecretStr("x"), None, "X") == "x"


@pytest.mark.parametrize(("value", "file"), [("", None), ("trivet.log", Path("trivet.log"))])
def test_an_empty_log_file_is_none(environment: pytest.MonkeyPatch, value: str, file: Path | None) -> None:
    """It was the folder that the service runs in, and the start ended in a traceback."""
    environment.setenv("TRIVET_LOG_FILE", value)
    assert load_settings(PeerSettings).log_file == file
