"""Every answer about a file says in X-Trivet-Version which log index last changed its key, deletions included."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
import pytest

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Row:
    """A request, where it goes, and how it ends."""

    method: str
    place: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.place} {self.status} {' '.join(self.headers)}"


PRESENT = "a file"
NEVER = "a key that never was"
DELETED = "a deleted file"
NO_BUCKET = "a bucket that never was"
BUCKET_GONE = "a file that was deleted with its bucket"
RECREATED = "a key of a bucket that was deleted and made again"

ROWS = [
    Row("GET", PRESENT, 200),
    Row("GET", PRESENT, 206, {"range": "bytes=0-0"}),
    Row("GET", PRESENT, 206, {"range": "bytes=0-0,2-2"}),
    Row("GET", PRESENT, 304, {"if-none-match": "*"}),
    Row("GET", PRESENT, 304, {"if-modified-since": "Thu, 01 Jan 2099 00:00:00 GMT"}),
    Row("GET", PRESENT, 412, {"if-match": '"x"'}),
    Row("GET", PRESENT, 412, {"if-unmodified-since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
    Row("GET", PRESENT, 416, {"range": "bytes=99-"}),
    Row("HEAD", PRESENT, 200),
    Row("HEAD", PRESENT, 304, {"if-none-match": "*"}),
    Row("HEAD", PRESENT, 412, {"if-match": '"x"'}),
    Row("PUT", PRESENT, 412, {"if-none-match": "*"}),
    Row("PUT", PRESENT, 412, {"if-match": '"x"'}),
    Row("PUT", PRESENT, 412, {"if-unmodified-since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
    Row("DELETE", PRESENT, 412, {"if-match": '"x"'}),
    Row("DELETE", PRESENT, 412, {"if-unmodified-since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
    *[
        Row(method, place, 404)
        for method in ("GET", "HEAD", "DELETE")
        for place in (NEVER, DELETED, NO_BUCKET, BUCKET_GONE, RECREATED)
    ],
    *[Row("PUT", place, 404) for place in (NO_BUCKET, BUCKET_GONE)],
    *[Row("PUT", place, 412, {"if-match": "*"}) for place in (NEVER, DELETED, RECREATED)],
]


@pytest.fixture
def places(gateway: httpx.Client, bucket: str) -> dict[str, tuple[str, int]]:
    """Where each kind of key is, and the index that last changed it."""

    def deleted(url: str) -> int:
        gateway.put(url, content=b"xyz")
        return int(gateway.delete(url).headers["x-trivet-version"])

    def bucket_gone(name: str) -> tuple[str, int]:
        assert gateway.put(f"/v1/buckets/{name}").status_code == 201
        version = deleted(f"/v1/files/{name}/k")
        assert gateway.delete(f"/v1/buckets/{name}").status_code == 204
        return f"/v1/files/{name}/k", version

    base = f"/v1/files/{bucket}"
    found = {
        PRESENT: (f"{base}/present", gateway.put(f"{base}/present", content=b"xyz").json()["version"]),
        NEVER: (f"{base}/never", 0),
        DELETED: (f"{base}/deleted", deleted(f"{base}/deleted")),
        NO_BUCKET: (f"/v1/files/{bucket}-no/k", 0),
        BUCKET_GONE: bucket_gone(f"{bucket}-gone"),
        RECREATED: bucket_gone(f"{bucket}-again"),
    }
    assert gateway.put(f"/v1/buckets/{bucket}-again").status_code == 201
    return found


def test_every_answer_about_a_file_carries_its_version(gateway, places) -> None:
    """One table over every status that tells something about a file. Both gateways are asked every row."""
    for row in ROWS:
        url, version = places[row.place]
        for _ in range(2):
            content = b"new" if row.method == "PUT" else None
            answer = gateway.request(row.method, url, headers=row.headers, content=content)
            assert answer.status_code == row.status, (str(row), answer.text)
            assert answer.headers.get("x-trivet-version") == str(version), str(row)
            if row.status == 404 and row.place in {NEVER, DELETED, RECREATED} and row.method != "DELETE":
                assert int(answer.headers["x-trivet-horizon"]) >= 0


def test_changes_carry_the_version_that_they_made(gateway, bucket) -> None:
    """201, 200, a form, 204; each is later than the one before."""
    url = f"/v1/files/{bucket}/k"
    answers = [
        gateway.put(url, content=b"1"),
        gateway.put(url, content=b"2"),
        gateway.post(f"/v1/files/{bucket}", files={"file": ("k", b"3")}),
        gateway.delete(url),
        gateway.put(url, content=b"4"),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 204, 201]
    versions = [int(answer.headers["x-trivet-version"]) for answer in answers]
    assert versions == sorted(set(versions))
