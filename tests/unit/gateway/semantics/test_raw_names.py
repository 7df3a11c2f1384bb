"""Names from the raw path: decoded once, strictly."""

from __future__ import annotations

import pytest

from services.gateway.semantics.raw_names import (
    TAGS_PREFIX,
    FileName,
    bucket_name,
    file_name,
    settings_bucket_name,
)
from shared.errors import InvalidNameError


@pytest.mark.parametrize(
    ("raw", "bucket", "key"),
    [
        (b"/v1/files/default/a", "default", "a"),
        (b"/v1/files/default/a/b", "default", "a/b"),
        (b"/v1/files/default/a%2Fb", "default", "a/b"),
        (b"/v1/files/default%2fa", "default", "a"),
        (b"/v1/files/default//a/", "default", "/a/"),
        (b"/v1/files/default/%C3%A4", "default", "ä"),
        (b"/v1/files/default/a%25b", "default", "a%b"),
        (b"/v1/files/default/a%252Fb", "default", "a%2Fb"),
        (b"/v1/files/default/a+b", "default", "a+b"),
        (b"/v1/files/default/..a/...", "default", "..a/..."),
        (b"/v1/files/default/" + b"k" * 1024, "default", "k" * 1024),
    ],
)
def test_a_name_is_decoded_once(raw, bucket, key) -> None:
    """`%2F` equals `/`, `%25` is a percent sign and nothing is decoded twice."""
    assert file_name(raw) == FileName(bucket, key)


@pytest.mark.parametrize(
    "raw",
    [
        b"/v1/files/default/",
        b"/v1/files/default",
        b"/v1/files//a",
        b"/v1/files/UPPER/a",
        b"/v1/files/../default/a",
        b"/v1/files/default/..",
        b"/v1/files/default/a/../b",
        b"/v1/files/default/%2e%2e/b",
        b"/v1/files/default/.",
        b"/v1/files/default/a%00b",
        b"/v1/files/default/a%0Ab",
        b"/v1/files/default/%ff",
        b"/v1/files/default/%fe",
        b"/v1/files/default/%C3",
        b"/v1/files/default/%ED%A0%80",
        b"/v1/files/default/%",
        b"/v1/files/default/%4",
        b"/v1/files/default/%zz",
        b"/v1/files/default/" + b"k" * 1025,
        b"/v1/files/default/" + b"%C3%A4" * 513,
        b"/v1/files%2Fdefault/a",
        b"/v1//files/default/a",
    ],
)
def test_a_malformed_path_is_refused(raw) -> None:
    """Nothing is guessed, replaced or collapsed."""
    with pytest.raises(InvalidNameError):
        file_name(raw)


def test_a_bucket_may_not_have_a_slash_in_any_spelling() -> None:
    """`%2F` equals `/` there, too."""
    assert bucket_name(b"/v1/buckets/my-bucket", b"/v1/buckets/") == "my-bucket"
    for raw in (b"/v1/buckets/a%2Fb", b"/v1/buckets/abc/", b"/v1/buckets/ab", b"/v1/buckets/"):
        with pytest.raises(InvalidNameError):
            bucket_name(raw, b"/v1/buckets/")


def test_the_settings_of_a_bucket_have_a_path_of_their_own() -> None:
    """Only the name may be escaped: a guard in front of us must see the same path that we do."""
    assert settings_bucket_name(b"/v1/buckets/photos/settings") == "photos"
    assert settings_bucket_name(b"/v1/buckets/%70hotos/settings") == "photos"
    for raw in (b"/v1/buckets/photos%2Fsettings", b"/v1/buckets/photos/%73ettings", b"/v1/buckets/a%2Fb/settings"):
        with pytest.raises(InvalidNameError):
            settings_bucket_name(raw)


def test_other_paths_name_files_in_the_same_way() -> None:
    """The prefix is not part of a name."""
    assert file_name(b"/v1/tags/default/a%2Fb", TAGS_PREFIX) == FileName("default", "a/b")
    with pytest.raises(InvalidNameError):
        file_name(b"/v1/files/default/a", TAGS_PREFIX)
