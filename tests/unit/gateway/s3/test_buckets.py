"""Buckets by S3."""

from __future__ import annotations

import pytest

from services.gateway.access.bootstrap import root_identity
from shared.contracts.access import Action
from tests.unit.gateway.access.scene import REALM, Running, Scene, may
from tests.unit.gateway.s3.asking import S3Client, ask, signed_headers


async def test_a_bucket_is_made_found_listed_and_deleted(s3: S3Client) -> None:
    """Each call answers as S3 does."""
    created = await s3("PUT", "photos")
    assert (created.status, created.headers["location"], created.body) == (200, "/photos", b"")
    found = await s3("HEAD", "photos")
    assert (found.status, found.headers["x-amz-bucket-region"], found.body) == (200, "us-east-1", b"")
    listed = await s3("GET")
    assert listed.status == 200
    assert listed.texts("Buckets/Bucket/Name") == ["default", "photos"]
    assert listed.text("Owner/ID") == root_identity(REALM)
    deleted = await s3("DELETE", "photos")
    assert (deleted.status, deleted.body) == (204, b"")
    assert "content-length" not in deleted.headers
    gone = await s3("HEAD", "photos")
    assert (gone.status, gone.body) == (404, b"")
    assert (await s3("DELETE", "photos")).code == "NoSuchBucket"


async def test_every_answer_can_be_told_from_others(s3: S3Client) -> None:
    """The id of the request is in the headers, another one each time, and in the document of an error."""
    first, second = await s3("GET", "missing", query={"location": ""}), await s3("GET")
    assert len(first.headers["x-amz-request-id"]) == 16
    assert first.headers["x-amz-request-id"] != second.headers["x-amz-request-id"]
    assert first.headers["server"] == "Trivet"
    refused = await s3("DELETE", "missing")
    assert refused.text("RequestId") == refused.headers["x-amz-request-id"]
    assert refused.text("HostId") == refused.headers["x-amz-id-2"]
    assert refused.text("BucketName") == "missing"


async def test_a_bucket_that_is_there_is_not_made_again(s3: S3Client) -> None:
    """Its owner is told so."""
    await s3("PUT", "photos")
    again = await s3("PUT", "photos")
    assert (again.status, again.code) == (409, "BucketAlreadyOwnedByYou")


@pytest.mark.parametrize("name", ["ab", "Photos", "a..b", "10.0.0.1", "xn--photos", "sthree-x", "x-s3alias"])
async def test_a_bucket_has_a_name_that_s3_allows(s3: S3Client, name: str) -> None:
    """Everything else is 400."""
    assert (await s3("PUT", name)).code == "InvalidBucketName"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"<CreateBucketConfiguration/>", None),
        (b"<CreateBucketConfiguration><LocationConstraint/></CreateBucketConfiguration>", None),
        (
            b"<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>",
            "InvalidLocationConstraint",
        ),
        (b"<CreateBucketConfiguration>", "MalformedXML"),
        (b"<Other/>", "MalformedXML"),
        (b"<CreateBucketConfiguration><Tags/></CreateBucketConfiguration>", "NotImplemented"),
    ],
)
async def test_a_bucket_is_made_in_the_region_of_the_cluster(s3: S3Client, document: bytes, code: str | None) -> None:
    """No other one can be asked for, and nothing that is asked for is ignored."""
    answer = await s3("PUT", "photos", body=document)
    assert answer.code == code
    assert (await s3("HEAD", "photos")).status == (200 if code is None else 404)


async def test_a_bucket_with_a_file_is_not_deleted(s3: S3Client, scene: Scene, here: Running) -> None:
    """What `/v1` put counts, too."""
    await s3("PUT", "photos")
    put = await here.public.put("/v1/files/photos/cat", content=b"x", headers=scene.root.headers)
    assert put.status_code == 201
    answer = await s3("DELETE", "photos")
    assert (answer.status, answer.code) == (409, "BucketNotEmpty")


async def test_uploads_under_way_do_not_keep_a_bucket(s3: S3Client, scene: Scene, here: Running) -> None:
    """They end with it; but where a file is there, too, nothing is aborted."""
    await s3("PUT", "photos")
    for key in ("a", "b", "b"):
        begun = await here.public.post("/v1/uploads", json={"bucket": "photos", "key": key}, headers=scene.root.headers)
        assert begun.status_code == 201, begun.text
    await here.public.put("/v1/files/photos/cat", content=b"x", headers=scene.root.headers)
    assert (await s3("DELETE", "photos")).code == "BucketNotEmpty"
    listed = await here.public.get("/v1/uploads?bucket=photos", headers=scene.root.headers)
    assert len(listed.json()["uploads"]) == 3
    await here.public.delete("/v1/files/photos/cat", headers=scene.root.headers)
    assert (await s3("DELETE", "photos")).status == 204
    assert (await s3("HEAD", "photos")).status == 404


