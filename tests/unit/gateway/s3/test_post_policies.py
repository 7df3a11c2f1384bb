"""The policy of a form: it speaks of every field, and of the bucket and key that are used."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.post_policies import PostPolicy, post_policy

EXPIRES = "2026-11-29T12:00:00.000Z"
NOW_S = 1_795_953_599.0
FIELDS = {"key": "user/eric/${filename}", "content-type": "image/jpeg", "x-amz-signature": "0", "policy": "p"}
CONDITIONS: list[object] = [
    {"bucket": "photos"},
    ["starts-with", "$key", "user/eric/"],
    ["starts-with", "$Content-Type", "image/"],
    {"x-amz-meta-a": "1"},
]


def encoded(policy: object) -> str:
    return b64encode(json.dumps(policy).encode()).decode()


def policy_of(*conditions: object, expiration: str = EXPIRES) -> PostPolicy:
    return post_policy(encoded({"expiration": expiration, "conditions": list(conditions)}))


def check(policy: PostPolicy, **changes: str) -> None:
    fields = {**FIELDS, "x-amz-meta-a": "1"} | {name.replace("_", "-"): value for name, value in changes.items()}
    policy.check(fields, bucket="photos", key="user/eric/a.jpg", now_s=NOW_S)


def test_a_form_that_keeps_to_its_policy() -> None:
    """Names of fields have no case; what begins with x-ignore- needs no condition."""
    check(policy_of(*CONDITIONS), x_ignore_this="x", file="x")
    check(policy_of(*CONDITIONS, ["starts-with", "$x-amz-meta-b", ""]))


@pytest.mark.parametrize("left_out", range(4))
def test_every_field_needs_a_condition(left_out: int) -> None:
    """The bucket and the key also."""
    with pytest.raises(S3Error, match="AccessDenied"):
        check(policy_of(*(each for at, each in enumerate(CONDITIONS) if at != left_out)))


@pytest.mark.parametrize("name", ["acl", "x-amz-tagging", "success_action_redirect", "x-amz-storage-class", "tagging"])
def test_a_field_that_was_added_is_refused(name: str) -> None:
    """Whatever it is."""
    with pytest.raises(S3Error, match="AccessDenied"):
        policy_of(*CONDITIONS).check(
            {**FIELDS, "x-amz-meta-a": "1", name: "x"}, bucket="photos", key="user/eric/a", now_s=NOW_S
        )


def test_the_bucket_is_that_of_the_url() -> None:
    """Never that of a field (CVE-2023-43040)."""
    policy = policy_of(*CONDITIONS)
    fields = {**FIELDS, "x-amz-meta-a": "1"}
    with pytest.raises(S3Error, match="AccessDenied"):
        policy.check(fields, bucket="others", key="user/eric/a", now_s=NOW_S)
    with pytest.raises(S3Error, match="AccessDenied"):
        policy.check({**fields, "bucket": "photos"}, bucket="others", key="user/eric/a", now_s=NOW_S)
    with pytest.raises(S3Error, match="AccessDenied"):
        policy.check({**fields, "bucket": "others"}, bucket="photos", key="user/eric/a", now_s=NOW_S)
    policy.check({**fields, "bucket": "photos"}, bucket="photos", key="user/eric/a", now_s=NOW_S)


def test_the_key_is_the_one_that_is_used() -> None:
    """With the name of the file in it."""
    with pytest.raises(S3Error, match="AccessDenied"):
        policy_of(*CONDITIONS).check({**FIELDS, "x-amz-meta-a": "1"}, bucket="photos", key="user/adam/a", now_s=NOW_S)


def test_a_condition_holds_exactly() -> None:
    """Of values the case counts."""
    with pytest.raises(S3Error, match="AccessDenied"):
        check(policy_of(*CONDITIONS), x_amz_meta_a="2")
    with pytest.raises(S3Error, match="AccessDenied"):
        check(policy_of(*CONDITIONS, ["eq", "$x-amz-meta-a", "2"]))
    with pytest.raises(S3Error, match="AccessDenied"):
        check(policy_of(*CONDITIONS), content_type="Image/jpeg")
    with pytest.raises(S3Error, match="AccessDenied"):
        check(policy_of(*CONDITIONS, {"acl": "private"}))


def test_a_policy_expires() -> None:
    """At its moment."""
    policy = policy_of(*CONDITIONS)
    fields = {**FIELDS, "x-amz-meta-a": "1"}
    policy.check(fields, bucket="photos", key="user/eric/a", now_s=policy.expires_s - 0.001)
    with pytest.raises(S3Error, match="AccessDenied"):
        policy.check(fields, bucket="photos", key="user/eric/a", now_s=policy.expires_s)


def test_the_length_of_the_file_is_bounded_by_every_range() -> None:
    """The narrowest of them."""
    policy = policy_of(["content-length-range", 1, "100"], ["content-length-range", 10, 1000])
    assert (policy.least_bytes, policy.most_bytes) == (10, 100)
    assert (policy_of().least_bytes, policy_of().most_bytes) == (0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "%%",
        encoded([]),
        encoded({}),
        encoded({"expiration": EXPIRES}),
        encoded({"conditions": []}),
        encoded({"Expiration": EXPIRES, "Conditions": []}),
        encoded({"expiration": EXPIRES, "conditions": [], "x": 1}),
        encoded({"expiration": EXPIRES, "conditions": {}}),
        encoded({"expiration": 1, "conditions": []}),
        *(
            encoded({"expiration": moment, "conditions": []})
            for moment in (
                "",
                "x",
                "2026-11-29",
                "2026-11-29T12:00:00",
                "2026-13-29T12:00:00Z",
                "2026-11-29T12:00:00+01:00",
            )
        ),
        *(
            encoded({"expiration": EXPIRES, "conditions": [condition]})
            for condition in (
                1,
                "x",
                [],
                ["eq", "$key"],
                ["eq", "key", "x"],
                ["eq", "$key", 1],
                ["ne", "$key", "x"],
                ["EQ", "$key", "x"],
                {"key": 1},
                {"key": None},
                ["content-length-range", -1, 1],
                ["content-length-range", 1.5, 2],
                ["content-length-range", True, 2],
                ["content-length-range", "x", 2],
            )
        ),
        b64encode(b"[" * 15_000).decode(),
        b64encode(b'{"expiration":"2026-11-29T12:00:00Z","conditions":[],"conditions":[]}').decode(),
        b64encode(b'{"expiration":"2026-11-29T12:00:00Z","conditions":[["content-length-range",NaN,1]]}').decode(),
        b64encode(b"\xff\xfe").decode(),
    ],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    """Nothing of it is guessed."""
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        post_policy(text)
