"""What a bucket, a key, a digest, a member and a tag may be called. Pure; the same check runs at the edge and in `apply`.

Bucket names follow S3. A key is opaque text: no normalisation, never a path on disk. S3 puts keys that no path of `/v1` can name,
because proxies would change it on the way: such a file is reached by the calls that carry keys in JSON (`is_path_safe`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from shared.errors import InvalidNameError, InvalidTagsError

DEFAULT_BUCKET: Final = "default"
MAX_KEY_BYTES: Final = 1024
DIGEST_BYTES: Final = 32
TAGS_MAX: Final = 10
TAG_NAME_MAX: Final = 128
"""In characters, as S3 counts them."""

TAG_VALUE_MAX: Final = 256

TagsT = TypeVar("TagsT", bound=Mapping[str, str])

_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_IPV4: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MEMBER: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DOT_SEGMENT: Final = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")


def check_bucket_name(name: str) -> str:
    """`name` itself, when it is 3-63 of a-z 0-9 - . as in S3.

    Raises:
        InvalidNameError: it breaks the rule; definite.
    """
    if not _BUCKET.fullmatch(name) or ".." in name or ".-" in name or "-." in name or _IPV4.fullmatch(name):
        raise InvalidNameError(
            "A bucket name has 3-63 characters of a-z, 0-9, '-' and '.', starts and ends with a letter or digit, "
            "has no '..', '.-' or '-.', and is not an IP address.",
            bucket=name[:100],
        )
    return name


def check_key(key: str) -> str:
    """`key` itself, when a path may name it: it has no control characters and no `.` or `..` segments, either.

    Raises:
        InvalidNameError: it breaks the rule; definite.
    """
    check_object_key(key)
    if _CONTROL.search(key):
        raise InvalidNameError("A key in a path has no control characters.")
    if _DOT_SEGMENT.search(key):
        raise InvalidNameError("A key in a path has no '.' or '..' segment, because proxies collapse them.")
    return key


def is_path_safe(key: str) -> bool:
    """Whether `check_key` takes a key that exists."""
    if key.isprintable() and "/." not in key and key[0] != ".":
        return True  # nearly all, at a fifth of the cost: lists ask by the thousand
    return not (_CONTROL.search(key) or _DOT_SEGMENT.search(key))


def check_object_key(key: str) -> str:
    """`key` itself, when it is 1-1024 bytes of UTF-8 without NUL: all that a file may be called.

    Raises:
        InvalidNameError: it breaks the rule; definite.
    """
    try:
        size_bytes = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidNameError("A key must be valid UTF-8.") from error
    if not 1 <= size_bytes <= MAX_KEY_BYTES:
        raise InvalidNameError("A key has 1-1024 bytes of UTF-8.", key_bytes=size_bytes)
    if "\0" in key:
        raise InvalidNameError("A key has no NUL.")
    return key


def check_digest(digest: str) -> str:
    """`digest` itself, when it is 64 lower-case hex digits.

    Raises:
        InvalidNameError: it is not; definite.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidNameError("A chunk digest has 64 lower-case hex digits (BLAKE3-256).")
    return digest


def check_member_id(member_id: str) -> str:
    """`member_id` itself, when it is a DNS label such as `storage-2`.

    Raises:
        InvalidNameError: it is not; definite.
    """
    if not _MEMBER.fullmatch(member_id):
        raise InvalidNameError("A member id has 1-63 characters of a-z, 0-9 and '-'.", id=member_id[:100])
    return member_id


def check_tags(tags: TagsT) -> TagsT:
    """`tags` themselves, when they are as few and as short as those of S3.

    Raises:
        InvalidTagsError: they are not; definite.
    """
    if len(tags) > TAGS_MAX:
        raise InvalidTagsError(f"A version has at most {TAGS_MAX} tags.", tags=len(tags))
    for name, value in tags.items():
        if not 1 <= len(name) <= TAG_NAME_MAX or len(value) > TAG_VALUE_MAX:
            raise InvalidTagsError(
                f"A tag's name has 1-{TAG_NAME_MAX} characters, its value at most {TAG_VALUE_MAX}.",
                tag=name[:TAG_NAME_MAX],
            )
        if _CONTROL.search(name) or _CONTROL.search(value) or not is_utf8(name) or not is_utf8(value):
            raise InvalidTagsError("A tag is valid UTF-8 without control characters.")
    return tags


def is_utf8(text: str) -> bool:
    """Whether `text` can be written down: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
