"""`shared.cluster_keys`: a file has the keys of its role's pairs, in one or two generations, and nothing more."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cluster_keys import PAIRS, PeerKeys, derive_peer_keys, key_file, seals_of_0_2_0
from shared.roles import Role

OLD, NEW = "old-secret-" + "o" * 32, "new-secret-" + "n" * 32
KEY = "0123456789abcdef" * 4
ROLES = st.sampled_from(Role)


def test_the_derivation_of_a_key_never_changes() -> None:
    """Another one would cut a cluster in two during an upgrade; the string is that of the module's docstring."""
    assert key_file("s" * 32, Role.CLOCK).splitlines()[:3] == [
        "# Trivet peer keys of a clock, derived from the cluster secret.",
        "role clock",
        "gateway clock 1df5e4f8fe647853a2f2c1b33a5e63f6cf8d9e2fa9bd12bdefb1507567ab5454",
    ]


@given(ROLES, ROLES)
def test_two_roles_share_only_the_keys_of_their_pairs(one: Role, other: Role) -> None:
    """What one can sign to a third, the other has not."""
    keys = [set(re.findall("[0-9a-f]{64}", key_file(OLD, role))) for role in (one, other)]
    shared_pairs = [pair for pair in PAIRS if one in pair and other in pair]
    assert len(keys[0] & keys[1]) == len(shared_pairs)


@pytest.mark.parametrize("role", Role)
def test_a_file_has_neither_the_secret_nor_a_key_of_other_roles(role: Role) -> None:
    """Each key once, all of pairs with the role in them."""
    text = key_file(f"{OLD}\n{NEW}", role)
    keys = PeerKeys.parse(text)
    assert OLD not in text
    assert NEW not in text
    assert set(keys.pairs) == {pair for pair in PAIRS if role in pair}
    assert all(len(ring.keys) == 2 for ring in keys.pairs.values())
    found = re.findall("[0-9a-f]{64}", text)
    assert len(set(found)) == len(found) == 2 * len(keys.pairs)


def test_the_first_generation_signs_and_both_are_accepted() -> None:
    """OLD, NEW: it signs with OLD. NEW, OLD: with NEW."""
    for first, second in ((OLD, NEW), (NEW, OLD)):
        keys = derive_peer_keys(f"{first}\n{second}", Role.STORAGE)
        one, other = derive_peer_keys(first, Role.CONSENSUS), derive_peer_keys(second, Role.CONSENSUS)
        sent = keys.to(Role.CONSENSUS)
        assert sent is not None
        assert one.accepted().find(sent.signing.id) == sent.signing
        assert other.accepted().find(sent.signing.id) is None
    both = derive_peer_keys(f"{OLD}\n{NEW}", Role.CONSENSUS).accepted()
    assert {key.sender for key in both.keys} == {Role.GATEWAY, Role.STORAGE, Role.CONSENSUS, Role.OPERATOR}
    assert len(both.keys) == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begins with a line such as"),
        ("s" * 64, "begins with a line such as"),
        (f"gateway clock {KEY}", "begins with a line such as"),
        ("role any", "begins with a line such as"),
        ("role king", "begins with a line such as"),
        ("role clock", "has 0 keys of gateway to clock"),
        (f"role clock\ngateway clock {KEY}\nstorage clock {KEY}", "has 0 keys of consensus to clock"),
        ("role clock\n" + f"gateway clock {KEY}\n" * 3, "has 3 keys of gateway to clock"),
        (
            f"role clock\nclock gateway {KEY}",
            "line 2 of the file of peer keys names a pair of roles that does not exist",
        ),
        (f"role clock\ngateway storage {KEY}", "of a clock has a key of gateway to storage"),
        (f"role clock\ngateway clock {KEY[:-1]}", "line 2 of the file of peer keys is not of the form"),
        (f"role clock\ngateway clock {KEY.upper()}", "line 2 of the file of peer keys is not of the form"),
        (f"role clock\ngateway clock {KEY} more", "line 2 of the file of peer keys is not of the form"),
    ],
)
def test_a_malformed_file_is_refused_without_a_key_in_the_reason(text: str, reason: str) -> None:
    """The first mistake is named."""
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        PeerKeys.parse(text)
    assert KEY[:-1] not in str(caught.value)


def test_what_0_2_0_sealed_opens_with_the_cluster_secret_alone() -> None:
    """Of either generation; by none of the pairs, whose keys were derived from it."""
    seals = seals_of_0_2_0(f"{OLD}\n{NEW}")
    assert [key.secret for key in seals.keys] == [OLD.encode(), NEW.encode()]
    assert derive_peer_keys(OLD, Role.OPERATOR).private().find(seals.signing.id) is None


def test_keys_are_not_printed() -> None:
    """Logs and tracebacks show ids only."""
    assert not re.search("[0-9a-f]{64}", repr(derive_peer_keys(OLD, Role.GATEWAY)))
