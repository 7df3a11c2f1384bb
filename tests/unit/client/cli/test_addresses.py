"""What the arguments of `cp` and `sync` are taken for."""

from __future__ import annotations

import click
import pytest

from trivet.cli.addresses import Local, Remote, Stream, parse_file, parse_remote, parse_source, parse_target


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("trivet://photos/2026/cat.jpg", "photos", "2026/cat.jpg"),
        ("photos/2026/cat.jpg", "photos", "2026/cat.jpg"),
        ("photos", "photos", ""),
        ("trivet://photos/", "photos", ""),
        ("photos//odd", "photos", "/odd"),
        ("trivet://photos/what? 100%.txt", "photos", "what? 100%.txt"),
    ],
)
def test_the_text_behind_the_buckets_slash_is_the_key(text, bucket, key) -> None:
    """Nothing in it is unescaped or left away."""
    assert parse_remote(text) == Remote(bucket, key)


@pytest.mark.parametrize("text", ["", "/photos/cat.jpg", "./photos", "../x", "~/x", "-", "trivet://", "trivet:///x"])
def test_what_names_no_bucket_is_refused(text) -> None:
    """With the usage code, before anything is asked."""
    with pytest.raises(click.UsageError):
        parse_remote(text)


def test_a_file_needs_a_key() -> None:
    with pytest.raises(click.UsageError, match="no file in it"):
        parse_file("photos")


def test_an_unmarked_source_is_a_path_if_it_exists(tmp_path, monkeypatch) -> None:
    """And in the store if not; a name without a slash is never a whole bucket by accident."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    assert parse_source("photos/cat.jpg") == Local("photos/cat.jpg")
    assert parse_source("photos/*.jpg") == Local("photos/*.jpg")
    assert parse_source("photos/dog.jpg") == Remote("photos", "dog.jpg")
    assert parse_source("trivet://photos/cat.jpg") == Remote("photos", "cat.jpg")
    assert parse_source("missing.txt") == Local("missing.txt")
    assert parse_source("./missing/x") == Local("./missing/x")
    assert parse_source("-") == Stream()


def test_an_unmarked_target_of_a_file_of_this_machine_is_in_the_store(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert parse_target("photos/cat.jpg", is_source_remote=False) == Remote("photos", "cat.jpg")
    assert parse_target("photos", is_source_remote=False) == Remote("photos", "")


def test_an_unmarked_target_of_a_file_of_the_store_is_a_path_if_its_folder_exists(tmp_path, monkeypatch) -> None:
    """`cp photos/a.jpg new.jpg` downloads, `cp photos/a.jpg photos/b.jpg` copies within the store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert parse_target("new.jpg", is_source_remote=True) == Local("new.jpg")
    assert parse_target("new/", is_source_remote=True) == Local("new/")
    assert parse_target("here/new.jpg", is_source_remote=True) == Local("here/new.jpg")
    assert parse_target("photos/b.jpg", is_source_remote=True) == Remote("photos", "b.jpg")


@pytest.mark.parametrize(
    ("text", "may_be"), [("default/a.jpg", True), ("./default/a.jpg", False), ("a.jpg", False), ("default/", False)]
)
def test_an_unmarked_path_with_a_slash_may_be_meant_as_the_stores(text, may_be) -> None:
    assert Local(text).may_be_remote is may_be
