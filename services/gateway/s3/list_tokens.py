"""Continuation tokens of ListObjectsV2: opaque to clients, stateless for us, and ours beyond doubt (G-28).

A token says where the next page begins and which log index all pages come from. It opens for the principal, the bucket, the
prefix and the delimiter of its list, and for nothing else, so none of these is in it and it stays short.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Final

from services.gateway.access.context import acting_principal
from services.gateway.cursors import CursorSealer
from services.gateway.s3.errors import S3Error
from shared.errors import InvalidRequestError

_HEAD: Final = struct.Struct(">BQ")
_AFTER_KEY: Final = 1
_AFTER_PREFIX: Final = 2


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a page begins: behind a key, or behind everything that has a common prefix. One of them is set, or neither."""

    after_key: str | None = None
    after_prefix: str | None = None


START: Final = ListPosition()


@dataclass(frozen=True, slots=True)
class ListName:
    """What makes two lists the same one."""

    bucket: str
    prefix: str
    delimiter: str | None


def seal_token(sealer: CursorSealer, name: ListName, position: ListPosition, at_index: int) -> str:
    """The token of the page that begins at `position`, in the list as it was at `at_index`."""
    form = _AFTER_KEY if position.after_prefix is None else _AFTER_PREFIX
    after = position.after_key if position.after_prefix is None else position.after_prefix
    return sealer.seal_bytes(_HEAD.pack(form, at_index) + (after or "").encode(), _owner(sealer, name))


def open_token(sealer: CursorSealer, name: ListName, text: str) -> tuple[ListPosition, int]:
    """What `seal_token` was given.

    Raises:
        S3Error: InvalidArgument, it is of another list, principal or cluster, or none at all.
    """
    try:
        payload = sealer.open_bytes(text, _owner(sealer, name))
    except InvalidRequestError as error:
        message = "The continuation token provided is incorrect."
        raise S3Error("InvalidArgument", message, ArgumentName="continuation-token") from error
    form, at_index = _HEAD.unpack_from(payload)
    after = payload[_HEAD.size :].decode()
    return (ListPosition(after_key=after) if form == _AFTER_KEY else ListPosition(after_prefix=after)), at_index


def _owner(sealer: CursorSealer, name: ListName) -> bytes:
    # Begins with a bracket, as the id of no principal does.
    facts = ["s3 list", sealer.cluster_id, acting_principal(), name.bucket, name.prefix, name.delimiter]
    return json.dumps(facts).encode()
