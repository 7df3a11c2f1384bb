"""aiobotocore: many requests at once over one client, as s3fs and Dask send them."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from hashlib import md5, sha256

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from shared.units import MIB

pytestmark = pytest.mark.cluster

PART = 8 * MIB


@asynccontextmanager
async def open_client(server):
    """With its defaults but for what says where and who."""
    async with get_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name=server.region,
        config=AioConfig(retries={"mode": "standard", "max_attempts": max(3, server.attempts)}),
    ) as client:
        yield client


async def test_many_files_at_once_are_put_listed_read_and_deleted(s3, bucket) -> None:
    """A hundred small files side by side, pages of a list, and a batch deletion."""
    bodies = {f"many/{number:03d}": f"body {number}".encode() for number in range(100)}
    async with open_client(s3) as client:
        await asyncio.gather(*(client.put_object(Bucket=bucket, Key=key, Body=body) for key, body in bodies.items()))
        found: list[str] = []
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 30})
        async for page in pages:
            found += [entry["Key"] for entry in page["Contents"]]
        assert found == sorted(bodies)

        async def read(key: str) -> bytes:
            answer = await client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as stream:
                return await stream.read()

        assert await asyncio.gather(*map(read, bodies)) == list(bodies.values())
        await client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in found], "Quiet": True})
        assert (await client.list_objects_v2(Bucket=bucket))["KeyCount"] == 0


async def test_64_mib_go_up_by_parts_at_once(s3, bucket, seed) -> None:
    """Parts of one upload never wait for each other, and a read right after the end sees the whole."""
    body = random.Random(seed).randbytes(64 * MIB)
    async with open_client(s3) as client:
        named = {"Bucket": bucket, "Key": "large"}
        named["UploadId"] = (await client.create_multipart_upload(**named))["UploadId"]

        async def send(number: int) -> dict[str, object]:
            piece = body[(number - 1) * PART : number * PART]
            answer = await client.upload_part(**named, PartNumber=number, Body=piece)
            assert answer["ETag"] == f'"{md5(piece).hexdigest()}"'
            return {"PartNumber": number, "ETag": answer["ETag"]}

        parts = await asyncio.gather(*(send(number) for number in range(len(body) // PART, 0, -1)))
        await client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts[::-1]})
        answer = await client.get_object(Bucket=bucket, Key="large")
        async with answer["Body"] as stream:
            digest = sha256()
            async for piece in stream.iter_chunks(MIB):
                digest.update(piece)
        assert digest.digest() == sha256(body).digest()


async def test_a_wrong_key_and_a_wrong_bucket_are_named(s3) -> None:
    """By the codes of S3."""
    for server, code in ((s3.with_wrong_key, "InvalidAccessKeyId"), (s3, "NoSuchBucket")):
        async with open_client(server) as client:
            with pytest.raises(ClientError) as caught:
                await client.list_objects_v2(Bucket="nobody-has-this")
            assert caught.value.response["Error"]["Code"] == code
