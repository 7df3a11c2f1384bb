"""Rules about what git keeps: regular files and nothing else, and no secret. As in `rules.py`, each returns findings."""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

REGULAR_MODES = ("100644", "100755")

_KNOWN_SECRETS: Mapping[str, re.Pattern[str]] = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----"),
    "an access key of a cluster": re.compile(r"\bTV[A-Z0-9]{18}\.[\w-]{32,}"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_\w{36,})"),
    "a GitLab token": re.compile(r"\bglpat-[\w-]{20,}"),
    "a Google API key": re.compile(r"\bAIza[\w-]{35}\b"),
    "a Slack token": re.compile(r"\bxox[abeoprs]-[\w-]{10,}"),
    "a token of a package registry": re.compile(r"\b(?:npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{50,})"),
    "a JSON Web Token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
}
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|credential|api_?key|access_?key|private_?key)[\w-]*[\"']?\s*"
    r"(?::[^=\n]{0,40})?[:=]\s*b?[\"']?([\w+/=.-]{20,})",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]{20,})@")
_ALONE = re.compile(r"[\w+/=-]{32,}")
"""A line of a file as `make secrets` writes it: one random word."""

MIN_ENTROPY_BITS = 3.0
"""Per character, by the word's own frequencies: 16 random bytes in hexadecimal reach it."""


def tracked(root: Path) -> dict[str, str] | None:
    """Path to mode of every entry that git tracks below `root`; None where there is no repository, or no git."""
    try:
        answer = subprocess.run(["git", "ls-files", "--stage", "-z"], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    entries = (entry.partition("\t") for entry in answer.stdout.decode().split("\0") if entry)
    return {path: facts.split()[0] for facts, _, path in entries}


def irregular_entries(entries: Mapping[str, str]) -> list[str]:
    """Symbolic links (120000) and submodules (160000): what they point to is not in a fresh clone."""
    return [f"{path} is no regular file (mode {mode})" for path, mode in entries.items() if mode not in REGULAR_MODES]


def secrets(root: Path, paths: Iterable[str]) -> list[str]:
    """Keys and tokens of known forms, and random words under the name of a secret, in a URL or alone in their file."""
    findings = []
    for path in paths:
        file = root / path
        content = file.read_bytes() if file.is_file() else b""
        if b"\0" in content:
            continue
        lines = content.decode(errors="replace").splitlines()
        if lines and all(_ALONE.fullmatch(line) and _is_random(line) for line in lines):
            findings.append(f"{path} holds random words and nothing else, as a file of a secret does")
        for number, line in enumerate(lines, 1):
            findings += [f"{path}:{number} holds {kind}" for kind in _kinds(line)]
    return findings


def _kinds(line: str) -> list[str]:
    kinds = [kind for kind, form in _KNOWN_SECRETS.items() if form.search(line)]
    if any(_is_random(word) for form in (_ASSIGNED, _IN_URL) for word in form.findall(line)):
        kinds.append("what looks like a password, token or key")
    return kinds


def _is_random(text: str) -> bool:
    # What a generator makes has a long run of letters and digits; names and paths have words between their separators.
    return any(
        re.search(r"\d", run) and re.search(r"[A-Za-z]", run) and _entropy_bits(run) >= MIN_ENTROPY_BITS
        for run in re.findall(r"[A-Za-z0-9+=]{16,}", text)
    )


def _entropy_bits(word: str) -> float:
    return -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())
