"""The two front doors as the load sees them: where a key is asked for, and how a list of keys is counted.

Requests of S3 are links, signed before the clock of a row starts: the load costs as much at both doors, and the cluster proves a
signature for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import quote

from benchmarks.cluster.connection import Address
from trivet.import_s3.signing import ClientRequest, Query, Signer

BUCKET = "default"
FILES = f"/v1/files/{BUCKET}"

_EXPIRES_S = 3600
"""Longer than any row lasts."""

TargetOf = Callable[[str], str]
"""The target of a request for a key."""


class Door(Protocol):
    """One of them.

    Attributes:
        name: a word for keys, so that no two doors write the same.
        listed_mark: what an answer to a list has once for each key.
    """

    name: str
    listed_mark: bytes

    @property
    def address(self) -> Address:
        """Where it is."""

    def targets(self, method: str, keys: Iterable[str]) -> TargetOf:
        """How these keys are asked for."""

    def list_target(self, prefix: str, limit: int) -> str:
        """A page of at most so many keys."""


class NativeDoor:
    """`/v1`. Nothing is signed, and so nothing is prepared."""

    name = "v1"
    listed_mark = b'"key":'

    def __init__(self, address: Address) -> None:
        self.address = address

    def targets(self, _method: str, _keys: Iterable[str]) -> TargetOf:
        """See Door."""
        return lambda key: f"{FILES}/{key}"

    def list_target(self, prefix: str, limit: int) -> str:
        """See Door."""
        return f"{FILES}?limit={limit}&prefix={quote(prefix, safe='')}"


class S3Door:
    """S3's port."""

    name = "s3"
    listed_mark = b"<Key>"

    def __init__(self, address: Address, signer: Signer) -> None:
        self.address = address
        self._signer = signer

    def targets(self, method: str, keys: Iterable[str]) -> TargetOf:
        """See Door."""
        return {key: self._link(method, f"/{BUCKET}/{key}") for key in keys}.__getitem__

    def list_target(self, prefix: str, limit: int) -> str:
        """See Door."""
        return self._link("GET", f"/{BUCKET}", [("list-type", "2"), ("max-keys", str(limit)), ("prefix", prefix)])

    def _link(self, method: str, path: str, query: Query = ()) -> str:
        return self._signer.presigned(ClientRequest(method, path, query), _EXPIRES_S, datetime.now(UTC))
