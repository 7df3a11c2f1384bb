"""`shared.contracts.names`: both sides of every edge of what things may be called."""

from __future__ import annotations

import contextlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.names import (
    MAX_KEY_BYTES,
    check_bucket_name,
    check_digest,
    check_key,
    check_member_id,
    check_object_key,
    is_path_safe,
)
from shared.errors import InvalidNameError


@pytest.mark.parametrize(
    "name", ["abc", "a" * 63, "default", "my-bucket", "my.bucket.1", "1bucket", "1.2.3", "a-b.c-d"]
)
def test_bucket_names_as_in_s3_are_taken(name: str) -> None:
    """3 to 63 characters of a-z, 0-9, hyphen and dot."""
    assert check_bucket_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "ab", "a" * 64, "Abc", "a_b", "-abc", "abc-", ".abc", "abc.", "a..b", "a.-b", "a-.b", "192.168.1.1", "a/b", "a b",
     "abc\n", "bücket", "..", "a%2fb", "abc\x00"],
)  # fmt: skip
def test_other_bucket_names_are_refused(name: str) -> None:
    """A refused name is a typed error and echoes no more than a part of it."""
    with pytest.raises(InvalidNameError) as caught:
        check_bucket_name(name)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "key",
    ["a", "a" * MAX_KEY_BYTES, "ü" * (MAX_KEY_BYTES // 2), "a/b/c", "/", "//", "a//b", " ", "...", ".hidden", "a..b", "..a",
     "100%", "%2e%2e", "\\..\\", "e\u0301", "\u00e9", "\U0001f600", "default", "?", "#"],
)  # fmt: skip
def test_a_key_is_opaque_text(key: str) -> None:
    """Nothing is normalised, folded or interpreted."""
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "a" * (MAX_KEY_BYTES + 1), "ü" * (MAX_KEY_BYTES // 2) + "a", ".", "..", "a/../b", "./a", "a/.", "a/..", "a\x00b",
     "a\nb", "\x1f", "\x7f", "\x80", "\x9f", "\ud800"],
)  # fmt: skip
def test_keys_that_proxies_or_logs_would_change_are_refused(key: str) -> None:
    """Too long, dot segments, control characters, text that is no UTF-8."""
    with pytest.raises(InvalidNameError):
        check_key(key)


@pytest.mark.parametrize("key", ["\x01", "a\nb", "\x7f", "\x9f", ".", "..", "a/../b", "./a", "a/.", "a/.."])
def test_a_file_may_have_a_key_that_no_path_names(key: str) -> None:
    """S3 puts them; lists say that they are so."""
    assert check_object_key(key) == key
    assert not is_path_safe(key)


@pytest.mark.parametrize(
    "key", ["", "a" * (MAX_KEY_BYTES + 1), "ü" * (MAX_KEY_BYTES // 2) + "a", "\0", "a\0", "\ud800"]
)
def test_no_file_has_a_key_that_is_empty_too_long_or_no_text(key: str) -> None:
    """The rule of every door."""
    with pytest.raises(InvalidNameError):
        check_object_key(key)


@given(st.text(alphabet="./a\n\x7f\x80\xa0é", min_size=1, max_size=8))
def test_a_path_names_the_keys_that_are_safe(key: str) -> None:
    """Both rules say the same of a key that a file may have, and no segment is a dot or two."""
    assert check_object_key(key) == key
    is_safe = not {".", ".."} & set(key.split("/")) and not any(unicodedata.category(c) == "Cc" for c in key)
    assert is_path_safe(key) == is_safe
    with contextlib.nullcontext() if is_safe else pytest.raises(InvalidNameError):
        check_key(key)


@given(st.text())
def test_every_key_is_taken_unchanged_or_refused_with_a_typed_error(key: str) -> None:
    """No text breaks the check itself."""
    try:
        assert check_key(key) == key
        assert 1 <= len(key.encode()) <= MAX_KEY_BYTES
    except InvalidNameError:
        pass


@pytest.mark.parametrize("digest", ["0" * 64, "0123456789abcdef" * 4])
def test_a_digest_is_64_lower_case_hex_digits(digest: str) -> None:
    """The only thing that may become a name on disk."""
    assert check_digest(digest) == digest


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", "../" + "0" * 61])
def test_anything_else_is_no_digest(digest: str) -> None:
    """Also with a line end, which a careless pattern lets through."""
    with pytest.raises(InvalidNameError):
        check_digest(digest)


@pytest.mark.parametrize("member_id", ["a", "storage-1", "1", "a" * 63])
def test_a_member_id_is_a_dns_label(member_id: str) -> None:
    """It becomes part of host names in Kubernetes."""
    assert check_member_id(member_id) == member_id


@pytest.mark.parametrize("member_id", ["", "a" * 64, "Storage-1", "-a", "a-", "a.b", "a_b", "a\n"])
def test_anything_else_is_no_member_id(member_id: str) -> None:
    """Both ends, case and length."""
    with pytest.raises(InvalidNameError):
        check_member_id(member_id)
