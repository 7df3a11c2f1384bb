"""Files out of browsers' forms: let in by their policy, or not at all."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.client import Config
from minio.credentials import Credentials
from minio.credentials.providers import StaticProvider
from minio.datatypes import PostPolicy

from shared.contracts.access import Action
from tests.unit.gateway.access.scene import Holder, Running, Scene, may
from tests.unit.gateway.s3.asking import Answer, S3Client, ask

FILE = b"0\r\n--x\r\nbytes of a file\r\n" * 50
BOUNDARY = "----boundary"


def form(fields: Mapping[str, str], data: bytes = FILE, *, name: str | None = "a b.jpg", after: str = "") -> bytes:
    """As a browser sends it."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    file_name = "" if name is None else f'; filename="{name}"'
    parts.append(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"{file_name}\r\n\r\n'.encode() + data + b"\r\n"
    )
    return b"".join(parts) + after.encode() + f"--{BOUNDARY}--\r\n".encode()


def post(here: Running, body: bytes, target: str = "/photos", headers: Mapping[str, str] | None = None):
    sent = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    return ask(here.s3, "POST", target, sent, pieces)


def signed(
    holder: Holder,
    key: str = "user/${filename}",
    *,
    fields: Mapping[str, str] | None = None,
    conditions=(),
    expires_s: int = 600,
) -> dict[str, str]:
    """The fields as boto3 signs them."""
    client = boto3.client(
        "s3",
        endpoint_url="http://localhost:9000",
        aws_access_key_id=holder.key,
        aws_secret_access_key=holder.secret,
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    given = dict(fields or {})
    made = client.generate_presigned_post(
        "photos", key, given, [*({name: value} for name, value in given.items()), *conditions], expires_s
    )
    assert made["url"] == "http://localhost:9000/photos"
    return made["fields"]


@pytest.fixture(autouse=True)
async def photos(s3: S3Client) -> None:
    assert (await s3("PUT", "photos")).status == 200


async def stored(s3: S3Client, key: str) -> Answer:
    return await s3("GET", "photos", key)


async def test_a_form_that_boto3_signed_is_stored(here: Running, scene: Scene, s3: S3Client) -> None:
    """With what its fields say of it, under the name of the file."""
    fields = signed(scene.root, fields={"Content-Type": "image/jpeg", "x-amz-meta-a": "1", "Cache-Control": "no-cache"})
    answer = await post(here, form(fields))
    assert (answer.status, answer.body) == (204, b""), answer
    assert answer.headers["location"] == "http://localhost:9000/photos/user/a%20b.jpg"
    got = await stored(s3, "user/a b.jpg")
    assert (got.status, got.body) == (200, FILE)
    assert got.headers["etag"] == answer.headers["etag"]
    assert (got.headers["content-type"], got.headers["cache-control"]) == ("image/jpeg", "no-cache")
    assert got.headers["x-amz-meta-a"] == "1"


async def test_a_form_that_minio_signed_is_stored(here: Running, scene: Scene, s3: S3Client) -> None:
    """The second client."""
    policy = PostPolicy("photos", datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=5))
    policy.add_starts_with_condition("$key", "user/")
    policy.add_content_length_range_condition(1, 10_000)
    credentials = StaticProvider(scene.root.key, scene.root.secret).retrieve()
    assert isinstance(credentials, Credentials)
    fields = policy.form_data(credentials, "us-east-1") | {"key": "user/b"}
    assert (await post(here, form(fields))).status == 204
    assert (await stored(s3, "user/b")).body == FILE


