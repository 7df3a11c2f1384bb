"""What Terraform and OpenTofu ask of a bucket that keeps their state, call by call."""

from __future__ import annotations

import json

import pytest

from tests.integration.s3.servers import require_trivet
from tests.integration.s3.test_boto3 import refusal

pytestmark = pytest.mark.cluster

STATE = "env/prod/terraform.tfstate"
LOCK = f"{STATE}.tflock"

NONE_ANSWERS = {
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_cors": "NoSuchCORSConfiguration",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_object_lock_configuration": "ObjectLockConfigurationNotFoundError",
    "get_bucket_tagging": "NoSuchTagSet",
    "get_public_access_block": "NoSuchPublicAccessBlockConfiguration",
    "get_bucket_ownership_controls": "OwnershipControlsNotFoundError",
}
EMPTY_ANSWERS = (
    "get_bucket_versioning",
    "get_bucket_logging",
    "get_bucket_request_payment",
    "get_bucket_accelerate_configuration",
    "get_bucket_location",
    "get_bucket_notification_configuration",
)


def test_a_state_is_locked_written_and_unlocked_in_a_versioned_bucket(client, bucket) -> None:
    """The lock is a file that only one may make; after its deletion, which is a marker here, the next one may."""
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for serial in (1, 2):
        lock = {"Bucket": bucket, "Key": LOCK, "Body": json.dumps({"ID": serial}), "IfNoneMatch": "*"}
        client.put_object(**lock, ContentType="application/json", ChecksumAlgorithm="SHA256")
        assert refusal(client.put_object, **lock) == ("PreconditionFailed", 412)
        held = json.loads(client.get_object(Bucket=bucket, Key=LOCK)["Body"].read())
        assert held == {"ID": serial}
        client.put_object(Bucket=bucket, Key=STATE, Body=json.dumps({"serial": serial}), ChecksumAlgorithm="SHA256")
        client.delete_object(Bucket=bucket, Key=LOCK)
        assert refusal(client.get_object, Bucket=bucket, Key=LOCK) == ("NoSuchKey", 404)
    states = client.list_object_versions(Bucket=bucket, Prefix=STATE + "")["Versions"]
    assert sum(version["Key"] == STATE for version in states) == 2
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix="env/")["Contents"]]
    assert keys == [STATE]


@pytest.mark.parametrize(("call", "code"), NONE_ANSWERS.items())
def test_a_new_bucket_says_that_it_has_no_such_document(s3, client, bucket, call, code) -> None:
    """A refresh reads each of them, and takes only its own code for none."""
    require_trivet(s3, "not all of them are known there")
    assert refusal(getattr(client, call), Bucket=bucket) == (code, 404)


@pytest.mark.parametrize("call", EMPTY_ANSWERS)
def test_a_new_bucket_answers_what_always_has_an_answer(s3, client, bucket, call) -> None:
    """As above, for those that are never missing."""
    require_trivet(s3, "not all of them are known there")
    answer = getattr(client, call)(Bucket=bucket)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert not {"Status", "LoggingEnabled"} & set(answer)
