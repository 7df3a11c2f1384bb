"""What a client's headers say about a file on the way in, and what ours say on the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from services.gateway.semantics.http_dates import EXAMPLE_DATE, http_date, whole_s
from services.gateway.semantics.parameters import EXAMPLE_ETAG, Header, answer_header
from shared.contracts.files import FileVersion
from shared.contracts.time import rfc3339
from shared.errors import InvalidRequestError
from shared.units import KIB

META_PREFIX: Final = "x-trivet-meta-"
_RAW_META_PREFIX: Final = META_PREFIX.encode()
DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
MAX_METADATA_VALUE_BYTES: Final = 2 * KIB
MAX_METADATA_BYTES: Final = 8 * KIB
_MAX_CONTENT_TYPE_BYTES: Final = 255

USER_METADATA: Final = Header(
    "X-Trivet-Meta-Place",
    (
        "Any header that begins with `X-Trivet-Meta-` is kept with the file and given back with it: names of 1-128 "
        "token characters, printable ASCII values of at most 2 KiB, 8 KiB in all."
    ),
    "Rome",
)
"""What `user_metadata` reads."""

CHANGED: Final = {"X-Trivet-Version": answer_header("Log index that last changed this key.", "17")}
"""The header of every answer about a key."""

DELETED: Final = CHANGED | {
    "X-Trivet-Delete-Marker": answer_header("`true` where a delete marker is the current version now.", "true")
}
"""Those of the answer to a deletion."""

PUBLISHED: Final = {"ETag": answer_header("Strong entity tag of this version.", EXAMPLE_ETAG)} | CHANGED
"""Those of a receipt."""

VERSION: Final = PUBLISHED | {
    "Last-Modified": answer_header(
        (
            "When this version was published, in a later second than the version before. Left out while that second is "
            "still to come, as it is when a file is replaced several times in a second."
        ),
        EXAMPLE_DATE,
    ),
    "X-Trivet-Version-Id": answer_header(
        "The version that it is known by, where that is not X-Trivet-Version: it is one that was current before.", "9"
    ),
    "Accept-Ranges": answer_header("Ranges of bytes may be asked for.", "bytes"),
}
"""What `version_headers` gives."""

CONTENT: Final = VERSION | {
    "X-Trivet-Digest": answer_header(
        "BLAKE3-256 of the whole file, hex.", "53b63a6fc8605d0c0ce559317a00177d72adb24d669235e4c914f443a8831ca1"
    ),
    "X-Trivet-Content-Id": answer_header(
        "Of a file that was joined out of parts, in place of X-Trivet-Digest: what stands for its bytes, hex.",
        "2c1b8fd1f2d2f9b7a1c0e55d0be4f9a6c7f1b5f9e0a4e3f7b0d9c6a8f2e1d4b3",
    ),
    "X-Trivet-Modified": answer_header(
        "When this version was published, as lists show it.", "2026-11-25T16:35:12.106710Z"
    ),
    "X-Trivet-Meta-Place": answer_header("And every other header of user metadata, as it was stored.", "Rome"),
}
"""What `content_headers` gives."""

_PRINTABLE: Final = re.compile(r"[\x20-\x7e\t]*")
_META_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")


def content_type(values: Sequence[str]) -> str:
    """The type to keep for a file, from its Content-Type headers; it is stored and given back, and never interpreted.

    Raises:
        InvalidRequestError: there are several, or it is too long, or not printable ASCII; definite.
    """
    if len(values) > 1:
        raise InvalidRequestError("Content-Type is given twice.", header="Content-Type")
    value = values[0] if values else ""
    if not value.strip():
        return DEFAULT_CONTENT_TYPE
    if len(value) > _MAX_CONTENT_TYPE_BYTES or not _PRINTABLE.fullmatch(value):
        raise InvalidRequestError(f"Content-Type has at most {_MAX_CONTENT_TYPE_BYTES} printable ASCII characters.")
    return value.strip()


def user_metadata(raw_headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The X-Trivet-Meta-* headers of an upload, by name without the prefix, in lower case.

    Raises:
        InvalidRequestError: one is malformed, given twice or too large, or all are; definite.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        lower_name = raw_name.lower()
        if not lower_name.startswith(_RAW_META_PREFIX):
            continue
        name = lower_name.removeprefix(_RAW_META_PREFIX).decode("latin-1")
        if name in found:
            raise InvalidRequestError("A user metadata header is given twice.", header=META_PREFIX + name)
        found[name] = raw_value.decode("latin-1").strip()
    return checked_metadata(found)


def checked_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """`metadata` itself, names without the prefix, when it may be kept with a file.

    Raises:
        InvalidRequestError: a name or value is malformed or too large, or all are; definite.
    """
    size_bytes = 0
    for name, value in metadata.items():
        size_bytes += len(name) + len(value)
        if not _META_NAME.fullmatch(name) or not _PRINTABLE.fullmatch(value):
            raise InvalidRequestError("User metadata has a name of 1-128 token characters and printable ASCII values.")
        if len(value) > MAX_METADATA_VALUE_BYTES or size_bytes > MAX_METADATA_BYTES:
            raise InvalidRequestError(
                "User metadata is too large.",
                header=META_PREFIX + name,
                value_limit_bytes=MAX_METADATA_VALUE_BYTES,
                total_limit_bytes=MAX_METADATA_BYTES,
            )
    return metadata


def version_headers(version: FileVersion, *, read_now_ns: Callable[[], int]) -> dict[str, str]:
    """The headers of every answer that shows `version`, those of 304 included.

    Last-Modified may not lie after Date (RFC 9110 section 8.8.2.1), and another date would not be this version's alone:
    it is left out while its second is still to come. The clock, which may be behind the one that stamped the version, is
    read only for a version whose date was moved.
    """
    headers = {
        "etag": f'"{version.etag}"',
        "x-trivet-version": str(version.version),
        "accept-ranges": "bytes",
    }
    if version.version_id is not None:
        headers["x-trivet-version-id"] = str(version.version_id)
    modified_s = whole_s(version.modified_ns)
    if modified_s <= whole_s(version.stamp.approximate_ns) or modified_s <= whole_s(read_now_ns()):
        headers["last-modified"] = http_date(version.modified_ns)
    return headers


def content_headers(version: FileVersion, *, read_now_ns: Callable[[], int]) -> dict[str, str]:
    """`version_headers` and what describes the bytes.

    A stored file is somebody's data on our origin: it is never sniffed, and as a page it runs in a sandbox.
    """
    headers = version_headers(version, read_now_ns=read_now_ns) | {
        "content-type": version.content_type,
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        # As lists have it. Last-Modified has no part of a second, and is left out for a while.
        "x-trivet-modified": rfc3339(version.modified_ns),
    }
    if version.content.digest is not None:
        headers["x-trivet-digest"] = version.content.digest
    if version.content_id is not None:
        headers["x-trivet-content-id"] = version.content_id
    return headers | {META_PREFIX + name: value for name, value in version.user_metadata.items()}
