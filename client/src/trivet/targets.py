"""The path and the query of each call, percent-encoded once. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

Query = Mapping[str, str | int | None]
"""Parameters; one that is None is left out."""

_SAFE_IN_KEYS: Final = "/~"


def file_target(bucket: str, key: str, *, version: int | None = None, below: str = "files") -> str:
    """Of a file, or with `below="tags"` of its tags.

    Raises:
        ValueError: the key is empty, which would be a call about the bucket.
    """
    if not key:
        raise ValueError("a key is not empty")
    target = f"/v1/{below}/{quote(bucket, safe='')}/{quote(key, safe=_SAFE_IN_KEYS)}"
    return target if version is None else f"{target}?version={version}"


def bucket_target(bucket: str, below: str, query: Query | None = None, *, tail: str = "") -> str:
    """Of a bucket: `/v1/{below}/{bucket}{tail}`.

    Raises:
        ValueError: the name is empty, which would be a call about all buckets.
    """
    if not bucket:
        raise ValueError("the name of a bucket is not empty")
    return with_query(f"/v1/{below}/{quote(bucket, safe='')}{tail}", query or {})


def named_target(path: str, name: str, tail: str = "") -> str:
    """Of a thing that has an id: `{path}/{name}{tail}`.

    Raises:
        ValueError: the id is empty, which would be a call about all of them.
    """
    if not name:
        raise ValueError("an id is not empty")
    return f"{path}/{quote(name, safe='')}{tail}"


def with_query(path: str, query: Query) -> str:
    """`path` with the parameters that are not None."""
    pairs = [f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None]
    return f"{path}?{'&'.join(pairs)}" if pairs else path
