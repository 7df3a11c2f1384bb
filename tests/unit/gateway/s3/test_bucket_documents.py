"""What a bucket is set to, by S3."""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5

import pytest

from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import S3Client

_OF_A_NEW_BUCKET = {
    "acl": (200, None),
    "cors": (404, "NoSuchCORSConfiguration"),
    "website": (404, "NoSuchWebsiteConfiguration"),
    "versioning": (200, None),
    "accelerate": (200, None),
    "requestPayment": (200, None),
    "logging": (200, None),
    "lifecycle": (404, "NoSuchLifecycleConfiguration"),
    "replication": (404, "ReplicationConfigurationNotFoundError"),
    "encryption": (404, "ServerSideEncryptionConfigurationNotFoundError"),
    "object-lock": (404, "ObjectLockConfigurationNotFoundError"),
    "tagging": (404, "NoSuchTagSet"),
    "policy": (404, "NoSuchBucketPolicy"),
    "policyStatus": (404, "NoSuchBucketPolicy"),
    "publicAccessBlock": (404, "NoSuchPublicAccessBlockConfiguration"),
    "ownershipControls": (404, "OwnershipControlsNotFoundError"),
    "notification": (200, None),
    "location": (200, None),
    "abac": (200, None),
}


async def test_a_tool_reads_everything_of_a_new_bucket(s3: S3Client) -> None:
    """Each has its documented answer for none; of a bucket that is not there, there is none of them either."""
    await s3("PUT", "photos")
    for name, (status, code) in _OF_A_NEW_BUCKET.items():
        answer = await s3("GET", "photos", query={name: ""})
        assert (answer.status, answer.code if status != 200 else None) == (status, code), name
        assert answer.headers["content-type"] == "application/xml"
        missing = await s3("GET", "nowhere", query={name: ""})
        assert (missing.status, missing.code) == (404, "NoSuchBucket"), name


async def test_what_there_is_none_of_can_be_deleted(s3: S3Client) -> None:
    """204, as tools expect when they undo what somebody else undid."""
    await s3("PUT", "photos")
    for name in (
        *("cors", "website", "lifecycle", "replication", "encryption", "policy", "publicAccessBlock"),
        *("ownershipControls", "tagging"),
    ):
        assert (await s3("DELETE", "photos", query={name: ""})).status == 204, name
    assert (await s3("HEAD", "photos")).status == 200


async def test_the_first_region_has_no_name_and_others_have(s3: S3Client, scene: Scene) -> None:
    """As S3 tells where a bucket is."""
    await s3("PUT", "photos")
    assert (await s3("GET", "photos", query={"location": ""})).xml.text is None
    async with scene.gateway(s3_region="eu-north-1") as elsewhere:
        there = S3Client(elsewhere.s3, scene.root)
        assert (await there("GET", "photos", query={"location": ""})).xml.text == "eu-north-1"
        assert (await there("HEAD", "photos")).headers["x-amz-bucket-region"] == "eu-north-1"


async def test_versions_are_kept_when_it_is_asked_for(s3: S3Client, scene: Scene, here: Running) -> None:
    """By both doors the same; what else the bucket is set to stays."""
    await s3("PUT", "photos")
    settings = {"versioning": "off", "superseded_retention_s": 60, "quota_files": 5}
    put = await here.public.put("/v1/buckets/photos/settings", json=settings, headers=scene.root.headers)
    assert put.status_code == 200, put.text
    assert (await s3("GET", "photos", query={"versioning": ""})).text("Status") is None
    for status in ("Enabled", "Suspended", "Enabled"):
        body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>".encode()
        assert (await s3("PUT", "photos", query={"versioning": ""}, body=body)).status == 200
        assert (await s3("GET", "photos", query={"versioning": ""})).text("Status") == status
        read = (await here.public.get("/v1/buckets/photos/settings", headers=scene.root.headers)).json()
        assert read["versioning"] == status.lower()
        assert (read["superseded_retention_s"], read["quota_files"]) == (60, 5)


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ("", "IllegalVersioningConfigurationException"),
        ("<Status>On</Status>", "MalformedXML"),
        ("<Status>Enabled</Status><Status>Suspended</Status>", "MalformedXML"),
        ("<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>", "NotImplemented"),
    ],
)
async def test_versions_are_not_kept_by_chance(s3: S3Client, inner: str, code: str) -> None:
    """A document that says something else changes nothing."""
    await s3("PUT", "photos")
    body = f"<VersioningConfiguration>{inner}</VersioningConfiguration>".encode()
    assert (await s3("PUT", "photos", query={"versioning": ""}, body=body)).code == code
    assert (await s3("GET", "photos", query={"versioning": ""})).text("Status") is None


def _tagging(*tags: tuple[str, str]) -> bytes:
    rows = "".join(f"<Tag><Key>{name}</Key><Value>{value}</Value></Tag>" for name, value in tags)
    return f'<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><TagSet>{rows}</TagSet></Tagging>'.encode()


