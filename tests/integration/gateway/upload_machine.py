"""The requests of the model that are about uploads by parts: begin, put, copy, list, complete, abort."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.units import MIB
from tests.integration.gateway.api_model import CONDITIONS, Stored, Tags, grouped
from tests.integration.gateway.file_machine import buckets, conditions, metadata, types
from tests.integration.gateway.object_machine import ObjectMachine, few_keys, tags, which

PART_BYTES_MIN = 5 * MIB
UPLOADS = 6
"""So many of the uploads that a life began are asked about, the latest."""

numbers = st.sampled_from([1, 1, 2, 3, 10_000])
part_bodies = st.sampled_from([b"x", b"0123456789", b"0123456789", b"other", b"z" * (MIB + 1), b"p" * PART_BYTES_MIN])
ranges = st.sampled_from([(0, None), (0, None), (0, 1), (2, 7), (1, MIB + 3), (3, 3), (10 * MIB, None)])
mistakes = st.sampled_from([None, None, None, "order", "etag", "number", "twice"])


@dataclass(frozen=True)
class Part:
    """One part of an upload."""

    etag: str
    body: bytes


@dataclass
class Upload:
    """An upload; `first` is the answer to its completion: what was asked for, status and receipt."""

    identity: str
    bucket: str
    key: str
    content_type: str
    metadata: Tags
    tags: Tags
    parts: dict[int, Part] = field(default_factory=dict)
    is_aborted: bool = False
    first: tuple[list[tuple[int, str]], int, Any] | None = None

    @property
    def is_open(self) -> bool:
        """It takes parts."""
        return not self.is_aborted and self.first is None


class UploadMachine(ObjectMachine):
    """Every rule is a step here, too."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__(client)
        self.uploads: list[Upload] = []

    def _has_open_uploads(self, bucket: str) -> bool:
        return any(upload.is_open and upload.bucket == bucket for upload in self.uploads)

    def _upload(self, place: int) -> Upload:
        latest = self.uploads[-UPLOADS:]
        return latest[place % len(latest)]

    @rule(bucket=buckets, key=few_keys, kind=types, meta=metadata, new_tags=tags)
    def begin_upload(self, bucket: str, key: str, kind: str | None, meta: Tags, new_tags: Tags) -> None:
        body = {"bucket": self.names[bucket], "key": key, "user_metadata": dict(meta), "tags": dict(new_tags)}
        answer = self.client.post("/v1/uploads", json=body | ({} if kind is None else {"content_type": kind}))
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            return
        self._expect(answer, 201)
        identity = answer.json()["upload_id"]
        kind = kind or "application/octet-stream"
        self.uploads.append(Upload(identity, bucket, key, kind, meta, new_tags))

    @precondition(lambda self: self.uploads)
    @rule(place=which, number=numbers, body=part_bodies)
    def put_part(self, place: int, number: int, body: bytes) -> None:
        upload = self._upload(place)
        answer = self.client.put(f"/v1/uploads/{upload.identity}/parts/{number}", content=body)
        if not upload.is_open:
            self._expect(answer, 404, "upload_not_found")
            return
        self._expect(answer, 200)
        upload.parts[number] = Part(answer.json()["etag"], body)

    @precondition(lambda self: self.uploads)
    @rule(
        place=which,
        number=numbers,
        origin=st.tuples(buckets, few_keys),
        version_place=st.none() | which,
        wanted=ranges,
    )
    def copy_part(
        self,
        place: int,
        number: int,
        origin: tuple[str, str],
        version_place: int | None,
        wanted: tuple[int, int | None],
    ) -> None:
        upload = self._upload(place)
        asked = None if version_place is None else self._number(*origin, version_place)
        version = self.model.current(*origin) if asked is None else self.model.find(*origin, asked)
        source = self._name(*origin) | ({} if asked is None else {"version": asked})
        start, stop = wanted
        body = {"source": source, "range_start": start, "range_end": stop}
        answer = self.client.post(f"/v1/uploads/{upload.identity}/parts/{number}/copy", json=body)
        if not upload.is_open:
            self._expect(answer, 404, "upload_not_found")
        elif origin[0] not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
        elif version is None or version.file is None:
            self._expect(answer, *self._no_source(asked, version))
        elif not self._is_satisfiable(len(version.file.body), start, stop):
            self._expect(answer, 416, "range_not_satisfiable")
        else:
            self._expect(answer, 200)
            taken = version.file.body[start:stop]
            assert answer.json()["size_bytes"] == len(taken)
            upload.parts[number] = Part(answer.json()["etag"], taken)

    @staticmethod
    def _is_satisfiable(size: int, start: int, stop: int | None) -> bool:
        stop = size if stop is None else stop
        return start < stop <= size or start == stop == size == 0

    @precondition(lambda self: self.uploads)
    @rule(place=which, limit=st.sampled_from([1, 2, 1000]))
    def list_parts(self, place: int, limit: int) -> None:
        upload, after, shown = self._upload(place), 0, []
        while True:
            parameters = {"limit": str(limit), "after": str(after)}
            answer = self.client.get(f"/v1/uploads/{upload.identity}", params=parameters)
            if not upload.is_open:
                self._expect(answer, 404, "upload_not_found")
                return
            self._expect(answer, 200)
            page = answer.json()
            shown += [(part["number"], part["etag"], part["size_bytes"]) for part in page["parts"]]
            if page["next_after"] is None:
                break
            after = page["next_after"]
        assert shown == [(number, part.etag, len(part.body)) for number, part in sorted(upload.parts.items())]
        assert (page["key"], page["content_type"]) == (upload.key, upload.content_type)

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(["", "", "dir", "dir/", "zzz"]),
        delimiter=st.sampled_from([None, None, "/"]),
        limit=st.sampled_from([1, 2, 1000]),
    )
    def list_uploads(self, bucket: str, prefix: str, delimiter: str | None, limit: int) -> None:
        found = [(one.key, one.identity) for one in self.uploads if one.is_open and one.bucket == bucket]
        rows = [row for _, row in grouped(found, prefix, delimiter, lambda name: name)]
        asked = {"bucket": self.names[bucket], "prefix": prefix, "limit": str(limit)}
        asked |= {} if delimiter is None else {"delimiter": delimiter}
        shown: list[str] = []
        while True:
            answer = self.client.get("/v1/uploads", params=asked)
            if bucket not in self.model.buckets:
                self._expect(answer, 404, "bucket_not_found")
                return
            self._expect(answer, 200)
            page = answer.json()
            found_now = [row["upload_id"] for row in page["uploads"]] + page["prefixes"]
            assert sorted(found_now) == sorted(rows[len(shown) : len(shown) + limit])
            shown += found_now
            if page["cursor"] is None:
                assert len(shown) == len(rows)
                return
            asked["cursor"] = page["cursor"]

    @precondition(lambda self: self.uploads)
    @rule(place=which, when=conditions, mistake=mistakes, without_last=st.booleans())
    def complete_upload(self, place: int, when: str, mistake: str | None, without_last: bool) -> None:
        upload = self._upload(place)
        chosen = [(number, part.etag) for number, part in sorted(upload.parts.items())]
        if without_last and len(chosen) > 1:
            chosen = chosen[:-1]
        asked = self._mistaken(chosen, mistake)
        headers = CONDITIONS[when].render(self.model.file(upload.bucket, upload.key))
        body = {"parts": [{"number": number, "etag": etag} for number, etag in asked]}
        answer = self.client.post(f"/v1/uploads/{upload.identity}/complete", json=body, headers=headers)
        if not asked:
            self._expect(answer, 400, "invalid_request")
        elif upload.is_aborted:
            self._expect(answer, 404, "upload_not_found")
        elif upload.first is not None:
            self._completed_again(answer, upload, asked)
        elif (refusal := self._refused_parts(upload, asked)) is not None:
            self._expect(answer, 400, refusal)
        elif not CONDITIONS[when].write(self.model.file(upload.bucket, upload.key) is not None):
            self._expect(answer, 412, "precondition_failed")
        else:
            self._completed(answer, upload, asked)

    @staticmethod
    def _mistaken(chosen: list[tuple[int, str]], mistake: str | None) -> list[tuple[int, str]]:
        if mistake == "order":
            return chosen[::-1]
        if mistake == "etag":
            return [(number, "0" * 64) for number, _ in chosen]
        if mistake == "number":
            return [(number + 5 if number < 5 else 9, etag) for number, etag in chosen]
        return chosen + chosen[-1:] if mistake == "twice" else chosen

    @staticmethod
    def _refused_parts(upload: Upload, asked: list[tuple[int, str]]) -> str | None:
        """Why these parts make no file; decided from the first to the last."""
        before, is_small = 0, False
        for number, etag in asked:
            if number <= before:
                return "invalid_part_order"
            if number not in upload.parts or upload.parts[number].etag != etag:
                return "invalid_part"
            if is_small:
                return "part_too_small"
            before, is_small = number, len(upload.parts[number].body) < PART_BYTES_MIN
        return None

    def _completed(self, answer: httpx.Response, upload: Upload, asked: list[tuple[int, str]]) -> None:
        self._expect(answer, 201 if self.model.file(upload.bucket, upload.key) is None else 200)
        receipt = answer.json()
        body = b"".join(upload.parts[number].body for number, _ in asked)
        assert (receipt["bucket"], receipt["key"]) == (self.names[upload.bucket], upload.key)
        assert (receipt["size_bytes"], receipt["digest"]) == (len(body), None)
        self._expect_version(answer, receipt["version"])
        file = Stored(body, upload.content_type, upload.metadata, receipt["etag"], receipt["content_id"])
        self.model.put(upload.bucket, upload.key, receipt["version"], file, upload.tags)
        upload.first = asked, answer.status_code, receipt

    def _completed_again(self, answer: httpx.Response, upload: Upload, asked: list[tuple[int, str]]) -> None:
        assert upload.first is not None
        first, status, receipt = upload.first
        if asked != first:
            self._expect(answer, 409, "upload_completed")
            return
        self._expect(answer, status)
        # The entry that answers now is another one; all that is said of the file is the same.
        assert answer.json() | {"log_index": 0, "term": 0} == receipt | {"log_index": 0, "term": 0}

    @precondition(lambda self: self.uploads)
    @rule(place=which)
    def abort_upload(self, place: int) -> None:
        upload = self._upload(place)
        answer = self.client.delete(f"/v1/uploads/{upload.identity}")
        if upload.first is not None:
            self._expect(answer, 409, "upload_completed")
        elif upload.is_aborted:
            self._expect(answer, 404, "upload_not_found")
        else:
            self._expect(answer, 204)
            upload.is_aborted = True
