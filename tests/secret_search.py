"""Looks for secrets where none may be: in every form in which a program writes bytes down by accident."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from local_cluster.cluster import Cluster

Place = tuple[str, bytes]
"""Where it is, in words, and what is there."""


def found_secrets(secrets: Mapping[str, str], places: Iterable[Place]) -> list[str]:
    """`<secret> in <place>` for every secret that a place holds in one of its forms; empty for none."""
    forms = {name: forms_of(secret) for name, secret in secrets.items()}
    return [f"{name} in {where}" for where, content in places for name, of in forms.items() if is_any_in(of, content)]


def is_any_in(forms: Iterable[bytes], content: bytes) -> bool:
    return any(form in content for form in forms)


def forms_of(secret: str) -> set[bytes]:
    """As text, in UTF-16, escaped, reversed, in hexadecimal, in base64 at every alignment; and the bytes that it spells."""
    raw = secret.encode()
    forms = {raw, secret.encode("utf-16-le"), quote(secret).encode(), json.dumps(secret)[1:-1].encode(), raw[::-1]}
    contents = [raw]
    with contextlib.suppress(ValueError):
        contents.append(bytes.fromhex(secret))
    for content in contents:
        forms |= {content, content.hex().encode(), content.hex().upper().encode(), *_base64_parts(content)}
    return forms


def _base64_parts(content: bytes) -> Iterator[bytes]:
    """What any base64 text has in it that holds `content`: the characters that its neighbours have no part in."""
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(shift) + content)
            yield text[-(-shift * 4 // 3) : (shift + len(content)) * 8 // 6]


def files_below(folder: Path, *, without: Iterable[Path] = ()) -> Iterator[Place]:
    """Every file, but those in or at `without`."""
    left_out = list(without)
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(one) for one in left_out) or path.is_symlink() or not path.is_file():
            continue
        try:
            yield f"{path.relative_to(folder)}", path.read_bytes()
        except FileNotFoundError:
            continue  # a temporary file of a service at work


def process_places(cluster: Cluster) -> Iterator[Place]:
    """What every user of the machine, or whoever lists processes, sees of those that run: arguments and environment."""
    for name in cluster.running():
        for what in ("cmdline", "environ"):
            yield f"{what} of {name}", Path(f"/proc/{cluster.pid(name)}/{what}").read_bytes()