async def test_tags_of_a_bucket_are_kept_replaced_and_deleted(s3: S3Client) -> None:
    """All of them at once."""
    await s3("PUT", "photos")
    for tags in ([("a", "1"), ("b &amp; c", "")], [("d", "&lt;x>")]):
        assert (await s3("PUT", "photos", query={"tagging": ""}, body=_tagging(*tags))).status == 204
        read = await s3("GET", "photos", query={"tagging": ""})
        assert read.status == 200
        assert len(read.texts("TagSet/Tag/Key")) == len(tags)
    assert (read.texts("TagSet/Tag/Key"), read.texts("TagSet/Tag/Value")) == (["d"], ["<x>"])
    assert (await s3("DELETE", "photos", query={"tagging": ""})).status == 204
    assert (await s3("GET", "photos", query={"tagging": ""})).code == "NoSuchTagSet"
    assert (await s3("PUT", "nowhere", query={"tagging": ""}, body=_tagging(("a", "1")))).code == "NoSuchBucket"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (_tagging(*((f"k{number}", "") for number in range(51))), "BadRequest"),
        (_tagging(("a", "1"), ("a", "2")), "InvalidTag"),
        (_tagging(("", "1")), "InvalidTag"),
        (_tagging(("k" * 129, "1")), "InvalidTag"),
        (_tagging(("k", "v" * 257)), "InvalidTag"),
        (_tagging(("aws:x", "1")), "InvalidTag"),
        (_tagging(*((f"{number:0>128}", '"' * 256) for number in range(50))), "InvalidTag"),
        (b"<Tagging/>", "MalformedXML"),
        (b"<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "MalformedXML"),
        (b"<Tagging><TagSet/><Other/></Tagging>", "MalformedXML"),
        (b"", "MalformedXML"),
    ],
)
async def test_tags_have_bounds(s3: S3Client, body: bytes, code: str) -> None:
    """And what is beyond them changes nothing."""
    await s3("PUT", "photos")
    answer = await s3("PUT", "photos", query={"tagging": ""}, body=body)
    assert (answer.status, answer.code) == (400, code)
    assert (await s3("GET", "photos", query={"tagging": ""})).code == "NoSuchTagSet"


async def test_as_many_and_as_long_tags_as_may_be_are_kept(s3: S3Client) -> None:
    """The bounds themselves are within."""
    await s3("PUT", "photos")
    tags = [(f"{number:0>128}", "v" * 256) for number in range(50)]
    assert (await s3("PUT", "photos", query={"tagging": ""}, body=_tagging(*tags))).status == 204
    assert len((await s3("GET", "photos", query={"tagging": ""})).texts("TagSet/Tag/Key")) == 50


async def test_the_digest_of_a_document_is_compared(s3: S3Client) -> None:
    """Before anything is changed."""
    await s3("PUT", "photos")
    body = _tagging(("a", "1"))
    right, wrong = (b64encode(md5(text).digest()).decode() for text in (body, b"other"))
    for value, code in ((wrong, "BadDigest"), ("x", "InvalidDigest"), (b64encode(b"short").decode(), "InvalidDigest")):
        answer = await s3("PUT", "photos", query={"tagging": ""}, headers={"content-md5": value}, body=body)
        assert (answer.status, answer.code) == (400, code)
    assert (await s3("GET", "photos", query={"tagging": ""})).code == "NoSuchTagSet"
    answer = await s3("PUT", "photos", query={"tagging": ""}, headers={"content-md5": right}, body=body)
    assert answer.status == 204


async def test_nobody_pays_but_the_owner(s3: S3Client) -> None:
    """It can be said again, and not be changed."""
    await s3("PUT", "photos")
    for payer, status in (("BucketOwner", 200), ("Requester", 501), ("Nobody", 400)):
        body = f"<RequestPaymentConfiguration><Payer>{payer}</Payer></RequestPaymentConfiguration>".encode()
        assert (await s3("PUT", "photos", query={"requestPayment": ""}, body=body)).status == status
    assert (await s3("GET", "photos", query={"requestPayment": ""})).text("Payer") == "BucketOwner"


async def test_the_owner_may_do_everything(s3: S3Client) -> None:
    """As the ACL of a bucket and of an object without one says."""
    await s3("PUT", "photos")
    answer = await s3("GET", "photos", query={"acl": ""})
    assert answer.texts("AccessControlList/Grant/Permission") == ["FULL_CONTROL"]
    assert answer.text("AccessControlList/Grant/Grantee/ID") == answer.text("Owner/ID")
    await s3("PUT", "photos", "cat", body=b"x")
    assert (await s3("GET", "photos", "cat", query={"acl": ""})).body == answer.body
    assert (await s3("GET", "photos", "dog", query={"acl": ""})).code == "NoSuchKey"
