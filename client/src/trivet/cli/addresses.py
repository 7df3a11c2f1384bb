"""What an argument names: a file of the store, a path of this machine, or a stream.

    trivet://photos/2026/cat.jpg    a file of the store, whatever lies on this machine
    photos/2026/cat.jpg             the same in short: in commands about the store always, in `cp` and `sync` as below
    ./cat.jpg, ../x, /tmp/x, ~/x    a path of this machine
    -                               standard input or output

`cp` and `sync` go between this machine and the store. There an unmarked name is a path if it exists here, or has no slash, and in
the store if not. For a target its folder has to exist; and what comes from this machine goes to the store in any case.
Nothing in a key is unescaped: what stands behind the bucket's slash is the key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
import msgspec

from trivet.cli import globs

SCHEME: Final = "trivet://"
STREAM_NAME: Final = "-"
_LOCAL_MARKS: Final = ("/", "./", "../", "~")
_LOCAL_NAMES: Final = frozenset({".", "..", "~"})


class Remote(msgspec.Struct, frozen=True):
    """A place in the store. `key` is empty for a whole bucket, ends with `/` for a folder, and may be a pattern."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def is_folder(self) -> bool:
        """Whether names are put below it."""
        return not self.key or self.key.endswith("/")

    @property
    def has_pattern(self) -> bool:
        """Whether its key is a pattern."""
        return globs.has_pattern(self.key)

    @property
    def literal(self) -> Remote:
        """The one place that it stands for, when it has no pattern: `[*]` is a star."""
        return Remote(self.bucket, globs.literal(self.key))

    @property
    def short(self) -> str:
        """`bucket/key`."""
        return f"{self.bucket}/{self.key}"

    def child(self, name: str) -> Remote:
        """The place `name` below this one, which is a folder or a prefix that is continued."""
        return Remote(self.bucket, self.key + name)


class Local(msgspec.Struct, frozen=True):
    """A path of this machine, as it was written: `text` keeps a slash at its end, which `Path` drops."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def may_be_remote(self) -> bool:
        """Whether the same text would be a file of the store, if there were no such path here."""
        return "/" in self.text.rstrip("/") and not _is_marked_local(self.text)

    @property
    def path(self) -> Path:
        """With `~` as the home folder."""
        return Path(self.text).expanduser()

    @property
    def ends_with_slash(self) -> bool:
        """Whether it is meant as a folder."""
        return self.text.endswith("/")

    @property
    def is_folder(self) -> bool:
        """Whether names are put below it: it ends with a slash or is a folder already."""
        return self.ends_with_slash or self.path.is_dir()


class Stream(msgspec.Struct, frozen=True):
    """Standard input as a source, standard output as a target."""

    def __str__(self) -> str:
        return STREAM_NAME


Address = Remote | Local | Stream


def parse_remote(text: str) -> Remote:
    """A place in the store, in the long or the short form.

    Raises:
        click.UsageError: it names no bucket, or is marked as a path of this machine.
    """
    if _is_marked_local(text) or text == STREAM_NAME:
        raise click.UsageError(
            f"{text!r} is no address in the store; write {SCHEME}bucket/key, or bucket/key in short."
        )
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise click.UsageError(f"{text!r} names no bucket; write {SCHEME}bucket/key.")
    return Remote(bucket, key)


def parse_file(text: str) -> Remote:
    """A place in the store that has a key. Raises click.UsageError: it has none."""
    place = parse_remote(text)
    if not place.key:
        raise click.UsageError(f"{text!r} names a bucket and no file in it; write {SCHEME}{place.bucket}/KEY.")
    return place


def parse_source(text: str) -> Address:
    """The source of `cp` and `sync`; see the top of the module."""
    if text == STREAM_NAME:
        return Stream()
    if text.startswith(SCHEME):
        return parse_remote(text)
    if _is_marked_local(text) or os.path.lexists(text) or (globs.has_pattern(text) and _matches_something(text)):
        return Local(text)
    # A name without a slash could only be a whole bucket: far more likely a file's name with a slip in it.
    return parse_remote(text) if "/" in text else Local(text)


def parse_target(text: str, *, is_source_remote: bool) -> Address:
    """The target of `cp` and `sync`; see the top of the module."""
    if text == STREAM_NAME:
        return Stream()
    if text.startswith(SCHEME):
        return parse_remote(text)
    folder = text.rstrip("/").rpartition("/")[0]
    if _is_marked_local(text) or (is_source_remote and (not folder or Path(folder).is_dir())):
        return Local(text)
    return parse_remote(text)


def _is_marked_local(text: str) -> bool:
    return text in _LOCAL_NAMES or text.startswith(_LOCAL_MARKS)


def _matches_something(text: str) -> bool:
    return next(globs.local_matches(text), None) is not None
