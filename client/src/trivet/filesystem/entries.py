"""What `info`, `ls` and `find` say about files, directories and buckets: the dictionaries of fsspec."""

from __future__ import annotations

from typing import Any

from trivet.models import Bucket, FileInfo, ListedFile, ListedVersion

Entry = dict[str, Any]
"""`name`, `size` in bytes and `type` (file or directory); of a file also `etag`, `version`, `content_type`, `modified` (an aware
datetime) and `mtime` (the same in seconds since the epoch)."""


def directory(path: str) -> Entry:
    """A bucket, or what keys have in common up to a slash."""
    return {"name": path, "size": 0, "type": "directory"}


def bucket(found: Bucket) -> Entry:
    """A directory of which it is known when it was made."""
    return directory(found.name) | {"created": found.created}


def file(bucket_name: str, found: FileInfo | ListedFile) -> Entry:
    """A file; `info` knows its digest and its metadata, too."""
    entry = _described(bucket_name, found)
    if isinstance(found, FileInfo):
        entry |= {"digest": found.digest, "user_metadata": found.user_metadata}
    return entry


def version(bucket_name: str, found: ListedVersion) -> Entry:
    """One of the versions of a file, or a delete marker."""
    return _described(bucket_name, found) | {"is_current": found.is_current, "is_marker": found.is_marker}


def _described(bucket_name: str, found: FileInfo | ListedFile | ListedVersion) -> Entry:
    return {
        "name": f"{bucket_name}/{found.key}",
        "size": found.size_bytes,
        "type": "file",
        "etag": found.etag,
        "version": found.version,
        "content_type": found.content_type,
        "modified": found.modified,
        "mtime": None if found.modified is None else found.modified.timestamp(),
    }


def is_marker(key: str) -> bool:
    """An empty file that stands for a directory, as consoles of S3 make them: it is shown as the directory alone."""
    return key.endswith("/")
