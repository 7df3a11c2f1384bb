"""What a person is told: that something was done, and what to do about what was not."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from trivet import errors
from trivet.cli.main import run
from trivet.cli.session import Session
from trivet.copy_calls import NO_OLDER_VERSION


class Store:
    """A client with the bucket `photos`, which keeps versions, and `plain`, which does not; each has the file cat.jpg."""

    async def list_pages(self, bucket, prefix="", **_):
        yield SimpleNamespace(files=[SimpleNamespace(key="cat.jpg", size_bytes=1)])

    async def delete_many(self, bucket, keys):
        rows = [
            SimpleNamespace(key=key, problem=None, removed_version=None, is_marker=bucket == "photos") for key in keys
        ]
        return SimpleNamespace(results=rows)

    async def delete(self, bucket, key, *, version):
        return None

    async def create_bucket(self, bucket, *, versioning):
        return SimpleNamespace(name=bucket, incarnation=7)

    async def delete_bucket(self, bucket):
        return None

    async def head(self, bucket, key, *, version):
        place = f"/v1/files/{bucket}/{key}"
        raise errors.FileNotFound(404, "file_not_found", "", "There is no such file.", problem={"instance": place})

    async def restore(self, bucket, key, version):
        raise errors.FileNotFound(404, NO_OLDER_VERSION, "", "There is none.")

    async def upload_file(self, bucket, key, source, **_):
        raise errors.BucketNotFound(404, "bucket_not_found", "", "None.", problem={"bucket": bucket})


@pytest.fixture(autouse=True)
def _store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    @asynccontextmanager
    async def client(session):
        yield Store()

    monkeypatch.setattr(Session, "client", client)


CALLS = [
    (["rm", "photos/cat.jpg"], "Deleted trivet://photos/cat.jpg; trivet restore brings it back.\n"),
    (["rm", "plain/cat.jpg"], "Deleted trivet://plain/cat.jpg.\n"),
    (["rm", "photos/cat.jpg", "--version", "3"], "Deleted version 3 of trivet://photos/cat.jpg, for good.\n"),
    (["mb", "photos"], "There is a bucket photos.\n"),
    (["mb", "photos", "--versioning"], "There is a bucket photos, which keeps versions.\n"),
    (["rb", "photos"], "Deleted the bucket photos.\n"),
]


@pytest.mark.parametrize(("arguments", "said"), CALLS)
def test_a_person_is_told_what_was_done(monkeypatch, capsys, arguments, said) -> None:
    """A line on standard error; not with --quiet."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(Session(), arguments) == 0
    assert capsys.readouterr() == ("", said)
    assert run(Session(), [*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in CALLS])
def test_a_script_has_the_exit_code(capsys, arguments) -> None:
    """Whose standard output is no terminal."""
    assert run(Session(), arguments) == 0
    assert capsys.readouterr() == ("", "")


def test_what_is_counted_is_not_told_one_by_one(monkeypatch, capsys) -> None:
    """A folder may have a million files."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(Session(), ["rm", "-r", "--yes", "plain/"]) == 0
    assert capsys.readouterr().err == "Deleted 1 file.\n"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("default/cat.jpg", "default/cat.jpg is a file here; say trivet://default/cat.jpg for the store's. "),
        ("./default/cat.jpg", ""),
    ],
)
def test_a_path_that_is_here_by_chance_is_named_where_the_bucket_is_not(tmp_path, capsys, source, hint) -> None:
    """`cp default/cat.jpg copy.jpg` was to fetch the store's, and nobody wants a bucket copy.jpg."""
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "cat.jpg").touch()
    assert run(Session(), ["cp", source, "copy.jpg"]) == 3
    assert f": {hint}There is no bucket copy.jpg." in capsys.readouterr().err


def test_a_file_without_older_versions_has_a_cure_for_the_next_time(capsys) -> None:
    """The bucket has to keep them first."""
    assert run(Session(), ["restore", "plain/cat.jpg"]) == 3
    assert "trivet buckets settings plain --versioning enabled" in capsys.readouterr().err


def test_a_link_to_a_file_that_is_not_there_is_not_made(capsys) -> None:
    """Else somebody who was sent it is the first to see that the name was mistyped."""
    assert run(Session(), ["share", "photos/dog.jpg"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.partition(". ")[0]) == ("", "trivet: photos/dog.jpg: There is no such file")
