"""Which bucket and key a request names."""

from __future__ import annotations

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.targets import target_of

_DOMAINS = ("s3.example.org", "example.net")


@pytest.mark.parametrize(
    ("path", "bucket", "key"),
    [
        ("/", "", ""),
        ("/photos", "photos", ""),
        ("/photos/", "photos", ""),
        ("/photos/a", "photos", "a"),
        ("/photos/a/", "photos", "a/"),
        ("/photos//a", "photos", "/a"),
        ("/photos/a//b", "photos", "a//b"),
        ("/photos/./../default/x", "photos", "./../default/x"),
        ("/photos/%2e%2e/default/x", "photos", "../default/x"),
        ("/photos%2Fa", "photos", "a"),
        ("/photos/a%2Fb", "photos", "a/b"),
        ("/photos/a+b%20c%2B", "photos", "a+b c+"),
        ("/photos/%C3%A9%25", "photos", "é%"),
        ("/photos/%2525", "photos", "%25"),
        ("/photos/a%01%0A", "photos", "a\x01\n"),
    ],
)
def test_a_path_is_decoded_once(path: str, bucket: str, key: str) -> None:
    """And nothing of it is resolved."""
    target = target_of(path.encode(), b"", "localhost", ())
    assert (target.bucket, target.key) == (bucket, key)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("//photos/a", "InvalidBucketName"),
        ("//", "InvalidBucketName"),
        ("/%2Fphotos", "InvalidBucketName"),
        ("/../photos/a", "InvalidBucketName"),
        ("/%00/a", "InvalidBucketName"),
        ("/Photos/a", "InvalidBucketName"),
        ("/photos/%00", "InvalidObjectName"),
        ("/photos/%", "InvalidURI"),
        ("/photos/%zz", "InvalidURI"),
        ("/photos/%ff", "InvalidURI"),
        ("photos/a", "InvalidURI"),
        ("*", "InvalidURI"),
        ("/photos/" + "a" * 1025, "KeyTooLongError"),
        ("/photos/" + "%C3%A9" * 513, "KeyTooLongError"),
    ],
)
def test_a_path_that_names_nothing_is_refused(path: str, code: str) -> None:
    """Above all, it never names something else."""
    with pytest.raises(S3Error) as caught:
        target_of(path.encode(), b"", "localhost", ())
    assert (caught.value.code, caught.value.status) == (code, 400)


def test_a_key_may_be_as_long_as_the_bound() -> None:
    """In bytes, not characters."""
    assert len(target_of(b"/photos/" + b"a" * 1024, b"", "", ()).key) == 1024
    assert len(target_of(b"/photos/" + b"%C3%A9" * 512, b"", "", ()).key) == 512


@pytest.mark.parametrize(
    ("host", "path", "bucket", "key"),
    [
        ("photos.s3.example.org", "/", "photos", ""),
        ("photos.s3.example.org:9000", "/a", "photos", "a"),
        ("PHOTOS.S3.example.ORG", "/a/b", "photos", "a/b"),
        ("my.photos.example.net", "//a", "my.photos", "/a"),
        ("s3.example.org", "/photos/a", "photos", "a"),
        ("photos.s3.example.org.evil.org", "/default/a", "default", "a"),
        ("photoss3.example.org", "/default/a", "default", "a"),
        ("127.0.0.1:9000", "/photos/a", "photos", "a"),
        ("[::1]:9000", "/photos/a", "photos", "a"),
        ("", "/photos/a", "photos", "a"),
    ],
)
def test_a_host_below_a_domain_names_the_bucket(host: str, path: str, bucket: str, key: str) -> None:
    """Every other host names none."""
    target = target_of(path.encode(), b"", host, _DOMAINS)
    assert (target.bucket, target.key) == (bucket, key)


def test_without_domains_no_host_names_a_bucket() -> None:
    """Whatever it looks like."""
    assert target_of(b"/photos/a", b"", "other.s3.example.org", ()).bucket == "photos"


def test_a_query_is_decoded_once() -> None:
    """A plus is a space there, a name without a value has an empty one, and repeated names stay."""
    target = target_of(b"/photos", b"acl&a=1+2%2B&&a=%C3%A9=&%25=", "", ())
    assert target.query == (("acl", ""), ("a", "1 2+"), ("a", "é="), ("%", ""))
    assert target.value("a") == "1 2+"
    assert "acl" in target
    for query in (b"a=%", b"a=%ff", b"%zz"):
        with pytest.raises(S3Error, match="InvalidURI"):
            target_of(b"/photos", query, "", ())
