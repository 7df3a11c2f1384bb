"""`tests.secret_search` finds what is planted; otherwise the tests that find nothing by it would say nothing."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.access_keys import draw_secret
from tests.chance import random_bytes
from tests.secret_search import files_below, found_secrets

WRITTEN: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda secret: f'{{"authorization": "Bearer TV.{secret}"}}'.encode(),
    "in UTF-16": lambda secret: f"x{secret}".encode("utf-16-le"),
    "in hexadecimal": lambda secret: secret.encode().hex().encode(),
    "in base64": lambda secret: base64.b64encode(secret.encode()),
    "in base64 behind one byte": lambda secret: base64.b64encode(f":{secret}:".encode()),
    "in base64 behind two bytes": lambda secret: base64.urlsafe_b64encode(f"k:{secret}".encode()),
    "backwards": lambda secret: secret[::-1].encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_secret_is_found_however_it_was_written(how: str) -> None:
    """And another one is not."""
    secret = draw_secret()
    content = b"before " + WRITTEN[how](secret) + b" after"
    assert found_secrets({"planted": secret, "other": draw_secret()}, [("a log", content)]) == ["planted in a log"]


@pytest.mark.parametrize("encode", [bytes, base64.b64encode])
def test_the_bytes_of_a_key_that_is_written_in_hexadecimal_are_found(encode: Callable[[bytes], bytes]) -> None:
    """A process holds them so."""
    key = random_bytes(32)
    assert found_secrets({"sealing key": key.hex()}, [("a snapshot", b"x" + encode(key))])


def test_a_secret_in_a_database_and_in_its_write_ahead_log_is_found(tmp_path: Path) -> None:
    """Those are where consensus keeps what it is told; a folder that is left out is not looked into."""
    secret = draw_secret()
    with sqlite3.connect(tmp_path / "metadata.sqlite") as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE rows (body TEXT)")
        database.execute("INSERT INTO rows VALUES (?)", (f"before {secret} after",))
        database.commit()
        assert found_secrets({"it": secret}, files_below(tmp_path)) == ["it in metadata.sqlite-wal"]
    database.close()
    assert found_secrets({"it": secret}, files_below(tmp_path)) == ["it in metadata.sqlite"]
    assert found_secrets({"it": secret}, files_below(tmp_path, without=[tmp_path])) == []