async def test_the_answer_is_as_the_form_wants_it(here: Running, scene: Scene) -> None:
    """A document, nothing, or another page, if that is one."""
    for status in (200, 201, 204):
        answer = await post(here, form(signed(scene.root, "a", fields={"success_action_status": str(status)})))
        assert answer.status == status
    created = await post(here, form(signed(scene.root, "a<b", fields={"success_action_status": "201"})))
    assert (created.text("Bucket"), created.text("Key"), created.text("ETag")) == (
        "photos",
        "a<b",
        created.headers["etag"],
    )
    for url, location in (
        ("https://example.org/done?x=1", "https://example.org/done?x=1&bucket=photos&key=a&etag=%22"),
        ("javascript:alert(1)", None),
        ("//example.org", None),
        ("https://example.org/\x7f", None),
    ):
        answer = await post(here, form(signed(scene.root, "a", fields={"success_action_redirect": url})))
        assert answer.status == (204 if location is None else 303), url
        assert location is None or answer.headers["location"].startswith(location)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        ({"x-amz-credential": "TVZZZZZZZZZZZZZZZZZZ/20261129/us-east-1/s3/aws4_request"}, None),
        ({"policy": b64encode(b"{}").decode()}, "SignatureDoesNotMatch"),
        ({"key": "other"}, "AccessDenied"),
        ({"x-amz-meta-a": "1"}, "AccessDenied"),
        ({"acl": "public-read"}, "AccessDenied"),
        ({"bucket": "default"}, "AccessDenied"),
        ({"x-amz-algorithm": "x"}, "MalformedPOSTRequest"),
        ({"x-amz-date": "x"}, "MalformedPOSTRequest"),
        ({"x-amz-security-token": "x"}, "InvalidToken"),
        ({"AWSAccessKeyId": "x"}, "InvalidRequest"),
        ({"signature": "x"}, "InvalidRequest"),
        ({"key": ""}, "InvalidArgument"),
        ({"key": "k" * 1025}, "KeyTooLongError"),
        ({"key": "a\0b"}, "InvalidObjectName"),
        ({"Policy": "x"}, "InvalidArgument"),
        ({"x-ignore-a": "x" * 20_500}, "MaxPostPreDataLengthExceeded"),
        ({"x-ignore-a": "x" * 60_000}, "MaxPostPreDataLengthExceeded"),
    ],
)
async def test_a_form_that_was_changed_is_refused(
    change, code: str | None, here: Running, scene: Scene, s3: S3Client
) -> None:
    """Nothing of it is stored."""
    before = len([each for each in scene.metadata.proposed if each.kind.startswith("publish")])
    answer = await post(here, form(signed(scene.root) | change))
    assert answer.status in {400, 403}
    assert code is None or answer.code == code
    assert len([each for each in scene.metadata.proposed if each.kind.startswith("publish")]) == before


@pytest.mark.parametrize(
    "left_out", ["policy", "x-amz-signature", "x-amz-date", "x-amz-credential", "x-amz-algorithm", "key"]
)
async def test_a_form_has_all_of_its_fields(left_out: str, here: Running, scene: Scene) -> None:
    """Those of the signature together, or none of them."""
    fields = signed(scene.root)
    del fields[left_out]
    answer = await post(here, form(fields))
    assert (answer.status, answer.code) == (400, "InvalidArgument")


async def test_another_bucket_is_another_policy(here: Running, scene: Scene, s3: S3Client) -> None:
    """The bucket is that of the URL (CVE-2023-43040)."""
    await s3("PUT", "others")
    fields = signed(scene.root)
    for more in ({}, {"bucket": "photos"}):
        answer = await post(here, form(fields | more), "/others")
        assert (answer.status, answer.code) == (403, "AccessDenied")


async def test_a_policy_expires(here: Running, scene: Scene) -> None:
    """By the time of Trivet."""
    fields = signed(scene.root, expires_s=60)
    scene.clock.shift_s = 61
    assert (await post(here, form(fields))).code == "AccessDenied"


@pytest.mark.parametrize(
    ("least", "most", "code"), [(0, len(FILE) - 1, "EntityTooLarge"), (len(FILE) + 1, 10**6, "EntityTooSmall")]
)
async def test_the_file_has_the_length_that_was_signed(
    least, most, code, here: Running, scene: Scene, s3: S3Client
) -> None:
    """To the byte; what is not is not stored."""
    fields = signed(scene.root, "a", conditions=[["content-length-range", least, most]])
    answer = await post(here, form(fields))
    assert (answer.status, answer.code) == (400, code)
    assert (await stored(s3, "a")).status == 404
    fields = signed(scene.root, "a", conditions=[["content-length-range", len(FILE), len(FILE)]])
    assert (await post(here, form(fields))).status == 204


