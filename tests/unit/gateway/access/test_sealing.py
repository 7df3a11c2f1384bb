"""Secrets of access keys: unreadable without the sealing key, and bound to the one key they belong to."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json, structs

from services.gateway.access.sealing import (
    Sealer,
    UnsealError,
    check_secret,
)
from shared.access_keys import SECRET_MAX, SECRET_MIN
from shared.contracts.access import AccessKey, SealedRow, SealedSecret
from shared.errors import InvalidRequestError

REALM = "0" * 31 + "1"
OLD, NEW = "o" * 43, "n" * 43
SECRET = "correct-horse-battery-staple-and-more"


def key_with(secret: SealedSecret | SealedRow, *, key_id: str = "TVAAAAAAAAAAAAAAAAAA", slot: int = 0) -> AccessKey:
    row = SealedRow(secret.sealing_key, secret.sealed, secret.bearer_mac)
    return AccessKey(id=key_id, identity="5" * 64, slot=slot, secret=row, created_ns=0, changed_index=1)


def sealed_by(
    sealer: Sealer, *, key_id: str = "TVAAAAAAAAAAAAAAAAAA", slot: int = 0, secret: str = SECRET
) -> AccessKey:
    return key_with(sealer.seal(REALM, key_id, slot, secret), key_id=key_id, slot=slot)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=SECRET_MIN, max_size=SECRET_MAX))
def test_a_secret_comes_back(secret) -> None:
    """And is known by its MAC; its bytes stand nowhere in the row."""
    sealer = Sealer([NEW])
    key = sealed_by(sealer, secret=secret)
    assert sealer.unseal(REALM, key) == secret
    assert sealer.is_secret_of(key, secret)
    assert secret.encode() not in key.secret.sealed + key.secret.bearer_mac
    assert secret.encode() not in json.encode(key)


def test_a_secret_is_never_sealed_twice_alike() -> None:
    """Every seal has a nonce of its own."""
    sealer = Sealer([NEW])
    assert len({sealed_by(sealer).secret.sealed for _ in range(100)}) == 100


def test_a_seal_opens_for_its_realm_key_slot_and_sealing_key_alone() -> None:
    """A row that was moved or copied opens nothing."""
    sealer = Sealer([NEW, OLD])
    key = sealed_by(sealer)
    for other in (
        structs.replace(key, id="TVAAAAAAAAAAAAAAAAAB"),
        structs.replace(key, slot=1),
        key_with(structs.replace(key.secret, sealing_key=Sealer([OLD]).sealing_key)),
        key_with(structs.replace(key.secret, sealing_key="00000000")),
    ):
        with pytest.raises(UnsealError):
            sealer.unseal(REALM, other)
        assert not sealer.is_secret_of(other, SECRET)
    with pytest.raises(UnsealError):
        sealer.unseal("0" * 32, key)


@given(st.data())
def test_one_wrong_bit_of_a_seal_is_enough(data) -> None:
    """Nonce, ciphertext and tag."""
    sealer = Sealer([NEW])
    key = sealed_by(sealer)
    sealed = bytearray(key.secret.sealed)
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnsealError):
        sealer.unseal(REALM, key_with(structs.replace(key.secret, sealed=bytes(sealed))))


@pytest.mark.parametrize("wrong", ["", SECRET[:-1], SECRET + "x", SECRET.upper(), "\udcff" * 40, "é" * 40])
def test_a_wrong_secret_is_not_that_of_the_key(wrong) -> None:
    """Nor is a header's text that cannot be written down an error."""
    sealer = Sealer([NEW])
    assert not sealer.is_secret_of(sealed_by(sealer), wrong)
    assert not sealer.is_secret_of(None, wrong)


@pytest.mark.parametrize("is_known", [True, False])
def test_secrets_are_compared_in_constant_time_also_of_keys_that_are_not_there(is_known, monkeypatch) -> None:
    """One MAC and one comparison, whoever asks."""
    sealer = Sealer([NEW])
    key = sealed_by(sealer) if is_known else None
    compared = []
    digest = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append(1) or digest(one, other))
    sealer.is_secret_of(key, SECRET)
    assert len(compared) == 1


def test_a_new_sealing_key_seals_and_the_old_one_still_unseals() -> None:
    """Until every secret is sealed anew; then the old one can go."""
    before, between, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    key = sealed_by(before)
    assert between.unseal(REALM, key) == SECRET
    assert between.is_secret_of(key, SECRET)
    assert before.is_current(key)
    assert not between.is_current(key)
    with pytest.raises(UnsealError):
        after.unseal(REALM, key)
    assert not after.is_secret_of(key, SECRET)
    resealed = key_with(between.seal(REALM, key.id, key.slot, between.unseal(REALM, key)))
    assert between.is_current(resealed)
    assert after.unseal(REALM, resealed) == SECRET
    assert after.is_secret_of(resealed, SECRET)


def test_other_purposes_have_keys_of_their_own() -> None:
    """What they are for is part of what they are derived from."""
    sealer = Sealer([NEW, OLD])
    assert len({*sealer.derived("one", 64), *sealer.derived("other", 64)}) == 4
    assert sealer.derived("one", 64) == Sealer([NEW, OLD]).derived("one", 64)
    assert {len(key) for key in sealer.derived("one", 64)} == {64}


@pytest.mark.parametrize("length", [SECRET_MIN, SECRET_MAX])
def test_a_secret_may_be_imported_at_both_edges(length) -> None:
    """32 and 128 characters; one less, one more is refused."""
    assert check_secret("x" * length) == "x" * length
    off = length - 1 if length == SECRET_MIN else length + 1
    for wrong in ("x" * off, "x" * (length - 1) + " ", "x" * (length - 1) + "\n"):
        with pytest.raises(InvalidRequestError):
            check_secret(wrong)


def test_nothing_secret_is_shown() -> None:
    """In what Python prints of the objects."""
    sealer = Sealer([NEW, OLD])
    assert NEW not in repr(vars(sealer))
