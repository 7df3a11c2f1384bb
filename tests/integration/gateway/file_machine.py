"""The requests of the model: buckets, files and lists. `object_machine` adds versions, copies, tags and batches,
`upload_machine` uploads by parts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import quote

import httpx
from blake3 import blake3
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shared.units import MIB
from tests.integration.gateway.api_model import (
    CONDITIONS,
    RANGES,
    SAME_FOR_A_WRITE,
    Condition,
    Model,
    Row,
    Settings,
    Stored,
)

buckets = st.sampled_from(["a", "a", "a", "b"])
keys = st.sampled_from(["k", "dir/1", "dir/2", "dir/sub/3", "dir", "ä b", "a%2Fb", "what?", "😀"])
bodies = st.sampled_from([b"", b"x", b"0123456789", b"0123456789", b"other", b"z" * (MIB + 1)])
types = st.sampled_from([None, "text/plain", 'text/html; charset="x"', "no type at all"])
metadata = st.sampled_from([(), (), (("colour", "red"),), (("colour", "red, green"), ("empty", ""))])
conditions = st.sampled_from([*["none"] * 10, *CONDITIONS])
"""By name, which is what a failure shows."""

once = st.sampled_from([None, None, None, "once-1", "once-2"])

MALFORMED: list[tuple[str, str, dict[str, str]]] = [
    ("PUT", "k", {"if-match": "x"}),
    ("PUT", "k", {"if-none-match": ""}),
    ("PUT", "k", {"x-trivet-write-quorum": "0"}),
    ("PUT", "k", {"x-trivet-write-quorum": "4"}),
    ("PUT", "k", {"content-digest": "sha-256=:AAAA:"}),
    ("PUT", "k", {"idempotency-key": "a b"}),
    ("PUT", "k", {"content-range": "bytes 0-0/2"}),
    ("PUT", "k?x=1", {}),
    ("PUT", "%ff", {}),
    ("PUT", "a%00b", {}),
    ("PUT", "", {}),
    ("GET", "k", {"if-match": '"x'}),
    ("GET", "k", {"x-trivet-read-quorum": "two"}),
    ("GET", "k?versionId=1", {}),
    ("HEAD", "k", {"if-none-match": "x"}),
    ("DELETE", "k?x", {}),
    ("DELETE", "k", {"if-match": ""}),
]


class FileMachine(RuleBasedStateMachine):
    """One life of two buckets. Every rule is a step; every step is one request or the pages of one list."""

    steps = 0

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self.client = client
        self.model = Model()
        self.remembered: dict[object, tuple[object, int, object, str | None]] = {}
        self.lists: list[tuple[str, str, int, list[Row]]] = []  # bucket, cursor, limit, what is still to come

    @initialize()
    def begin(self) -> None:
        # Not drawn: a life that is lived again must not meet what it left behind.
        life = f"{random.SystemRandom().randrange(1 << 48):012x}"
        self.names = {"a": f"model-{life}-a", "b": f"model-{life}-b"}
        self.create_bucket("a")

    def _has_open_uploads(self, bucket: str) -> bool:
        return False

    def _url(self, bucket: str, key: str) -> str:
        return f"/v1/files/{self.names[bucket]}/{quote(key)}"

    def _expect(self, answer: httpx.Response, status: int, code: str | None = None) -> None:
        type(self).steps += 1
        assert answer.status_code == status, (answer.request.method, answer.request.headers, answer.text[:300])
        assert answer.headers["cache-control"] == "no-cache"
        if status >= 400 and answer.request.method != "HEAD":
            problem = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert (problem["status"], problem["definite"]) == (status, True)
            assert code is None or problem["code"] == code, problem

    def _expect_version(self, answer: httpx.Response, version: int) -> None:
        assert answer.headers["x-trivet-version"] == str(version), answer.request.method

    # --- buckets --------------------------------------------------------------------------------------------------

    @rule(bucket=buckets)
    def create_bucket(self, bucket: str) -> None:
        answer = self.client.put(f"/v1/buckets/{self.names[bucket]}")
        self._expect(answer, 200 if bucket in self.model.buckets else 201)
        assert answer.json()["created"] == (bucket not in self.model.buckets)
        self.model.buckets.setdefault(bucket, Settings())

    @rule(bucket=buckets)
    def delete_bucket(self, bucket: str) -> None:
        answer = self.client.delete(f"/v1/buckets/{self.names[bucket]}")
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
        elif not self.model.is_empty(bucket) or self._has_open_uploads(bucket):
            self._expect(answer, 409, "bucket_not_empty")
        else:
            self._expect(answer, 204)
            del self.model.buckets[bucket]

    # --- writes ---------------------------------------------------------------------------------------------------

    @rule(bucket=buckets, key=keys, body=bodies, kind=types, meta=metadata, when=conditions, again=once)
    def put(
        self, bucket: str, key: str, body: bytes, kind: str | None, meta: tuple, when: str, again: str | None
    ) -> None:
        condition, present = CONDITIONS[when], self.model.file(bucket, key)
        headers = condition.render(present) | {f"x-trivet-meta-{name}": value for name, value in meta}
        if kind is not None:
            headers["content-type"] = kind
        asked = (body, kind, meta, self._asked_of_a_write(when, present))

        def send(extra: dict[str, str]) -> httpx.Response:
            return self.client.put(self._url(bucket, key), content=body, headers=headers | extra)

        answer = self._once("PUT", bucket, key, again, asked, send)
        if answer is None:
            return
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            self._expect_version(answer, self.model.version_of(bucket, key))
        elif not condition.write(present is not None):
            self._expect(answer, 412, "precondition_failed")
            self._expect_version(answer, self.model.version_of(bucket, key))
        else:
            self._stored(answer, bucket, key, body, kind or "application/octet-stream", meta)
            self._remember("PUT", bucket, key, again, asked, answer)

    @rule(bucket=buckets, key=st.sampled_from(["k", "dir/1", "ä b"]), body=bodies)
    def post_form(self, bucket: str, key: str, body: bytes) -> None:
        form = {"file": (key, body, "text/plain")}
        answer = self.client.post(f"/v1/files/{self.names[bucket]}", files=form)
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            return
        self._stored(answer, bucket, key, body, "text/plain", ())
        assert answer.headers["location"] == self._url(bucket, key)

    def _stored(self, answer: httpx.Response, bucket: str, key: str, body: bytes, kind: str, meta: tuple) -> None:
        self._expect(answer, 201 if self.model.file(bucket, key) is None else 200)
        receipt = answer.json()
        assert (receipt["bucket"], receipt["key"]) == (self.names[bucket], key)
        assert (receipt["size_bytes"], receipt["digest"]) == (len(body), blake3(body).hexdigest())
        assert receipt["version"] == receipt["log_index"]
        assert answer.headers["etag"] == f'"{receipt["etag"]}"'
        self._expect_version(answer, receipt["version"])
        self.model.put(bucket, key, receipt["version"], Stored(body, kind, meta, receipt["etag"]))

    @rule(bucket=buckets, key=keys, when=conditions, again=once)
    def delete(self, bucket: str, key: str, when: str, again: str | None) -> None:
        condition, present = CONDITIONS[when], self.model.file(bucket, key)
        headers = condition.render(present)
        asked = self._asked_of_a_write(when, present)

        def send(extra: dict[str, str]) -> httpx.Response:
            return self.client.delete(self._url(bucket, key), headers=headers | extra)

        answer = self._once("DELETE", bucket, key, again, asked, send)
        if answer is None:
            return
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            self._expect_version(answer, self.model.version_of(bucket, key))
        elif present is None:
            self._expect(answer, 404, "file_not_found")
            self._expect_version(answer, self.model.version_of(bucket, key))
        elif not condition.write(True):
            self._expect(answer, 412, "precondition_failed")
            self._expect_version(answer, self.model.version_of(bucket, key))
        else:
            self._expect(answer, 204)
            self.model.delete(bucket, key, int(answer.headers["x-trivet-version"]))
        # What the log refused is remembered too.
        self._remember("DELETE", bucket, key, again, asked, answer)

    def _asked_of_a_write(self, when: str, present: Stored | None) -> tuple[tuple[str, str], ...]:
        """What makes it another request under the same Idempotency-Key."""
        return tuple(CONDITIONS[SAME_FOR_A_WRITE.get(when, when)].render(present).items())

    def _once(
        self,
        method: str,
        bucket: str,
        key: str,
        again: str | None,
        asked: object,
        send: Callable[[dict[str, str]], httpx.Response],
    ) -> httpx.Response | None:
        """The answer; None when it was that of an earlier request under the same Idempotency-Key, and right as such."""
        answer = send({} if again is None else {"idempotency-key": again})
        known = self.remembered.get((method, bucket, key, again))
        if known is None:
            return answer
        first_asked, status, content, version = known
        if first_asked != asked and bucket not in self.model.buckets and answer.status_code == 404:
            self._expect(answer, 404, "bucket_not_found")  # refused before anybody looks into the log
        elif first_asked != asked:
            self._expect(answer, 422, "idempotency_key_reused")
        else:
            self._expect(answer, status)
            assert answer.headers.get("x-trivet-version") == version
            assert (answer.content and answer.json()) == content
        return None

    def _remember(
        self, method: str, bucket: str, key: str, again: str | None, asked: object, answer: httpx.Response
    ) -> None:
        if again is not None:
            content = answer.content and answer.json()
            version = answer.headers.get("x-trivet-version")
            self.remembered[method, bucket, key, again] = (asked, answer.status_code, content, version)

    @rule(request=st.sampled_from(MALFORMED))
    def malformed(self, request: tuple[str, str, dict[str, str]]) -> None:
        method, target, headers = request
        content = b"x" if method == "PUT" else None
        url = f"/v1/files/{self.names['a']}/{target}"
        self._expect(self.client.request(method, url, headers=headers, content=content), 400)

    @rule(bucket=buckets, key=keys, body=bodies)
    def put_with_a_wrong_digest(self, bucket: str, key: str, body: bytes) -> None:
        headers = {"content-md5": "AAAAAAAAAAAAAAAAAAAAAA=="}
        answer = self.client.put(self._url(bucket, key), content=body, headers=headers)
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
        else:
            self._expect(answer, 400, "digest_mismatch")

    # --- reads ----------------------------------------------------------------------------------------------------

    @rule(bucket=buckets, key=keys, when=conditions, wanted=st.none() | st.sampled_from([*RANGES]))
    def get(self, bucket: str, key: str, when: str, wanted: str | None) -> None:
        self._read("GET", bucket, key, CONDITIONS[when], wanted)

    @rule(bucket=buckets, key=keys, when=conditions)
    def head(self, bucket: str, key: str, when: str) -> None:
        self._read("HEAD", bucket, key, CONDITIONS[when], None)

    def _read(self, method: str, bucket: str, key: str, condition: Condition, wanted: str | None) -> None:
        file = self.model.file(bucket, key)
        headers = condition.render(file) | ({} if wanted is None else {"range": wanted})
        answer = self.client.request(method, self._url(bucket, key), headers=headers)
        self._expect_version(answer, self.model.version_of(bucket, key))
        if file is None:
            self._expect(answer, 404, "file_not_found" if bucket in self.model.buckets else "bucket_not_found")
            is_marker = bucket in self.model.buckets and self.model.current(bucket, key) is not None
            assert answer.headers.get("x-trivet-delete-marker") == ("true" if is_marker else None)
            return
        if condition.read != 200:
            self._expect(answer, condition.read)
            assert not answer.content or condition.read == 412
            return
        self._shown(answer, method, file, wanted)

    def _shown(self, answer: httpx.Response, method: str, file: Stored, wanted: str | None) -> None:
        """The answer to an unconditional read of `file`."""
        size = len(file.body)
        span = (0, size) if wanted is None else RANGES[wanted](size)
        if span is None:
            self._expect(answer, 416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{size}"
            return
        self._expect(answer, 200 if wanted is None else 206)
        assert answer.content == (file.body[slice(*span)] if method == "GET" else b"")
        assert answer.headers["content-length"] == str(span[1] - span[0])
        assert answer.headers["etag"] == f'"{file.etag}"'
        assert answer.headers["content-type"] == file.content_type
        digest = None if file.content_id else blake3(file.body).hexdigest()
        assert answer.headers.get("x-trivet-digest") == digest
        prefix = "x-trivet-meta-"
        found = {name[len(prefix) :]: value for name, value in answer.headers.items() if name.startswith(prefix)}
        assert found == dict(file.metadata)

    # --- lists ----------------------------------------------------------------------------------------------------

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(["", "", "dir", "dir/", "ä", "zzz"]),
        delimiter=st.sampled_from([None, "/", "/", "i", "/s"]),
        limit=st.sampled_from([1, 2, 3, 1000]),
    )
    def begin_list(self, bucket: str, prefix: str, delimiter: str | None, limit: int) -> None:
        parameters = {"prefix": prefix, "limit": str(limit)} | ({"delimiter": delimiter} if delimiter else {})
        answer = self.client.get(f"/v1/files/{self.names[bucket]}", params=parameters)
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            return
        self._page(answer, bucket, limit, self.model.rows(bucket, prefix, delimiter))

    @precondition(lambda self: self.lists)
    @rule(which=st.integers(0, 99))
    def go_on_with_a_list(self, which: int) -> None:
        """Shows what was there when it began, whatever happened since."""
        bucket, cursor, limit, rows = self.lists.pop(which % len(self.lists))
        parameters = {"cursor": cursor, "limit": str(limit)}
        self._page(self.client.get(f"/v1/files/{self.names[bucket]}", params=parameters), bucket, limit, rows)

    def _page(self, answer: httpx.Response, bucket: str, limit: int, rows: list[Row]) -> None:
        self._expect(answer, 200)
        page = answer.json()
        shown = [Row(file["key"], file["version"], file["etag"]) for file in page["files"]]
        assert shown == [row for row in rows[:limit] if row.version is not None]
        assert page["prefixes"] == [row.name for row in rows[:limit] if row.version is None]
        assert (page["cursor"] is None) == (len(rows) <= limit)
        if page["cursor"] is not None:
            self.lists.append((bucket, page["cursor"], limit, rows[limit:]))