async def test_a_form_asks_for_nothing_that_its_signer_may_not(here: Running, scene: Scene) -> None:
    """Rights are those of every write."""
    writer = await scene.holder(may("photos", Action.WRITE, prefix="user/"))
    assert (await post(here, form(signed(writer)))).status == 204
    refused = await post(here, form(signed(writer, "other/a")))
    assert (refused.status, refused.code) == (403, "AccessDenied")


async def test_a_form_without_a_policy_is_anonymous(here: Running) -> None:
    """Who may do nothing here."""
    answer = await post(here, form({"key": "a"}))
    assert (answer.status, answer.code) == (403, "AccessDenied")


async def test_two_credentials_are_refused(here: Running, scene: Scene) -> None:
    """A form beside a signed head, and headers that nobody has signed."""
    for headers in ({"authorization": "AWS4-HMAC-SHA256 x"}, {"x-amz-acl": "private"}):
        answer = await post(here, form(signed(scene.root)), headers=headers)
        assert answer.status in {400, 403}, headers


@pytest.mark.parametrize(
    "body",
    [b"", b"x", form({})[:-10], form({"key": "a"}).replace(b"form-data", b"x"), b"--" + BOUNDARY.encode() + b"--\r\n"],
)
async def test_what_is_no_form_is_refused(body: bytes, here: Running) -> None:
    """With one word for it."""
    answer = await post(here, body)
    assert answer.status in {400, 403}
    answer = await post(here, body, headers={"content-type": "text/plain"})
    assert (answer.status, answer.code) == (400, "MalformedPOSTRequest")


async def test_a_form_that_breaks_off_is_not_stored(here: Running, scene: Scene, s3: S3Client) -> None:
    """The file ends cleanly only if the form does."""
    whole = form(signed(scene.root, "a"))
    answer = await post(here, whole[: whole.rindex(b"--" + BOUNDARY.encode())])
    assert (answer.status, answer.code) == (400, "MalformedPOSTRequest")
    assert (await stored(s3, "a")).status == 404


async def test_tags_of_a_form(here: Running, scene: Scene, s3: S3Client) -> None:
    """A document in a field."""
    tagging = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag></TagSet></Tagging>"
    assert (await post(here, form(signed(scene.root, "a", fields={"tagging": tagging})))).status == 204
    tags = await s3("GET", "photos", "a", query={"tagging": ""})
    assert (tags.texts("TagSet/Tag/Key"), tags.texts("TagSet/Tag/Value")) == (["a b"], ["1&2"])


async def test_a_field_does_not_become_another_header(here: Running, scene: Scene, s3: S3Client) -> None:
    """An end of line in it is refused; other text comes back as it is."""
    fields = signed(scene.root, "a", fields={"x-amz-meta-a": "1\r\nx-evil: 2"})
    assert (await post(here, form(fields))).code == "InvalidArgument"
    fields = signed(scene.root, "a", fields={"Content-Disposition": 'attachment; filename="a.jpg"'})
    assert (await post(here, form(fields))).status == 204
    assert (await stored(s3, "a")).headers["content-disposition"] == 'attachment; filename="a.jpg"'


async def test_only_fields_are_stored_and_no_header_of_the_browser(here: Running, scene: Scene, s3: S3Client) -> None:
    """The policy covers the fields, and a browser sends headers of its own."""
    fields = signed(scene.root, "a")
    headers = {"cache-control": "public, max-age=31536000", "expires": "Thu, 01 Jan 2099 00:00:00 GMT"}
    assert (await post(here, form(fields), headers=headers)).status == 204
    found = (await stored(s3, "a")).headers
    assert "expires" not in found
    assert "max-age=31536000" not in found.get("cache-control", "")
