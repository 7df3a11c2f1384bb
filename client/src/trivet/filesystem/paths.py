"""Paths of the file system: `bucket/key`, without the protocol and without a slash at the end.

The store has buckets and keys and no directories. A directory is there while a key below it is, and a bucket is one.
"""

from __future__ import annotations


def split(path: str) -> tuple[str, str]:
    """Bucket and key of a stripped path; the key is empty for a bucket, both are empty for the root."""
    bucket, _, key = path.partition("/")
    return bucket, key


def prefix_of(key: str) -> str:
    """What all keys below the directory `key` begin with; empty for a whole bucket."""
    return f"{key}/" if key else ""


def parents(key: str, below: str) -> list[str]:
    """The directories in which `key` lies, outermost first, those of the prefix `below` left out.

    They end where two slashes follow each other: there is no directory without a name. `find` shows such a key all the same.
    """
    parts = key[len(below) :].split("/")[:-1]
    if "" in parts:
        parts = parts[: parts.index("")]
    return [below + "/".join(parts[: count + 1]) for count in range(len(parts))]
