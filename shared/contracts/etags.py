"""What tells two contents and two versions apart: content ids and entity tags.

The content id of a file is the BLAKE3-256 over its pieces: the digest of the chunk list that a piece lies in, where it begins in
there, and its length. A chunk list of its own is one piece. Two files with the same content id have the same bytes; the same
bytes may have several content ids. The log stores both, so what is computed here must stay the same for ever: another rule needs
entries of another version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from shared.contracts.files import FileContent, FileVersion

_ETAG_HEX_DIGITS: Final = 32
_OFFSET_BYTES: Final = 8


def etag_of(digest: str, media_type: str, metadata: dict[str, str]) -> str:
    """The strong entity tag of a version, without quotes: any difference that a reader could see changes it.

    `digest` is that of the whole body, or the content id where there is none.
    """
    identity = json.dumps([digest, media_type, sorted(metadata.items())], separators=(",", ":"))
    return blake3(identity.encode()).hexdigest()[:_ETAG_HEX_DIGITS]


def list_digest(chunk_digests: bytes) -> bytes:
    """32 bytes that name a chunk list: which chunks, in which order."""
    return blake3(chunk_digests).digest()


def content_id_of_pieces(pieces: Iterable[tuple[bytes, int, int]]) -> str:
    """The content id of (`list_digest`, bytes skipped, bytes taken) in the order of the file."""
    return content_id_of_identities(b"".join(piece_identity(*piece) for piece in pieces))


def piece_identity(digest: bytes, skip_bytes: int, take_bytes: int) -> bytes:
    """What a piece is in a content id: 48 bytes."""
    return digest + skip_bytes.to_bytes(_OFFSET_BYTES) + take_bytes.to_bytes(_OFFSET_BYTES)


def content_id_of_identities(identities: bytes) -> str:
    """The content id of pieces, of which each is there as `piece_identity`."""
    return blake3(identities).hexdigest()


def content_id_of_list(content: FileContent) -> str:
    """The content id of content that has its chunk list."""
    return content_id_of_pieces([(list_digest(content.chunk_digests), 0, content.size_bytes)])


def content_id_of(version: FileVersion) -> str:
    """The content id of a version whose chunk list, if it has one, was not left out."""
    return content_id_of_list(version.content) if version.content_id is None else version.content_id
