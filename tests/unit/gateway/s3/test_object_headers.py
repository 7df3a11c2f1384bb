"""What is kept with an object, and what answers say of one."""

from __future__ import annotations

import base64

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_headers import (
    DEFAULT_CONTENT_TYPE,
    described,
    not_modified_headers,
    object_headers,
    published_headers,
    response_overrides,
    s3_etag_of,
    tags_of_header,
)
from services.gateway.s3.requests import RequestTarget
from shared.contracts.files import Durability, FileContent, FileVersion
from shared.contracts.s3 import S3Attributes
from shared.contracts.time import ClockState, Stamp

MD5 = "0123456789abcdef" * 2
STORED_S = 1_700_000_000


def version(**changes: object) -> FileVersion:
    facts: dict[str, object] = {
        "bucket": "b",
        "key": "k",
        "version": 7,
        "term": 1,
        "etag": "f" * 32,
        "content": FileContent(size_bytes=0, chunk_size_bytes=1, chunk_digests=b"", digest=None),
        "content_type": "text/plain",
        "user_metadata": {},
        "epoch": 1,
        "durability": Durability(target=3, acknowledged=2, nodes=[]),
        "stamp": Stamp(hlc=STORED_S << 32, state=ClockState.LOGICAL),
        "modified_ns": (STORED_S + 5) * 10**9,
    }
    return FileVersion.model_validate(facts | changes)


def code_of(headers: dict[str, str]) -> str:
    with pytest.raises(S3Error) as refused:
        described(headers)
    return refused.value.code


# --- what is to be kept -------------------------------------------------------------------------------------------


def test_without_headers_an_object_is_plain() -> None:
    asked = described({"host": "h", "x-amz-date": "20260101T000000Z", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
    assert (asked.content_type, asked.user_metadata, asked.headers) == (DEFAULT_CONTENT_TYPE, {}, {})
    assert (asked.storage_class, asked.tags, asked.attributes()) == (None, None, None)


def test_what_describes_an_object_is_kept_as_it_came() -> None:
    asked = described(
        {
            "content-type": "text/html; charset=utf-8",
            "content-encoding": "gzip",
            "cache-control": "max-age=3",
            "expires": "whenever",
            "content-disposition": 'attachment; filename="a b.txt"',
            "x-amz-meta-mtime": "1700000000.123",
            "x-amz-meta-md5chksum": "abc==",
            "x-amz-storage-class": "STANDARD_IA",
            "x-amz-tagging": "a=1&b%20c=%C3%A9&d",
            "x-amz-acl": "private",
        }
    )
    assert asked.content_type == "text/html; charset=utf-8"
    assert asked.user_metadata == {"mtime": "1700000000.123", "md5chksum": "abc=="}
    assert asked.headers["content-disposition"] == 'attachment; filename="a b.txt"'
    assert asked.headers.keys() == {"content-encoding", "cache-control", "expires", "content-disposition"}
    assert asked.storage_class == "STANDARD_IA"
    assert asked.tags == {"a": "1", "b c": "\u00e9", "d": ""}
    attributes = asked.attributes()
    assert attributes is not None
    assert attributes.headers == asked.headers


def test_metadata_that_is_not_ascii_is_kept_as_s3_gives_it_back() -> None:
    """An encoded word of RFC 2047: so it is a header line whatever the client sent."""
    sent = "gr\u00fc\u00df".encode().decode("latin-1")
    value = described({"x-amz-meta-name": sent}).user_metadata["name"]
    assert value.startswith("=?UTF-8?B?")
    assert base64.b64decode(value.removeprefix("=?UTF-8?B?").removesuffix("?=")).decode() == "gr\u00fc\u00df"
    assert described({"x-amz-meta-name": "\xff\xfe"}).user_metadata["name"].isascii()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-storage-class": "GLACIER"}, "InvalidStorageClass"),
        ({"x-amz-storage-class": "standard"}, "InvalidStorageClass"),
        ({"x-amz-website-redirect-location": "javascript:alert(1)"}, "InvalidRedirectLocation"),
        ({"x-amz-meta-a": "x" * 2049}, "MetadataTooLarge"),
        ({f"x-amz-meta-{number}": "x" * 2000 for number in range(5)}, "MetadataTooLarge"),
        ({"x-amz-meta-": "x"}, "InvalidArgument"),
        ({"x-amz-meta-a": "a\x7fb"}, "InvalidArgument"),
        ({"content-type": "x" * 256}, "InvalidArgument"),
        ({"content-type": "\u00e9"}, "InvalidArgument"),
        ({"cache-control": "x" * 9000}, "MetadataTooLarge"),
        ({"cache-control": "a\x00b"}, "InvalidArgument"),
        ({"x-amz-tagging": "&".join(f"k{number}=v" for number in range(11))}, "BadRequest"),
        ({"x-amz-tagging": "a=1&a=2"}, "InvalidTag"),
        ({"x-amz-tagging": "=1"}, "InvalidTag"),
        ({"x-amz-tagging": f"{'k' * 129}=v"}, "InvalidTag"),
        ({"x-amz-tagging": f"k={'v' * 257}"}, "InvalidTag"),
        ({"x-amz-tagging": "a=%FF"}, "InvalidArgument"),
        ({"x-amz-tagging": "a=%01"}, "InvalidTag"),
    ],
)
def test_what_is_not_offered_or_malformed_is_refused(headers, code) -> None:
    """Nothing that would change what is done is ignored."""
    assert code_of(headers) == code


