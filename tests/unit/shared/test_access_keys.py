"""Access keys as one line has them."""

from __future__ import annotations

import re

import pytest

from shared.access_keys import PlainKey, draw_credential, draw_key_id, draw_secret

ID, SECRET = "TV" + "R" * 18, "r" * 40


def test_ids_and_secrets_are_as_they_are_written_down() -> None:
    """TV and 18 of A-Z0-9; 40 characters; never the same twice."""
    assert all(re.fullmatch(r"TV[A-Z0-9]{18}", draw_key_id()) for _ in range(100))
    assert all(re.fullmatch(r"[A-Za-z0-9]{40}", draw_secret()) for _ in range(100))
    assert len({draw_credential() for _ in range(100)}) == 100


def test_a_line_comes_back() -> None:
    """With the line end of a file, at both edges of a secret."""
    for secret in ("r" * 32, "!" * 128, "a.b" * 20):
        key = PlainKey.parse(f"{ID}.{secret}\n")
        assert (key.id, key.secret) == (ID, secret)
        assert PlainKey.parse(key.line()) == key


@pytest.mark.parametrize(
    "line",
    [
        "",
        ID,
        f".{SECRET}",
        f"{ID.lower()}.{SECRET}",
        f"{ID}.{'r' * 31}",
        f"{ID}.{'r' * 129}",
        f"{ID}.{'r' * 39} r",
        f"{ID}.{SECRET}\n{ID}.{SECRET}",
    ],
)
def test_another_line_is_no_key(line) -> None:
    """And is not shown."""
    with pytest.raises(ValueError, match="one line") as caught:
        PlainKey.parse(line)
    assert "rrr" not in str(caught.value)


def test_a_key_is_printed_without_its_secret() -> None:
    """A line of a log is made of what Python prints."""
    assert SECRET not in repr(PlainKey(ID, SECRET))
