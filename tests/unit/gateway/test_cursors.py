"""List cursors cannot be made up, and survive a rotation of the secret."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.cursors import CURSOR_KEY_BYTES, BucketCursor, Cursor, CursorSealer
from shared.errors import CursorExpiredError, InvalidRequestError

CURSOR = Cursor("default", "a/ä", "/", None, "a/ä/b/", 42)
OLD, NEW = b"o" * CURSOR_KEY_BYTES, b"n" * CURSOR_KEY_BYTES


ME, OTHER = "a" * 64, "b" * 64


class Sealer(CursorSealer):
    """Of one principal's cursors, unless another is named."""

    def seal(self, cursor, principal=ME):
        return super().seal(cursor, principal)

    def open(self, text, kind, principal=ME):
        return super().open(text, kind, principal)


def sealer(*keys: bytes, cluster_id: str = "cluster-1") -> Sealer:
    return Sealer(keys or (OLD,), cluster_id)


def test_a_cursor_comes_back_as_it_went() -> None:
    """Any gateway with the same secret opens it."""
    assert sealer().open(sealer().seal(CURSOR), Cursor) == CURSOR


def test_a_cursor_of_buckets_is_no_cursor_of_files() -> None:
    """Each list takes its own."""
    buckets = BucketCursor("photos")
    text = sealer().seal(buckets)
    assert sealer().open(text, BucketCursor) == buckets
    with pytest.raises(InvalidRequestError):
        sealer().open(text, Cursor)
    with pytest.raises(InvalidRequestError):
        sealer().open(sealer().seal(CURSOR), BucketCursor)


def test_a_cursor_fits_into_a_url() -> None:
    """The longest keys leave room in 8 KiB."""
    longest = Cursor("b" * 63, "ä" * 512, "/" * 64, "\U0001f600" * 256, None, 1 << 62)
    text = sealer(cluster_id="c" * 63).seal(longest)
    assert len(text) < 4096
    assert sealer(cluster_id="c" * 63).open(text, Cursor) == longest


def test_a_cursor_of_the_cluster_before_a_restore_has_expired() -> None:
    """Its index belongs to another log: under the same secret it is 410, as any list that cannot be continued."""
    text = sealer(cluster_id="cluster-1").seal(CURSOR)
    with pytest.raises(CursorExpiredError) as expired:
        sealer(cluster_id="cluster-2").open(text, Cursor)
    assert expired.value.definite
    assert sealer(cluster_id="cluster-1").open(text, Cursor) == CURSOR


def test_rotation_keeps_cursors_open() -> None:
    """While two secrets are in force, cursors of both are taken; after it the old ones are not."""
    text = sealer(OLD).seal(CURSOR)
    assert sealer(NEW, OLD).open(text, Cursor) == CURSOR
    with pytest.raises(InvalidRequestError):
        sealer(NEW).open(text, Cursor)


def test_a_cursor_is_the_one_of_whom_it_was_given_to() -> None:
    """Another principal might see by it what its own list does not show."""
    text = sealer().seal(CURSOR, ME)
    with pytest.raises(InvalidRequestError):
        sealer().open(text, Cursor, OTHER)
    with pytest.raises(InvalidRequestError):
        sealer().open(text, Cursor, "anonymous")


def test_a_cursor_tells_no_name() -> None:
    """Where a page ended may be a name that the list does not show."""
    text = sealer().seal(Cursor("default", "", "/", "secret-name", None, 42))
    assert b"secret" not in base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@given(position=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_changed_cursor_is_refused(position, change) -> None:
    """Whatever byte is flipped, it is a 400 and never another list."""
    raw = bytearray(base64.urlsafe_b64decode(sealer().seal(CURSOR) + "=="))
    raw[position % len(raw)] ^= change
    with pytest.raises(InvalidRequestError):
        sealer().open(base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="), Cursor)


@given(st.text(max_size=200))
def test_garbage_is_refused(text) -> None:
    """No text makes it fail in another way."""
    with pytest.raises(InvalidRequestError):
        sealer().open(text, Cursor)
