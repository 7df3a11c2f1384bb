"""What calls fill in, or refuse, before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.client.scripted import ScriptedAnswer, ScriptedTransport, caller_over, problem
from trivet import errors
from trivet.bucket_calls import BucketCalls
from trivet.config import Endpoint
from trivet.copy_calls import CopyCalls
from trivet.transfer_calls import TransferCalls

_HERE = Endpoint("http://store.test", None, None)


@pytest.mark.parametrize("wrong", [True, "on", None])
async def test_a_versioning_that_does_not_exist_is_refused_before_it_is_sent(wrong) -> None:
    """The store could only say that the body is malformed."""
    transport = ScriptedTransport(ScriptedAnswer(200, b"{}"))
    buckets = BucketCalls(_HERE, caller_over(transport))
    with pytest.raises(ValueError, match="versioning is one of 'off', 'enabled', 'suspended'"):
        await buckets.set_bucket_settings("photos", versioning=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match="versioning is one of"):
            await buckets.create_bucket("photos", versioning=wrong)
    assert not transport.requests


async def test_a_bucket_is_made_with_its_versioning() -> None:
    """By one more request, and only where it is asked for."""
    made = ScriptedAnswer(200, b'{"name": "photos", "incarnation": 3, "created": true}')
    transport = ScriptedTransport(made, ScriptedAnswer(200, b'{"bucket": "photos", "log_index": 4}'), made)
    buckets = BucketCalls(_HERE, caller_over(transport))
    assert (await buckets.create_bucket("photos", versioning="enabled")).incarnation == 3
    assert [(method, body) for method, _, _, body in transport.requests] == [
        ("PUT", None),
        ("PATCH", b'{"versioning":"enabled"}'),
    ]
    await buckets.create_bucket("photos")
    assert len(transport.requests) == 3


def _versions(*rows: dict[str, Any]) -> ScriptedAnswer:
    facts = {"key": "cat.jpg", "size_bytes": 1, "log_index": 9, "modified": "2026-01-01T00:00:00Z"}
    flags = {"is_current": False, "is_marker": False, "is_null": False}
    listed = [{**facts, **flags, **row} for row in rows]
    return ScriptedAnswer(200, json.dumps({"versions": listed, "prefixes": [], "log_index": 9}).encode())


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([{"version": 9, "is_marker": True, "is_current": True}, {"version": 7}, {"version": 5}], 7),
        ([{"version": 9, "is_current": True}, {"version": 8, "is_marker": True}, {"version": 5}], 5),
    ],
)
async def test_without_a_version_the_newest_that_has_bytes_is_restored(rows, chosen) -> None:
    """A deleted file comes back as it was last, any other as it was before."""
    transport = ScriptedTransport(_versions(*rows), problem(409, "bucket_frozen"))
    copies = CopyCalls(_HERE, caller_over(transport))
    with pytest.raises(errors.Conflict):
        await copies.restore("photos", "cat.jpg")
    assert transport.requests[0][1] == "/v1/versions/photos?key=cat.jpg"
    assert json.loads(transport.requests[1][3] or b"")["version"] == chosen


async def test_a_file_without_an_older_version_is_not_restored() -> None:
    """The error is one of a file that is not there, and says what keeps versions."""
    transport = ScriptedTransport(_versions({"version": 9, "is_current": True}))
    copies = CopyCalls(_HERE, caller_over(transport))
    with pytest.raises(errors.FileNotFound, match="versioning is enabled") as caught:
        await copies.restore("photos", "cat.jpg")
    assert caught.value.definite
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    ("key", "given", "sent"),
    [
        ("photo.jpg", None, "image/jpeg"),
        ("photo.jpg", "text/plain", "text/plain"),
        ("photo", None, None),
        ("letters.txt.gz", None, None),
    ],
)
async def test_a_key_says_the_content_type_where_nothing_else_does(tmp_path, key, given, sent) -> None:
    """Of bytes, of a file, and of an upload by parts alike."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    begun = {"upload_id": "u", "bucket": "photos", "key": key, "expires": "2026-01-01T00:00:00Z"}
    transport = ScriptedTransport(problem(412, "precondition_failed"))
    store = TransferCalls(_HERE, caller_over(transport))
    for call in (
        store.put("photos", key, b"x", content_type=given),
        store.upload_file("photos", key, source, content_type=given),
    ):
        with pytest.raises(errors.PreconditionFailed):
            await call
    assert [headers.get("Content-Type") for _, _, headers, _ in transport.requests] == [sent, sent]
    transport = ScriptedTransport(ScriptedAnswer(200, json.dumps(begun).encode()))
    store = TransferCalls(_HERE, caller_over(transport))
    await store.begin_upload("photos", key, content_type=given)
    assert json.loads(transport.requests[0][3] or b"").get("content_type") == sent
