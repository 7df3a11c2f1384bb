"""Targets and headers: what the client writes is what a gateway reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.semantics.file_headers import user_metadata
from services.gateway.semantics.parameters import query_values
from services.gateway.semantics.raw_names import file_name
from shared.errors import InvalidNameError
from trivet import headers, models
from trivet.targets import bucket_target, file_target, named_target, with_query

_OPENAPI = Path(__file__).parents[3] / "docs" / "openapi"


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60))
def test_a_gateway_reads_every_key_as_it_was_given(key) -> None:
    """Or refuses it, as one that no path can name; it never names another file."""
    target = file_target("photos", key)
    assert "?" not in target
    assert "#" not in target
    try:
        assert file_name(target.encode()).key == key
    except InvalidNameError:
        assert not key.isprintable() or "." in key or len(key.encode()) > 1024


@given(
    st.dictionaries(
        st.sampled_from(["prefix", "delimiter", "cursor"]), st.text(st.characters(exclude_categories=("Cs",)))
    )
)
def test_a_gateway_reads_every_parameter_as_it_was_given(query) -> None:
    """And those that are None do not come."""
    target = bucket_target("photos", "files", {**query, "limit": None})
    path, _, text = target.partition("?")
    assert path == "/v1/files/photos"
    assert query_values(text.encode(), frozenset({"prefix", "delimiter", "cursor"})) == query


def test_an_empty_name_is_refused_before_it_means_everything() -> None:
    """`delete("photos", "")` is no call about the bucket."""
    for make in (
        lambda: file_target("photos", ""),
        lambda: bucket_target("", "buckets"),
        lambda: named_target("/v1/keys", ""),
    ):
        with pytest.raises(ValueError, match="not empty"):
            make()
    assert with_query("/v1/x", {"a": None}) == "/v1/x"
    assert file_target("photos", "a b", version=7) == "/v1/files/photos/a%20b?version=7"


@pytest.mark.parametrize(
    ("start", "end", "value"),
    [(0, None, None), (5, None, "bytes=5-"), (-7, None, "bytes=-7"), (0, 1, "bytes=0-0"), (3, 10, "bytes=3-9")],
)
def test_ranges_end_behind_their_last_byte(start, end, value) -> None:
    """As slices do."""
    assert headers.range_header(start, end) == value


@pytest.mark.parametrize(("start", "end"), [(5, 5), (5, 4), (0, 0), (-3, 10)])
def test_a_range_without_bytes_is_none(start, end) -> None:
    """And one that begins from the end has no end."""
    with pytest.raises(ValueError, match=r"range|start"):
        headers.range_header(start, end)


def test_etags_go_with_their_quotes() -> None:
    """With and without, and the star."""
    assert [headers.quoted(etag) for etag in ("abc", '"abc"', "*")] == ['"abc"', '"abc"', "*"]
    assert headers.change_headers(if_match="a", if_none_match="*", idempotency_key="k") == {
        "If-Match": '"a"',
        "If-None-Match": "*",
        "Idempotency-Key": "k",
    }


def test_metadata_goes_as_the_gateway_takes_it() -> None:
    """What is not ASCII is refused here, with a word about what to do."""
    sent = headers.description_headers("text/plain", {"place": "Rome"}, 2)
    assert user_metadata([(name.lower().encode(), value.encode()) for name, value in sent.items()]) == {"place": "Rome"}
    assert (sent["Content-Type"], sent["X-Trivet-Write-Quorum"]) == ("text/plain", "2")
    for metadata in ({"place": "Zürich"}, {"place": "a\nb"}):
        with pytest.raises(ValueError, match="encode"):
            headers.description_headers(None, metadata, None)


def test_an_answer_to_a_range_tells_about_the_whole_file() -> None:
    """Its size, and what else stands in the headers."""
    said = httpx.Headers({
        "Content-Length": "10",
        "Content-Range": "bytes 5-14/100",
        "ETag": '"abc"',
        "X-Trivet-Version": "21",
        "X-Trivet-Version-Id": "17",
        "X-Trivet-Meta-Place": "Rome",
        "Last-Modified": "Wed, 25 Nov 2026 16:35:12 GMT",
        "X-Trivet-Replicas-Confirmed": "3",
    })  # fmt: skip
    info = headers.file_info("photos", "cat.jpg", said)
    assert (info.size_bytes, info.etag, info.version, info.log_index) == (100, "abc", 17, 21)
    assert (info.user_metadata, info.digest, info.replicas_confirmed) == ({"place": "Rome"}, None, 3)
    assert info.modified == datetime(2026, 11, 25, 16, 35, 12, tzinfo=UTC)
    exact = headers.file_info(
        "photos", "cat.jpg", httpx.Headers({**said, "X-Trivet-Modified": "2026-11-25T16:35:12.106710Z"})
    )
    assert exact.modified == datetime(2026, 11, 25, 16, 35, 12, 106710, tzinfo=UTC)
    assert headers.content_range("bytes 5-14/100") == (5, 15, 100)


def test_retry_after_is_seconds_or_a_date() -> None:
    """Or nothing that is understood."""
    now = datetime(2026, 11, 25, 16, 35, 12, tzinfo=UTC)
    assert headers.retry_after_s("7") == 7
    assert headers.retry_after_s("Wed, 25 Nov 2026 16:35:42 GMT", now) == 30
    assert headers.retry_after_s("Wed, 25 Nov 2026 16:35:02 GMT", now) == 0
    assert headers.retry_after_s("soon") is None
    assert headers.retry_after_s(None) is None


_NAMES = {
    "CallerInfo": "Caller",
    "ClusterInfo": "Cluster",
    "FileList": "FilePage",
    "VersionList": "VersionPage",
    "BucketList": "BucketPage",
    "SettingsAnswer": "BucketSettings",
    "TagsAnswer": "Tags",
    "UploadList": "UploadPage",
    "UploadWithParts": "Upload",
    "IdentityInfo": "Identity",
    "IdentityList": "IdentityPage",
    "KeyCreated": "NewKey",
    "ClusterVerification": "Verification",
    "BackupInfo": "Backup",
}


def _examples() -> list[tuple[str, dict[str, object]]]:
    found = {}
    for name in ("gateway.json", "gateway-operations.json"):
        schemas = json.loads((_OPENAPI / name).read_text())["components"]["schemas"]
        for schema, facts in schemas.items():
            model = _NAMES.get(schema, schema)
            if hasattr(models, model) and facts.get("examples"):
                found[model] = facts["examples"][0]
    return sorted(found.items())


@pytest.mark.parametrize(("name", "example"), _examples(), ids=[name for name, _ in _examples()])
def test_models_read_what_the_store_says_of_its_answers(name, example) -> None:
    """By the examples of its description; what a newer store adds is ignored."""
    model = msgspec.convert(example | {"of_tomorrow": 1}, getattr(models, name))
    for field in model.__struct_fields__:
        if field in example and isinstance(example[field], str | int | None):
            value = getattr(model, field)
            assert value == example[field] or isinstance(value, datetime)


def test_the_description_has_examples_of_most_models() -> None:
    """Else the test above compares nothing."""
    assert {name for name, _ in _examples()} >= {
        "Receipt",
        "CopyReceipt",
        "Cluster",
        "FilePage",
        "NewKey",
        "Verification",
    }
