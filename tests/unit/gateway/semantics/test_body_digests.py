"""Digests sent by clients: checked when known, refused when malformed."""

from __future__ import annotations

import base64
import hashlib

import pytest

from services.gateway.semantics.body_digests import BodyDigests
from shared.errors import DigestMismatchError, InvalidRequestError

BODY = b"some body"


def encoded(algorithm: str) -> str:
    return base64.b64encode(hashlib.new(algorithm, BODY).digest()).decode()


GOOD = [
    {},
    {"content-md5": encoded("md5")},
    {"content-digest": f"sha-256=:{encoded('sha256')}:"},
    {"content-digest": f"sha-512=:{encoded('sha512')}:, sha-256=:{encoded('sha256')}:"},
    {"content-digest": f"unixsum=:AAA=:,sha-256=:{encoded('sha256')}:"},
    {"content-digest": f"sha-256=:{encoded('sha256')}:", "content-md5": encoded("md5")},
    # Structured fields: parameters, other kinds of items, members without one, missing padding, the last of a kind counts.
    {"content-digest": f'md5=:AAA=:;q=1, a, b;c="d, e", f=?0,g=-1.5 ,\tsha-256=:{encoded("sha256")}:;q=0.5; w'},
    {"content-digest": f"sha-256=:{encoded('sha256').rstrip('=')}:"},
    {"content-digest": f"sha-256=:AAAA:, sha-256=:{encoded('sha256')}:"},
]


@pytest.mark.parametrize("headers", GOOD)
def test_the_right_body_passes_in_any_pieces(headers) -> None:
    """Every known digest of the list is checked, unknown ones are not."""
    digests = BodyDigests.announced(headers)
    for byte in BODY:
        digests.update(bytes((byte,)))
    digests.check()


@pytest.mark.parametrize("headers", GOOD[1:])
def test_another_body_does_not(headers) -> None:
    """One digest that differs is enough."""
    digests = BodyDigests.announced(headers)
    digests.update(BODY + b"!")
    with pytest.raises(DigestMismatchError) as caught:
        digests.check()
    assert caught.value.definite


def test_every_member_of_the_list_counts() -> None:
    """A right one does not make up for a wrong one."""
    wrong = base64.b64encode(bytes(64)).decode()
    digests = BodyDigests.announced({"content-digest": f"sha-256=:{encoded('sha256')}:,sha-512=:{wrong}:"})
    digests.update(BODY)
    with pytest.raises(DigestMismatchError):
        digests.check()


@pytest.mark.parametrize(
    "headers",
    [
        {"content-md5": ""},
        {"content-md5": "not base64!"},
        {"content-md5": encoded("sha256")},
        {"content-digest": ""},
        {"content-digest": "sha-256"},
        {"content-digest": f"sha-256={encoded('sha256')}"},
        {"content-digest": f"sha-256=:{encoded('md5')}:"},
        {"content-digest": "unixsum=:AAA=:"},
        {"content-digest": "sha-256=1"},
        {"content-digest": f"sha-256=:{encoded('sha256')}:,"},
        {"content-digest": f",sha-256=:{encoded('sha256')}:"},
        {"content-digest": f"sha-256=:{encoded('sha256')}: sha-512=:{encoded('sha512')}:"},
        {"content-digest": f"SHA-256=:{encoded('sha256')}:"},
        {"content-digest": f"sha-256=:{encoded('sha256')}:;"},
        {"content-digest": "a=" * 10_000},
        {"content-digest": ",".join([f"sha-256=:{encoded('sha256')}:"] * 20)},
    ],
)
def test_a_malformed_digest_is_refused_before_the_body(headers) -> None:
    """A check that was asked for and cannot be made is not left out in silence."""
    with pytest.raises(InvalidRequestError):
        BodyDigests.announced(headers)


@pytest.mark.parametrize(
    ("header", "algorithm", "form"),
    [
        ("content-md5", "md5", "{}"),
        ("content-digest", "sha256", "sha-256=:{}:"),
        ("content-digest", "sha512", "sha-512=:{}:"),
    ],
)
@pytest.mark.parametrize("place", [0, 7, -1], ids=["first", "middle", "last"])
def test_one_wrong_bit_of_a_digest_is_enough(header: str, algorithm: str, form: str, place: int) -> None:
    """All bytes of a digest are compared."""
    digest = bytearray(hashlib.new(algorithm, BODY).digest())
    digest[place] ^= 1
    digests = BodyDigests.announced({header: form.format(base64.b64encode(digest).decode())})
    digests.update(BODY)
    with pytest.raises(DigestMismatchError):
        digests.check()
