"""A small file of a few fields, replaced as a whole and durably, that says by a checksum that it is what was written."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Final

import msgpack

from services.consensus.raft.ports import LogDamagedError
from shared.disk.durable_files import replace_file

_CHECKSUM_BYTES: Final = 4
_FORMAT_VERSION: Final = 1


def write_checked(path: Path, *fields: object) -> None:
    """Put `fields` at `path`. Raises OSError."""
    body = bytes(msgpack.packb([_FORMAT_VERSION, *fields]))
    replace_file(path, _checksum(body) + body)


def read_checked(path: Path) -> list[Any] | None:
    """The fields; None when there is no file.

    Raises:
        LogDamagedError: it is damaged, or of another format.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, body = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if not body or checksum != _checksum(body):
        raise LogDamagedError(f"{path} does not fit its checksum; what it said is lost")
    found: list[Any] = msgpack.unpackb(body)
    if found[0] != _FORMAT_VERSION:
        raise LogDamagedError(f"{path} has format {found[0]}; this member knows {_FORMAT_VERSION}")
    return found[1:]


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")