async def test_uploads_that_the_caller_may_not_see_end_too(scene: Scene, here: Running, s3: S3Client) -> None:
    """Whoever may delete the bucket needs no other right; where something else keeps it, none of them is aborted."""
    await s3("PUT", "photos")
    upload = (await s3("POST", "photos", "b", query={"uploads": ""})).text("UploadId") or ""
    await s3("PUT", "photos", "cat", body=b"x")
    admin = S3Client(here.s3, await scene.holder(may("photos", Action.BUCKET_ADMIN)))
    assert (await admin("DELETE", "photos")).code == "BucketNotEmpty"
    assert (await s3("GET", "photos", "b", query={"uploadId": upload})).status == 200
    await s3("DELETE", "photos", "cat")
    assert (await admin("DELETE", "photos")).status == 204
    await s3("PUT", "photos")
    assert (await s3("GET", "photos", "b", query={"uploadId": upload})).code == "NoSuchUpload"


async def test_a_list_of_buckets_has_pages(s3: S3Client) -> None:
    """All of them, each once, however long a page is."""
    names = [f"logs-{number}" for number in range(5)] + ["logt"]
    for name in names:
        await s3("PUT", name)
    for limit in (1, 2, 5, 6):
        found: list[str] = []
        query = {"max-buckets": str(limit), "prefix": "logs-"}
        while True:
            page = await s3("GET", query=query)
            found += page.texts("Buckets/Bucket/Name")
            if (token := page.text("ContinuationToken")) is None:
                break
            query |= {"continuation-token": token}
        assert found == names[:5]


@pytest.mark.parametrize("prefix", ["\ue000", "Ü", "~", "\x7f"])
async def test_no_bucket_begins_with_what_no_name_has(s3: S3Client, prefix: str) -> None:
    """An empty list, and no defect."""
    answer = await s3("GET", query={"prefix": prefix})
    assert (answer.status, answer.texts("Buckets/Bucket/Name")) == (200, [])


@pytest.mark.parametrize("query", [{"max-buckets": "0"}, {"max-buckets": "x"}, {"continuation-token": "%"}])
async def test_a_list_of_buckets_refuses_what_it_does_not_understand(s3: S3Client, query: dict[str, str]) -> None:
    """400, and no list of something else."""
    assert (await s3("GET", query=query)).code == "InvalidArgument"


async def test_an_identity_sees_the_buckets_of_its_scopes(scene: Scene, here: Running, s3: S3Client) -> None:
    """And can neither find nor make others."""
    for name in ("mine", "theirs"):
        await s3("PUT", name)
    reader = S3Client(here.s3, await scene.holder(may("mine", Action.READ)))
    assert (await reader("GET")).texts("Buckets/Bucket/Name") == ["mine"]
    assert (await reader("HEAD", "mine")).status == 200
    assert (await reader("HEAD", "theirs")).status == 403
    assert (await reader("HEAD", "nowhere")).status == 403
    assert (await reader("PUT", "another")).code == "AccessDenied"
    assert (await reader("DELETE", "mine")).code == "AccessDenied"


async def test_whoever_shows_nothing_is_refused(here: Running, s3: S3Client) -> None:
    """Without a word about what is there."""
    await s3("PUT", "photos")
    for method, target in (("GET", "/"), ("PUT", "/photos"), ("HEAD", "/photos"), ("GET", "/missing/x")):
        answer = await ask(here.s3, method, target)
        assert answer.status == 403
        assert method == "HEAD" or answer.code == "AccessDenied"


async def test_a_bucket_of_another_owner_than_expected_is_refused(s3: S3Client) -> None:
    """Whatever is asked for."""
    expected = {"x-amz-expected-bucket-owner": root_identity(REALM)}
    assert (await s3("PUT", "photos", headers=expected)).status == 200
    other = {"x-amz-expected-bucket-owner": "1" * 64}
    assert (await s3("DELETE", "photos", headers=other)).code == "AccessDenied"
    assert (await s3("HEAD", "photos")).status == 200


async def test_an_empty_body_is_the_one_that_was_signed(s3: S3Client) -> None:
    """As any other: whoever took it away changed what is asked for."""
    document = b"<CreateBucketConfiguration/>"
    signed = signed_headers(s3.holder, "PUT", "/photos", body=document)
    answer = await ask(s3.app, "PUT", "/photos", signed)
    assert (answer.status, answer.code) == (400, "XAmzContentSHA256Mismatch")
    assert (await s3("HEAD", "photos")).status == 404
