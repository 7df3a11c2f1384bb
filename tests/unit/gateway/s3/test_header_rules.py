"""Headers that would change what is done are understood or refused."""

from __future__ import annotations

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.header_rules import refuse_unknown_headers, refuse_unknown_parameters
from tests.unit.gateway.s3.asking import S3Client

_REFUSED = {
    "x-amz-acl": "public-read",
    "x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"',
    "x-amz-bucket-object-lock-enabled": "true",
    "x-amz-object-lock-mode": "COMPLIANCE",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-server-side-encryption-customer-key": "x",
    "x-amz-copy-source-server-side-encryption-customer-key": "x",
    "x-amz-write-offset-bytes": "0",
    "x-amz-mfa": "1 2",
    "x-amz-something-of-next-year": "x",
    "x-amz-checksum-sha512": "x",
}


@pytest.mark.parametrize(("name", "value"), _REFUSED.items())
async def test_what_is_not_understood_changes_nothing(s3: S3Client, name: str, value: str) -> None:
    """It is told which header it was."""
    answer = await s3("PUT", "photos", headers={name: value})
    assert (answer.status, answer.code, answer.text("Header")) == (501, "NotImplemented", name)
    assert (await s3("HEAD", "photos")).status == 404


async def test_what_asks_for_what_is_done_anyhow_is_taken(s3: S3Client) -> None:
    """Clients send it by default."""
    headers = {
        "x-amz-acl": "private",
        "x-amz-bucket-object-lock-enabled": "false",
        "x-amz-request-payer": "requester",
        "x-amz-user-agent": "aws-sdk-js/3",
        "x-amzn-trace-id": "Root=1-2-3",
        "amz-sdk-invocation-id": "b" * 36,
    }
    assert (await s3("PUT", "photos", headers=headers)).status == 200


def test_metadata_and_checksums_have_any_name() -> None:
    """They are for others to look at."""
    refuse_unknown_headers("PUT", {"x-amz-meta-write-offset": "1", "x-amz-checksum-crc32": "x", "host": "x"})


def test_a_key_of_the_client_is_refused_where_something_would_be_stored() -> None:
    """A read has an answer of its own."""
    headers = {"x-amz-server-side-encryption-customer-key": "x"}
    refuse_unknown_headers("GET", headers)
    for method in ("PUT", "POST"):
        with pytest.raises(S3Error, match="NotImplemented"):
            refuse_unknown_headers(method, headers)


@pytest.mark.parametrize("name", ["x-amz-copy-source", "X-Amz-Acl", "x-amz-checksum-sha256", "x-amz-meta-a"])
async def test_a_header_that_was_moved_into_a_link_is_not_ignored(s3: S3Client, name: str) -> None:
    """A link to copy would overwrite its target with nothing."""
    await s3("PUT", "photos")
    await s3("PUT", "photos", "a", body=b"old")
    answer = await s3("PUT", "photos", "a", query={name: "/photos/b"}, body=b"")
    assert (answer.status, answer.code, answer.text("ArgumentName")) == (501, "NotImplemented", name)
    assert (await s3("GET", "photos", "a")).body == b"old"


def test_parameters_of_links_are_taken() -> None:
    """Those of the signature, and what is none of S3's."""
    refuse_unknown_parameters(
        ["X-Amz-Signature", "X-Amz-Content-Sha256", "x-amz-sdk-checksum-algorithm", "x-id", "list-type"]
    )
