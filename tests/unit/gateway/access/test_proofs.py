"""Which bearers were right before, and for how long that counts."""

from __future__ import annotations

import pytest

from services.gateway.access import proofs as proofs_module
from services.gateway.access.proofs import Proofs

KEY = "TV" + "K" * 18
HEADER = b"Bearer " + KEY.encode() + b"." + b"s" * 40


def test_a_bearer_counts_for_the_rows_by_which_it_was_proved() -> None:
    """Another row of that key, as after a restore, may have another secret."""
    proofs = Proofs()
    proofs.put(HEADER, 1, KEY)
    assert proofs.find(HEADER, 1) == KEY
    assert proofs.find(HEADER, 2) is None
    proofs.put(b"Bearer other", 2, "other")
    assert proofs.find(HEADER, 2) is None
    assert proofs.find(HEADER, 1) is None


@pytest.mark.parametrize(
    "other", [HEADER[:-1], HEADER + b" ", HEADER[:-1] + b"t", HEADER.replace(b"Bearer", b"bearer")]
)
def test_another_header_was_not_proved(other: bytes) -> None:
    """However near it is: it is looked at like any other."""
    proofs = Proofs()
    proofs.put(HEADER, 1, KEY)
    assert proofs.find(other, 1) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is forgotten is proved again."""
    monkeypatch.setattr(proofs_module, "PROOFS_MAX", 3)
    proofs = Proofs()
    headers = [b"Bearer %d" % number for number in range(4)]
    for header in headers:
        proofs.put(header, 1, KEY)
    assert [proofs.find(header, 1) for header in headers] == [None, None, None, KEY]
