"""What SDKs send again under the id of their call happens once, whatever the call is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.unit.gateway.s3.asking import Answer, S3Client
from tests.unit.gateway.s3.test_multipart import begin, completion, parts_put

BUCKET, KEY = "photos", "a/b c.jpg"
CALL = {"amz-sdk-invocation-id": "0f8fad5b-d9cb-469f-a165-70867728950e"}


def tags(value: str) -> bytes:
    return f"<Tagging><TagSet><Tag><Key>k</Key><Value>{value}</Value></Tag></TagSet></Tagging>".encode()


def cors(origin: str) -> bytes:
    rule = f"<AllowedOrigin>https://{origin}.example</AllowedOrigin><AllowedMethod>GET</AllowedMethod>"
    return f"<CORSConfiguration><CORSRule>{rule}</CORSRule></CORSConfiguration>".encode()


def versioning(status: str) -> bytes:
    return f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>".encode()


async def test_whichever_attempt_is_answered_has_made_the_bucket(s3: S3Client) -> None:
    """Not the 409 that its own first attempt has brought about; to another call the bucket is there already."""
    first, again = await s3("PUT", BUCKET, headers=CALL), await s3("PUT", BUCKET, headers=CALL)
    assert (first.status, again.status) == (200, 200)
    assert again.headers["location"] == first.headers["location"]
    assert (await s3("PUT", BUCKET)).code == "BucketAlreadyOwnedByYou"


async def test_whichever_attempt_is_answered_has_deleted_the_bucket(s3: S3Client) -> None:
    """And a bucket that somebody made since stays."""
    await s3("PUT", BUCKET)
    assert (await s3("DELETE", BUCKET, headers=CALL)).status == 204
    assert (await s3("DELETE", BUCKET, headers=CALL)).status == 204
    await s3("PUT", BUCKET)
    assert (await s3("DELETE", BUCKET, headers=CALL)).status == 204
    assert (await s3("HEAD", BUCKET)).status == 200


@pytest.mark.parametrize(
    ("subresource", "old", "new", "shown"),
    [
        ("tagging", tags("old"), tags("new"), b"<Value>new</Value>"),
        ("cors", cors("old"), cors("new"), b"https://new.example"),
        ("versioning", versioning("Enabled"), versioning("Suspended"), b"<Status>Suspended</Status>"),
    ],
)
async def test_a_late_attempt_does_not_bring_old_settings_back(
    s3: S3Client, subresource: str, old: bytes, new: bytes, shown: bytes
) -> None:
    """What was set since stays; the same call with another document is refused."""
    await s3("PUT", BUCKET)
    query = {subresource: ""}

    async def put(body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        return await s3("PUT", BUCKET, query=query, headers=headers, body=body)

    first = await put(old, CALL)
    await put(new)
    again = await put(old, CALL)
    assert (first.status // 100, again.status) == (2, first.status)
    assert shown in (await s3("GET", BUCKET, query=query)).body
    if subresource == "versioning":
        await put(old)  # what is to be set already is not asked for
    assert (await put(new, CALL)).status == 400


@pytest.mark.parametrize(("subresource", "body"), [("tagging", tags("new")), ("cors", cors("new"))])
async def test_a_late_attempt_does_not_delete_new_settings(s3: S3Client, subresource: str, body: bytes) -> None:
    await s3("PUT", BUCKET)
    query = {subresource: ""}
    assert (await s3("DELETE", BUCKET, query=query, headers=CALL)).status == 204
    await s3("PUT", BUCKET, query=query, body=body)
    assert (await s3("DELETE", BUCKET, query=query, headers=CALL)).status == 204
    assert (await s3("GET", BUCKET, query=query)).status == 200


async def test_attempts_of_an_upload_begin_and_abort_one(s3: S3Client) -> None:
    """An abort whose answer was lost is a success again, and not an upload that is not there."""
    await s3("PUT", BUCKET)
    first = await begin(s3, headers=CALL)
    assert await begin(s3, headers=CALL) == first
    other = await begin(s3)
    assert other != first
    query = {"uploadId": first}
    statuses = [(await s3("DELETE", BUCKET, KEY, query=query, headers=CALL)).status for _ in range(2)]
    assert statuses == [204, 204]
    assert (await s3("DELETE", BUCKET, KEY, query=query)).code == "NoSuchUpload"
    parts = await parts_put(s3, other, b"one")
    body = completion(parts)
    answers = [await s3("POST", BUCKET, KEY, query={"uploadId": other}, headers=CALL, body=body) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
