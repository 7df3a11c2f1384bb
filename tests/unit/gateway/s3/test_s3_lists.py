"""Rules of S3's lists that a model of names does not tell: parameters, tokens, markers, and who sees what."""

from __future__ import annotations

import re

import pytest

from shared.contracts.access import Action
from shared.contracts.metadata import ListFiles
from shared.contracts.objects import BucketSettings, ListVersions, PutBucketSettings
from shared.errors import CursorExpiredError
from tests.unit.gateway.access.scene import Running, Scene, may
from tests.unit.gateway.s3.asking import Answer, S3Client

BUCKET = "photos"
KEYS = ["a", "b/1", "b/2", "c"]


@pytest.fixture
async def bucket(s3: S3Client) -> str:
    await s3("PUT", BUCKET)
    for key in KEYS:
        await s3("PUT", BUCKET, key, body=key.encode())
    return BUCKET


async def listed(s3: S3Client, **values: str) -> Answer:
    """The second form."""
    query = {"list-type": "2", **{name.replace("_", "-"): value for name, value in values.items()}}
    return await s3("GET", BUCKET, query=query)


def keys_of(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return answer.texts("Contents/Key")


async def test_a_row_says_what_head_says(s3: S3Client, bucket: str) -> None:
    """Size, ETag, class; and when it was stored, in milliseconds."""
    await s3("PUT", bucket, "d", body=b"four", headers={"x-amz-storage-class": "STANDARD_IA"})
    answer, head = await listed(s3, prefix="d"), await s3("HEAD", bucket, "d")
    row = answer.xml.find("Contents")
    assert (row.findtext("Size"), row.findtext("StorageClass")) == ("4", "STANDARD_IA")
    assert row.findtext("ETag") == head.headers["etag"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.findtext("LastModified"))
    assert row.find("Owner") is None
    with_owner = await listed(s3, prefix="d", fetch_owner="true")
    first_form = await s3("GET", bucket, query={"prefix": "d"})
    assert with_owner.text("Contents/Owner/ID") == first_form.text("Contents/Owner/ID") != ""
    assert answer.headers["content-type"] == "application/xml"


@pytest.mark.parametrize("form", [{}, {"list-type": "2"}, {"versions": ""}])
async def test_a_page_is_as_long_as_it_may_be(s3: S3Client, bucket: str, form: dict[str, str]) -> None:
    """A thousand at most; none at all is a whole list, but only of a bucket that is there."""
    for asked, said in (("1", "1"), ("5000", "1000"), ("2147483647", "1000")):
        assert (await s3("GET", bucket, query={**form, "max-keys": asked})).text("MaxKeys") == said
    none = await s3("GET", bucket, query={**form, "max-keys": "0"})
    assert (none.status, none.text("IsTruncated"), none.text("MaxKeys")) == (200, "false", "0")
    assert not {each.tag for each in none.xml} & {
        "Contents",
        "Version",
        "NextMarker",
        "NextContinuationToken",
        "NextKeyMarker",
    }
    assert (await s3("GET", "missing", query={**form, "max-keys": "0"})).code == "NoSuchBucket"
    for wrong in ("-1", "x", "1.5", "2147483648", "\u0661"):
        answer = await s3("GET", bucket, query={**form, "max-keys": wrong})
        assert (answer.status, answer.code) == (400, "InvalidArgument"), wrong
    answer = await s3("GET", bucket, query={**form, "encoding-type": "base64"})
    assert (answer.status, answer.code) == (400, "InvalidArgument")


async def test_what_was_asked_for_is_repeated(s3: S3Client, bucket: str) -> None:
    """As it came, or as a URL has it."""
    asked = {"prefix": "b/ ü", "delimiter": "+", "start_after": "b/\x01"}
    plain, encoded = await listed(s3, **{**asked, "start_after": "b/"}), await listed(s3, **asked, encoding_type="url")
    assert (plain.text("Prefix"), plain.text("Delimiter"), plain.text("StartAfter")) == ("b/ ü", "+", "b/")
    assert (encoded.text("Prefix"), encoded.text("Delimiter")) == ("b/%20%C3%BC", "%2B")
    assert (encoded.text("StartAfter"), encoded.text("EncodingType")) == ("b/%01", "url")
    empty = await s3("GET", bucket, query={"prefix": "", "delimiter": "", "marker": ""})
    assert keys_of(empty) == KEYS
    assert empty.text("Delimiter") is None


async def test_what_xml_does_not_know_is_sent_by_its_number(s3: S3Client, bucket: str) -> None:
    """Where no encoding was asked for; and with one as a URL has it."""
    await s3("PUT", bucket, "d\x01\x1f&<", body=b"")
    assert b"<Key>d&#x1;&#x1f;&amp;&lt;</Key>" in (await listed(s3, prefix="d")).body
    assert keys_of(await listed(s3, prefix="d", encoding_type="url")) == ["d%01%1F%26%3C"]


async def test_a_token_goes_on_in_the_list_as_it_was(s3: S3Client, bucket: str) -> None:
    """Whatever is put and deleted meanwhile; it wins over `start-after`, and an empty one is none."""
    first = await listed(s3, max_keys="1", continuation_token="")
    assert (keys_of(first), first.text("ContinuationToken")) == (["a"], "")
    token = first.text("NextContinuationToken") or ""
    await s3("PUT", bucket, "aa", body=b"")
    await s3("DELETE", bucket, "b/1")
    rest = await listed(s3, continuation_token=token, start_after="c")
    assert (keys_of(rest), rest.text("ContinuationToken"), rest.text("KeyCount")) == (KEYS[1:], token, "3")
    assert rest.text("NextContinuationToken") is None


async def test_an_old_token_goes_on_at_the_present(scene: Scene, s3: S3Client, bucket: str, monkeypatch) -> None:
    """S3 has no answer for one that is too old."""
    token = (await listed(s3, max_keys="1")).text("NextContinuationToken") or ""
    await s3("PUT", bucket, "aa", body=b"")
    read = scene.metadata.read

    async def without_history(query, **options):
        if getattr(query, "at_index", None) not in {None, scene.metadata.store.last_applied}:
            raise CursorExpiredError("too old")
        return await read(query, **options)

    monkeypatch.setattr(scene.metadata, "read", without_history)
    assert keys_of(await listed(s3, continuation_token=token)) == ["aa", *KEYS[1:]]


async def test_a_token_is_good_for_one_list_and_one_principal(
    scene: Scene, here: Running, s3: S3Client, bucket: str
) -> None:
    """Everywhere else it is 400."""
    await s3("PUT", "others")
    token = (await listed(s3, max_keys="1", prefix="", delimiter="/")).text("NextContinuationToken") or ""
    somebody = S3Client(here.s3, await scene.holder(may("*", Action.LIST)))
    answers = [
        await listed(s3, continuation_token=token, delimiter="/", prefix="b"),
        await listed(s3, continuation_token=token),
        await listed(s3, continuation_token=token[:-2] + "AA", delimiter="/"),
        await listed(s3, continuation_token="\xe4", delimiter="/"),
        await s3("GET", "others", query={"list-type": "2", "continuation-token": token, "delimiter": "/"}),
        await listed(somebody, continuation_token=token, delimiter="/"),
    ]
    assert [(answer.status, answer.code) for answer in answers] == [(400, "InvalidArgument")] * len(answers)
    assert keys_of(await listed(s3, continuation_token=token, delimiter="/")) == ["c"]


async def test_a_marker_of_the_first_form_is_there_only_with_a_delimiter(s3: S3Client, bucket: str) -> None:
    """Without one clients take the last key."""
    plain = await s3("GET", bucket, query={"max-keys": "2"})
    assert (plain.text("IsTruncated"), plain.text("NextMarker")) == ("true", None)
    folded = await s3("GET", bucket, query={"max-keys": "2", "delimiter": "/"})
    assert (folded.texts("CommonPrefixes/Prefix"), folded.text("NextMarker")) == (["b/"], "b/")
    rest = await s3("GET", bucket, query={"delimiter": "/", "marker": "b/"})
    assert (keys_of(rest), rest.texts("CommonPrefixes/Prefix"), rest.text("Marker")) == (["c"], [], "b/")


@pytest.mark.parametrize("form", [{}, {"list-type": "2"}, {"versions": ""}])
async def test_a_page_that_the_log_ends_early_is_filled(
    scene: Scene, s3: S3Client, bucket: str, monkeypatch, form: dict[str, str]
) -> None:
    """Some clients take a short page for the last one. The page is of one index of the log."""
    read = scene.metadata.read
    asked: list[ListFiles | ListVersions] = []

    async def one_at_a_time(query, **options):
        if isinstance(query, ListFiles | ListVersions):
            asked.append(query)
            query = query.model_copy(update={"limit": 1})
        return await read(query, **options)

    monkeypatch.setattr(scene.metadata, "read", one_at_a_time)
    first = await s3("GET", bucket, query={**form, "max-keys": "3"})
    kind = "Version/Key" if "versions" in form else "Contents/Key"
    assert (first.texts(kind), first.text("IsTruncated")) == (KEYS[:3], "true")
    assert [query.limit for query in asked] == [3, 2, 1]
    assert len({query.at_index for query in asked[1:] if isinstance(query, ListFiles)}) <= 1


async def test_a_folder_is_what_somebody_has_put(s3: S3Client, bucket: str) -> None:
    """A key that ends with a slash is a key like any other, and none is invented."""
    await s3("PUT", bucket, "d/", body=b"")
    await s3("PUT", bucket, "d/1", body=b"")
    below = await listed(s3, prefix="d/", delimiter="/")
    assert (keys_of(below), below.texts("CommonPrefixes/Prefix")) == (["d/", "d/1"], [])
    top = await listed(s3, delimiter="/")
    assert (keys_of(top), top.texts("CommonPrefixes/Prefix")) == (["a", "c"], ["b/", "d/"])


# --- versions -------------------------------------------------------------------------------------------------------


async def test_versions_go_on_behind_the_one_that_is_named(scene: Scene, s3: S3Client, bucket: str) -> None:
    """By the id that its row shows, `null` too; one without a key is refused."""
    settings = BucketSettings(versioning="enabled")
    await scene.metadata.propose(PutBucketSettings(bucket=bucket, settings=settings, stamp=scene.clock.stamp()))
    await s3("PUT", bucket, "a", body=b"newer")
    await s3("DELETE", bucket, "a")

    async def versions(**values: str) -> Answer:
        query = {"versions": "", "prefix": "a", **{name.replace("_", "-"): value for name, value in values.items()}}
        return await s3("GET", bucket, query=query)

    whole = await versions()
    ids = [each.findtext("VersionId") for each in whole.xml if each.tag in {"Version", "DeleteMarker"}]
    assert [each.tag for each in whole.xml if each.tag in {"Version", "DeleteMarker"}] == [
        "DeleteMarker",
        "Version",
        "Version",
    ]
    assert (len(set(ids)), ids[2]) == (3, "null")
    assert whole.texts("DeleteMarker/IsLatest") + whole.texts("Version/IsLatest") == ["true", "false", "false"]
    for at, version_id in enumerate(ids):
        rest = await versions(key_marker="a", version_id_marker=version_id)
        assert [*rest.texts("DeleteMarker/VersionId"), *rest.texts("Version/VersionId")] == ids[at + 1 :]
    for wrong in ({"version_id_marker": ids[0]}, {"key_marker": "a", "version_id_marker": "x"}):
        answer = await versions(**wrong)
        assert (answer.status, answer.code) == (400, "InvalidArgument")


async def test_a_plain_bucket_has_null_versions(s3: S3Client, bucket: str) -> None:
    """One of each key, the latest."""
    answer = await s3("GET", bucket, query={"versions": ""})
    assert answer.texts("Version/Key") == KEYS
    assert set(answer.texts("Version/VersionId")) == {"null"}
    assert set(answer.texts("Version/IsLatest")) == {"true"}


# --- who sees what --------------------------------------------------------------------------------------------------


async def test_a_list_shows_what_its_caller_may_list(scene: Scene, here: Running, s3: S3Client, bucket: str) -> None:
    """As if nothing else were there, in pages of one row too; below what is not allowed it is refused."""
    somebody = S3Client(here.s3, await scene.holder(may(bucket, Action.LIST, prefix="b/"), may("others", Action.LIST)))
    found: list[str] = []
    marker = ""
    while True:
        page = await somebody("GET", bucket, query={"max-keys": "1", "marker": marker})
        found += keys_of(page)
        if page.text("IsTruncated") == "false":
            break
        marker = found[-1]
    assert found == ["b/1", "b/2"]
    folded = await listed(somebody, delimiter="/")
    assert (keys_of(folded), folded.texts("CommonPrefixes/Prefix"), folded.text("KeyCount")) == ([], ["b/"], "1")
    for query in ({"prefix": "a"}, {"prefix": "a", "list-type": "2"}, {"prefix": "a", "versions": ""}):
        answer = await somebody("GET", bucket, query=query)
        assert (answer.status, answer.code) == (403, "AccessDenied")
