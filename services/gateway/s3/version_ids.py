"""Version ids as S3 clients see them: opaque, of 16 hex digits, and the same for ever.

The number of a version is the index of its entry in the log. A keyed permutation of 64 bits hides how much the cluster does, and
makes an id of another cluster, or one that is made up, name nothing. Its key follows from the realm, which is named once and
survives backup, restore and rescue; the keys that secrets are sealed under are rotated, and clients keep version ids for years.

The permutation is a Feistel network of four rounds over keyed BLAKE3 (Luby and Rackoff, 1988).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

from blake3 import blake3

from services.gateway.api.services import Services
from services.gateway.s3.errors import S3Error
from shared.contracts.files import FileVersion
from shared.errors import NotReadyError

NULL: Final = "null"
_CONTEXT: Final = "trivet 2026 s3 version ids"
_ID: Final = re.compile(r"[0-9a-f]{16}")
_ROUNDS: Final = 4
_HALF_BYTES: Final = 4
_HALF_BITS: Final = 32
_LOW_HALF: Final = 0xFFFF_FFFF
_VERSION_LIMIT: Final = 1 << 63


class VersionIds:
    """Of one cluster."""

    def __init__(self, realm: str) -> None:
        self._key = blake3(realm.encode(), derive_key_context=_CONTEXT).digest()

    def seal(self, version: int, *, is_null: bool) -> str:
        """The id of a version."""
        if is_null:
            return NULL
        left, right = version >> _HALF_BITS, version & _LOW_HALF
        for number in range(_ROUNDS):
            left, right = right, left ^ self._round(number, right)
        return f"{left:08x}{right:08x}"

    def open(self, text: str) -> int | Literal["null"]:
        """The number of the version that `text` names.

        Raises:
            S3Error: InvalidArgument: no version ever has such an id. NoSuchVersion: none of this cluster has it.
        """
        if text == NULL:
            return NULL
        if not _ID.fullmatch(text):
            raise S3Error(
                "InvalidArgument", "Invalid version id specified", ArgumentName="versionId", ArgumentValue=text
            )
        left, right = int(text[:8], 16), int(text[8:], 16)
        for number in reversed(range(_ROUNDS)):
            left, right = right ^ self._round(number, left), left
        version = left << _HALF_BITS | right
        if not 0 < version < _VERSION_LIMIT:
            raise S3Error("NoSuchVersion", "The specified version does not exist.", VersionId=text)
        return version

    def of(self, version: FileVersion) -> str:
        """The id of a version that has bytes."""
        return self.seal(version.version_id or version.version, is_null=version.is_null)

    def _round(self, number: int, half: int) -> int:
        message = number.to_bytes(1) + half.to_bytes(_HALF_BYTES)
        return int.from_bytes(blake3(message, key=self._key).digest(_HALF_BYTES))


def version_ids(services: Services) -> VersionIds:
    """Those of the cluster. Raises NotReadyError: its realm is not known yet."""
    realm = services.access.table.realm
    if realm is None:
        raise NotReadyError("The gateway has not heard yet which realm this is.")
    return _of_realm(realm)


@lru_cache(maxsize=4)
def _of_realm(realm: str) -> VersionIds:
    return VersionIds(realm)