def test_tags_reach_their_limits() -> None:
    at_limit = "&".join(f"{number}{'k' * 127}={'v' * 256}" for number in range(10))
    assert len(tags_of_header(at_limit)) == 10
    assert tags_of_header("") == {}


# --- what answers say ---------------------------------------------------------------------------------------------


def test_an_answer_describes_the_object() -> None:
    s3 = S3Attributes(
        etag=MD5, headers={"content-encoding": "gzip"}, storage_class="STANDARD_IA", checksums={"crc32": "AAAAAA=="}
    )
    headers = object_headers(version(s3=s3, user_metadata={"mtime": "1"}, tags={"a": "b"}), "0123456789abcdef")
    assert headers == {
        "etag": f'"{MD5}"',
        "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "accept-ranges": "bytes",
        "content-type": "text/plain",
        "content-encoding": "gzip",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-tagging-count": "1",
        "x-amz-meta-mtime": "1",
        "x-amz-version-id": "0123456789abcdef",
    }


def test_the_date_is_that_of_the_write_and_not_the_validator_of_v1() -> None:
    """Which is moved on by a second where a file is replaced within one."""
    assert object_headers(version(), None)["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_what_v1_has_put_has_an_etag_that_no_client_takes_for_an_md5() -> None:
    assert s3_etag_of(version()) == "f" * 32 + "-0"
    assert object_headers(version(), None)["etag"] == f'"{"f" * 32}-0"'


def test_the_answer_to_an_upload_tells_etag_version_and_checksum() -> None:
    s3 = S3Attributes(etag=MD5, checksums={"crc64nvme": "AAAAAAAAAAA="})
    assert published_headers(version(s3=s3), None) == {
        "etag": f'"{MD5}"',
        "x-amz-checksum-crc64nvme": "AAAAAAAAAAA=",
        "x-amz-checksum-type": "FULL_OBJECT",
    }


def test_not_modified_tells_what_caches_need() -> None:
    s3 = S3Attributes(etag=MD5, headers={"cache-control": "max-age=3", "content-encoding": "gzip"})
    headers = not_modified_headers(version(s3=s3), None)
    assert headers.keys() == {"etag", "last-modified", "cache-control"}


def target(*query: tuple[str, str]) -> RequestTarget:
    return RequestTarget("b", "k", query)


def test_a_signed_query_names_headers_of_the_answer() -> None:
    found = response_overrides(
        target(("response-content-disposition", 'attachment; filename="\u00fc"'), ("response-expires", "never")),
        is_signed=True,
    )
    assert found["content-disposition"].encode("latin-1").decode() == 'attachment; filename="\u00fc"'
    assert found["expires"] == "never"
    assert response_overrides(target(("x-id", "GetObject")), is_signed=False) == {}


def test_nobody_who_has_not_signed_names_headers_of_the_answer() -> None:
    with pytest.raises(S3Error) as refused:
        response_overrides(target(("response-content-type", "text/html")), is_signed=False)
    assert refused.value.code == "InvalidRequest"


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\x00", "\x7f"])
def test_no_query_makes_further_header_lines(value) -> None:
    with pytest.raises(S3Error) as refused:
        response_overrides(target(("response-content-type", value)), is_signed=True)
    assert refused.value.code == "InvalidArgument"
