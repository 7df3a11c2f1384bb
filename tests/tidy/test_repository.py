"""This repository keeps the rules of `repository.py`, and each of them finds what is planted."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.access_keys import bearer_of, draw_credential
from tests.chance import random_bytes
from tests.tidy import repository

ROOT = Path(__file__).parents[2]


@pytest.fixture
def entries() -> dict[str, str]:
    """What git tracks here."""
    found = repository.tracked(ROOT)
    if found is None:
        pytest.skip("not a git repository: what is tracked cannot be known")
    return found


def test_git_keeps_regular_files_only(entries: dict[str, str]) -> None:
    """No symbolic link and no submodule: a clone elsewhere has nothing behind them."""
    assert not repository.irregular_entries(entries)


def test_git_keeps_no_secret(entries: dict[str, str]) -> None:
    """Secrets are made by `make run` and `make secrets`, where git does not look."""
    assert not repository.secrets(ROOT, entries)


def test_a_tracked_link_is_found(tmp_path: Path) -> None:
    """As git itself lists it, beside a file and a program that may be there; outside of a repository nothing is known."""
    assert repository.tracked(tmp_path) is None
    (tmp_path / "file with a\ttab").touch()
    (tmp_path / "program").touch(0o755)
    (tmp_path / ".venv").symlink_to("/nowhere")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    entries = repository.tracked(tmp_path)
    assert entries is not None
    assert set(entries) == {"file with a\ttab", "program", ".venv"}
    assert repository.irregular_entries(entries) == [".venv is no regular file (mode 120000)"]


def _hexadecimal(size_bytes: int) -> str:
    # The first byte has a letter, the last a digit: what has none of either is no password of ours.
    return f"a{random_bytes(size_bytes).hex()}1"


def _letters(count: int) -> str:
    return "a1" + base64.b32encode(random_bytes(count)).decode().rstrip("=")[: count - 2]


# Written so that this file holds none of them.
PLANTED: dict[str, Callable[[], str]] = {
    "a private key": lambda: "-----BEGIN " + "EC PRIVATE KEY-----",
    "a private key of no named kind": lambda: "-----BEGIN " + "PRIVATE KEY-----",
    "an access key of a cluster": draw_credential,
    "what curl is told": lambda: f'header = "Authorization: {bearer_of(draw_credential())}"',
    "an AWS access key": lambda: "AKIA" + base64.b32encode(random_bytes(10)).decode(),
    "a GitHub token": lambda: "x = 'ghp" + f"_{_letters(36)}'",
    "a Slack token": lambda: "xoxb" + f"-{_letters(24)}",
    "a JSON Web Token": lambda: ".".join("ey" + "J" + _letters(20) for _ in range(2)) + "." + _letters(20),
    "one of our own secrets in code": lambda: "CLUSTER_SECRET" + f' = "{_hexadecimal(32)}"',
    "a short one with a type": lambda: "admin_token" + f': Final = "{_hexadecimal(16)}"',
    "one in YAML": lambda: "TRIVET_ADMIN_TOKEN" + f": {_hexadecimal(32)}",
    "one in JSON": lambda: '{"api_key"' + f': "{_letters(40)}"' + "}",
    "one in a shell": lambda: "export REDIS_PASSWORD" + f"={_hexadecimal(32)}",
    "one in a URL": lambda: f"redis://default:{_hexadecimal(32)}" + "@host/0",
    "a file of a secret": lambda: _hexadecimal(32),
    "a file of a secret while it is rotated": lambda: f"{_hexadecimal(32)}\n{_hexadecimal(32)}\n",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found(tmp_path: Path, kind: str) -> None:
    """Keys of known forms; random words where secrets stand."""
    (tmp_path / "planted").write_text(PLANTED[kind]())
    assert len(repository.secrets(tmp_path, ["planted"])) == 1


@pytest.mark.parametrize(
    "text",
    [
        "TRIVET_CLUSTER_SECRET_FILE: /run/secrets/cluster-secret-1",
        'secret = "storage-test-secret-of-many-words"',
        "secrets = load_or_make_secrets(layout, process_names(Kind.REDIS))",
        'SECRET = "0" * 32',
        "password = 'aaaaaaaaaaaaaaaaaaaaaaa1'",
        "digest = '2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25'",
        "https://example.org:8080/a@b",
        "token: str",
        "",
    ],
)
def test_what_only_speaks_of_secrets_is_none(tmp_path: Path, text: str) -> None:
    """Paths, names, constants of tests, digests."""
    (tmp_path / "harmless").write_text(f"{text}\n")
    (tmp_path / "binary").write_bytes(b"\0" + PLANTED["a private key"]().encode())
    assert not repository.secrets(tmp_path, ["harmless", "binary", "deleted"])
