"""By which keys the rescue tool takes a backup for ours."""

from __future__ import annotations

import pytest

from services.consensus.rescue.__main__ import read_seals
from shared.cluster_keys import derive_peer_keys, key_file, seals_of_0_2_0
from shared.roles import Role

SECRET = "s" * 32


def test_a_backup_of_0_2_0_needs_the_cluster_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sealed with that; all later ones are sealed with the operators' own key, which comes first."""
    monkeypatch.setenv("TRIVET_PEER_KEYS", key_file(SECRET, Role.OPERATOR))
    own = derive_peer_keys(SECRET, Role.OPERATOR).private()
    old = seals_of_0_2_0(SECRET).signing
    assert read_seals() == own
    monkeypatch.setenv("TRIVET_CLUSTER_SECRET", SECRET)
    seals = read_seals()
    assert (seals.signing, seals.find(old.id)) == (own.signing, old)
