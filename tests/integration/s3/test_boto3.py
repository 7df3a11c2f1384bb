"""boto3 with its defaults of today: checksums as trailers, 100-continue, virtual hosts only where a name allows it."""

from __future__ import annotations

import base64
import io
import logging
import random
from hashlib import md5, sha256

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from shared.units import MIB
from tests.integration.s3.servers import require_calm, require_trivet

pytestmark = pytest.mark.cluster

PART = 8 * MIB
ODD_KEYS = (
    "plain",
    "a b+c%20d",
    "key=value/it's (1)!*@$&:;,~",
    "ünïcode/☃/日本",
    "double//slash/",
    "dir/",
    "dir/one",
    'quote"and<angle>&amp;',
)


def refusal(call, **arguments) -> tuple[str, int]:
    """Code and status with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_file_is_put_read_in_whole_and_in_part_copied_listed_and_deleted(client, bucket, seed) -> None:
    """The everyday calls, with what a file carries beside its bytes."""
    body = random.Random(seed).randbytes(3 * MIB + 5)
    put = client.put_object(
        Bucket=bucket,
        Key="a/b.bin",
        Body=body,
        ContentType="text/x-own",
        CacheControl="max-age=3",
        ContentDisposition='attachment; filename="b"',
        Metadata={"Mtime": "1.5", "note": "hello there"},
    )
    etag = f'"{md5(body).hexdigest()}"'
    assert put["ETag"] == etag
    head = client.head_object(Bucket=bucket, Key="a/b.bin")
    assert (head["ETag"], head["ContentLength"], head["ContentType"]) == (etag, len(body), "text/x-own")
    assert (head["CacheControl"], head["ContentDisposition"]) == ("max-age=3", 'attachment; filename="b"')
    assert head["Metadata"] == {"mtime": "1.5", "note": "hello there"}
    assert client.get_object(Bucket=bucket, Key="a/b.bin")["Body"].read() == body
    for wanted, start, stop in (
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-2097160", 1048570, 2097161),
        ("bytes=-7", -7, None),
    ):
        part = client.get_object(Bucket=bucket, Key="a/b.bin", Range=wanted)
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert part["Body"].read() == body[start:stop]

    client.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": "a/b.bin"})
    copied = client.head_object(Bucket=bucket, Key="copied")
    assert (copied["ETag"], copied["Metadata"], copied["ContentType"]) == (etag, head["Metadata"], "text/x-own")
    client.copy_object(
        Bucket=bucket,
        Key="copied",
        CopySource=f"{bucket}/copied",
        MetadataDirective="REPLACE",
        Metadata={"new": "1"},
        ContentType="text/plain",
    )
    assert client.head_object(Bucket=bucket, Key="copied")["Metadata"] == {"new": "1"}

    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(entry["Key"], entry["Size"], entry["ETag"]) for entry in listed] == [
        ("a/b.bin", len(body), etag),
        ("copied", len(body), etag),
    ]
    client.delete_object(Bucket=bucket, Key="a/b.bin")
    client.delete_object(Bucket=bucket, Key="a/b.bin")
    assert refusal(client.get_object, Bucket=bucket, Key="a/b.bin") == ("NoSuchKey", 404)
    assert refusal(client.head_object, Bucket=bucket, Key="a/b.bin") == ("404", 404)


def test_odd_keys_survive_a_list_a_read_and_a_batch_deletion(s3, client, bucket) -> None:
    """What a list says can be read, and what is read can be deleted."""
    require_trivet(s3, "it has folders, and // is / there")
    for key in ODD_KEYS:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    assert keys == sorted(ODD_KEYS, key=str.encode)
    for key in keys:
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in [*keys, "absent"]]})
    assert "Errors" not in answer
    assert {entry["Key"] for entry in answer["Deleted"]} == {*ODD_KEYS, "absent"}
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_list_folds_common_prefixes_over_pages(client, bucket) -> None:
    """Each common prefix once, together with keys, a few a page, in both lists."""
    for key in ("a/1", "a/2", "b", "c/1/x", "c/2", "d"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    for name in ("list_objects_v2", "list_objects"):
        pages = client.get_paginator(name).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2})
        found = [
            entry.get("Key") or entry.get("Prefix")
            for page in pages
            for entry in [*page.get("Contents", []), *page.get("CommonPrefixes", [])]
        ]
        assert sorted(found) == ["a/", "b", "c/", "d"], name
    page = client.list_objects_v2(Bucket=bucket, Prefix="c/", Delimiter="/", FetchOwner=True)
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["c/1/"]
    assert page["Contents"][0]["Owner"]["ID"]


def test_64_mib_go_up_by_parts_and_come_back_by_ranges(client, bucket, seed) -> None:
    """What upload_fileobj and download_fileobj do for every long file, ten at once; the ETag is that of its parts."""
    body = random.Random(seed).randbytes(64 * MIB)
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=10)
    client.upload_fileobj(io.BytesIO(body), bucket, "large", ExtraArgs={"Metadata": {"k": "v"}}, Config=config)
    head = client.head_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")
    parts = [md5(body[start : start + PART]).digest() for start in range(0, len(body), PART)]
    assert head["ETag"] == f'"{md5(b"".join(parts)).hexdigest()}-{len(parts)}"'
    assert (head["ContentLength"], head["Metadata"]) == (len(body), {"k": "v"})
    taken = io.BytesIO()
    client.download_fileobj(bucket, "large", taken, Config=config)
    assert sha256(taken.getbuffer()).digest() == sha256(body).digest()
    third = client.get_object(Bucket=bucket, Key="large", PartNumber=3)
    assert third["PartsCount"] == len(parts)
    assert third["Body"].read() == body[2 * PART : 3 * PART]

    # A copy by parts, as boto3 makes it of whatever is longer than its threshold.
    client.copy({"Bucket": bucket, "Key": "large"}, bucket, "again", Config=config)
    assert client.head_object(Bucket=bucket, Key="again")["ContentLength"] == len(body)
    middle = client.get_object(Bucket=bucket, Key="again", Range=f"bytes={PART - 3}-{PART + 3}")["Body"].read()
    assert middle == body[PART - 3 : PART + 4]


def test_an_upload_by_parts_is_listed_and_can_be_given_up(client, bucket) -> None:
    """Parts are seen until the upload is aborted; afterwards nobody knows it."""
    upload = client.create_multipart_upload(Bucket=bucket, Key="slow")["UploadId"]
    named = {"Bucket": bucket, "Key": "slow", "UploadId": upload}
    part = client.upload_part(**named, PartNumber=2, Body=b"x" * 100)
    assert [(one["PartNumber"], one["ETag"]) for one in client.list_parts(**named)["Parts"]] == [(2, part["ETag"])]
    assert [one["UploadId"] for one in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    client.abort_multipart_upload(**named)
    assert refusal(client.upload_part, **named, PartNumber=3, Body=b"x") == ("NoSuchUpload", 404)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_versions_are_kept_read_and_deleted_one_by_one(client, bucket) -> None:
    """Three contents and a marker of one key; the marker goes, and the last content is back."""
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    versions = [client.put_object(Bucket=bucket, Key="k", Body=body)["VersionId"] for body in (b"1", b"2", b"3")]
    marker = client.delete_object(Bucket=bucket, Key="k")
    assert marker["DeleteMarker"] is True
    assert refusal(client.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)
    shown = client.list_object_versions(Bucket=bucket)
    assert [entry["VersionId"] for entry in shown["Versions"]] == versions[::-1]
    assert [(entry["VersionId"], entry["IsLatest"]) for entry in shown["DeleteMarkers"]] == [
        (marker["VersionId"], True)
    ]
    assert client.get_object(Bucket=bucket, Key="k", VersionId=versions[0])["Body"].read() == b"1"
    client.delete_object(Bucket=bucket, Key="k", VersionId=marker["VersionId"])
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"
    client.delete_object(Bucket=bucket, Key="k", VersionId=versions[2])
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"2"
    client.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k", "VersionId": versions[0]})
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"


def test_tags_are_set_read_and_deleted(client, bucket) -> None:
    """With the upload, and afterwards; they change nothing else."""
    put = client.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="a=1&b=two%20words")
    tags = client.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"a": "1", "b": "two words"}
    client.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
    assert client.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "c", "Value": "3"}]
    assert client.head_object(Bucket=bucket, Key="k")["ETag"] == put["ETag"]
    client.delete_object_tagging(Bucket=bucket, Key="k")
    assert client.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


def test_conditions_decide_who_may_write(client, bucket) -> None:
    """If-None-Match for the first, If-Match for the next; a reader that has it already gets 304."""
    first = client.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    assert refusal(client.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*") == ("PreconditionFailed", 412)
    second = client.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first)["ETag"]
    assert refusal(client.put_object, Bucket=bucket, Key="k", Body=b"3", IfMatch=first) == ("PreconditionFailed", 412)
    assert refusal(client.get_object, Bucket=bucket, Key="k", IfNoneMatch=second) == ("304", 304)
    assert client.get_object(Bucket=bucket, Key="k", IfMatch=second)["Body"].read() == b"2"


def test_checksums_of_the_client_are_kept_and_compared(s3, client, bucket) -> None:
    """The default of the SDK, one that was chosen, and one that does not fit."""
    assert client.put_object(Bucket=bucket, Key="default", Body=b"123456789")["ChecksumCRC32"] == "y/Q5Jg=="
    client.put_object(Bucket=bucket, Key="sha", Body=b"123456789", ChecksumAlgorithm="SHA256")
    read = client.get_object(Bucket=bucket, Key="sha", ChecksumMode="ENABLED")
    assert read["ChecksumSHA256"] == base64.b64encode(sha256(b"123456789").digest()).decode()
    assert read["Body"].read() == b"123456789"
    with s3.client(retries={"max_attempts": 0}) as hasty:
        bad = {"Bucket": bucket, "Key": "bad", "Body": b"123456789"}
        assert refusal(hasty.put_object, **bad, ChecksumCRC32="AAAAAA==") == ("BadDigest", 400)
        assert refusal(hasty.put_object, **bad, ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==") == ("BadDigest", 400)
    assert refusal(client.head_object, Bucket=bucket, Key="bad") == ("404", 404)


def test_presigned_links_work_for_somebody_without_a_key(s3, client, bucket) -> None:
    """A read under another name, and a write; a link that was changed is refused. boto3 must be told to sign links by V4."""
    client.put_object(Bucket=bucket, Key="with space", Body=b"hello")
    read = {"Bucket": bucket, "Key": "with space", "ResponseContentDisposition": "attachment; filename=x"}
    with s3.client(signature_version="s3v4") as signer:
        get = signer.generate_presigned_url("get_object", read, ExpiresIn=60)
        put = signer.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "put"}, ExpiresIn=60)
    with httpx.Client(trust_env=False) as anybody:
        answer = anybody.get(get)
        assert (answer.status_code, answer.content) == (200, b"hello")
        assert answer.headers["content-disposition"] == "attachment; filename=x"
        assert anybody.put(put, content=b"sent").status_code == 200
        assert anybody.get(get.replace("with%20space", "put")).status_code == 403
        assert anybody.get(put).status_code == 403
        assert anybody.get(f"{s3.endpoint}/{bucket}/put").status_code == 403
    assert client.get_object(Bucket=bucket, Key="put")["Body"].read() == b"sent"


def test_wrong_keys_and_wrong_buckets_are_named(s3, bucket) -> None:
    """The three mistakes that everybody makes once, by the code that their documentation gives."""
    with s3.with_wrong_key.client() as stranger:
        assert refusal(stranger.list_buckets) == ("InvalidAccessKeyId", 403)
        assert refusal(stranger.put_object, Bucket=bucket, Key="k", Body=b"x") == ("InvalidAccessKeyId", 403)
    with s3.with_wrong_secret.client() as liar:
        assert refusal(liar.list_objects_v2, Bucket=bucket) == ("SignatureDoesNotMatch", 403)
        assert refusal(liar.put_object, Bucket=bucket, Key="k", Body=b"x") == ("SignatureDoesNotMatch", 403)
    with s3.client() as client:
        assert refusal(client.list_objects_v2, Bucket="nobody-has-this") == ("NoSuchBucket", 404)
        assert refusal(client.put_object, Bucket="nobody-has-this", Key="k", Body=b"x") == ("NoSuchBucket", 404)
        assert refusal(client.head_bucket, Bucket="nobody-has-this") == ("404", 404)
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_bucket_is_made_found_and_removed(client, bucket) -> None:
    """It is in the list and says where it is; it goes when it is empty and not before."""
    assert bucket in {entry["Name"] for entry in client.list_buckets()["Buckets"]}
    assert client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert client.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    client.put_object(Bucket=bucket, Key="k", Body=b"")
    assert refusal(client.delete_bucket, Bucket=bucket) == ("BucketNotEmpty", 409)
    client.delete_object(Bucket=bucket, Key="k")
    client.delete_bucket(Bucket=bucket)
    assert refusal(client.head_bucket, Bucket=bucket) == ("404", 404)


@pytest.mark.timeout(240)
def test_a_thousand_empty_and_small_puts_share_one_connection(s3, bucket, caplog) -> None:
    """Empty and small bodies in turn: a late 100 costs a second each, one too many ends the connection (botocore#3755)."""
    require_trivet(s3, "it ends connections")
    require_calm(s3)
    caplog.set_level(logging.DEBUG, "urllib3.connectionpool")
    with s3.client(max_pool_connections=1, retries={"max_attempts": 0}) as client:
        for number in range(1000):
            body = b"" if number % 2 else b"small"
            assert (
                client.put_object(Bucket=bucket, Key=f"k{number % 10}", Body=body)["ETag"]
                == f'"{md5(body).hexdigest()}"'
            )
    opened = [record for record in caplog.records if "Starting new HTTP" in record.getMessage()]
    assert len(opened) == 1
