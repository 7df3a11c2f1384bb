"""The requests of the model that are about versions: settings, reads and deletions by version, copies, tags and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.integration.gateway.api_model import CONDITIONS, RANGES, Settings, Stored, Tags, Version, VersionRow
from tests.integration.gateway.file_machine import FileMachine, buckets, conditions, keys, metadata, once, types

NEVER = 1
"""The index of no version: the entry that made the cluster."""

which = st.integers(0, 9)
"""Which version of a key, by its place in the history; one place too far is a version that never was."""

few_keys = st.sampled_from(["k", "k", "dir/1", "ä b"])
tags = st.sampled_from([(), (("stage", "draft"),), (("stage", "final"), ("ä", ""), ("n" * 128, "v" * 256))])
bad_tags = st.sampled_from(
    [{"n" * 129: ""}, {"": ""}, {"n": "v" * 257}, {str(number): "" for number in range(11)}, {"a\n": ""}]
)
settings_of_buckets = st.sampled_from(
    [("enabled", None), ("enabled", None), ("suspended", None), ("off", None), ("enabled", 0), ("suspended", 0)]
)

MALFORMED_BODIES: list[tuple[str, object]] = [
    ("copy", {}),
    ("copy", {"source": {"bucket": "default", "key": "k"}}),
    ("copy", {"source": {"bucket": "default", "key": "k"}, "target": {"bucket": "default", "key": "k\0"}}),
    ("copy", {"source": {"bucket": "default", "key": "k"}, "target": {"bucket": "default", "key": "x"}, "ttl": 1}),
    ("copy", {"source": {"bucket": "default", "key": "k", "version": 0}, "target": {"bucket": "default", "key": "x"}}),
    (
        "copy",
        {"source": {"bucket": "default", "key": "k", "version": "1"}, "target": {"bucket": "default", "key": "x"}},
    ),
    (
        "rename",
        {"source": {"bucket": "default", "key": "k", "version": 1}, "target": {"bucket": "default", "key": "x"}},
    ),
    ("restore", {"bucket": "default", "key": "k"}),
    ("restore", {"bucket": "Default", "key": "k", "version": 1}),
    ("batch-delete", {"bucket": "default", "files": []}),
    ("batch-delete", {"bucket": "default", "files": [{"key": "k"}] * 1001}),
    ("batch-delete", {"bucket": "default", "files": [{"key": ""}]}),
    ("batch-delete", [1]),
]


class ObjectMachine(FileMachine):
    """Every rule is a step here, too."""

    # --- settings -------------------------------------------------------------------------------------------------

    @rule(bucket=buckets, wanted=settings_of_buckets)
    def put_settings(self, bucket: str, wanted: tuple[str, int | None]) -> None:
        settings = Settings(*wanted)
        now = self.model.buckets.get(bucket)
        if now is not None and self._would_expire(bucket, settings):
            return  # when they go is not for a model without a clock to say
        body = {"versioning": settings.versioning, "superseded_retention_s": settings.retention_s}
        answer = self.client.put(f"/v1/buckets/{self.names[bucket]}/settings", json=body)
        if now is None:
            self._expect(answer, 404, "bucket_not_found")
        elif settings.versioning == "off" != now.versioning:
            self._expect(answer, 409, "versioning_cannot_be_off")
        else:
            self._expect(answer, 200)
            self.model.set(bucket, settings)

    def _would_expire(self, bucket: str, settings: Settings) -> bool:
        histories = [history for (name, _), history in self.model.versions.items() if name == bucket]
        return settings.retention_s == 0 and any(len(history) > 1 for history in histories)

    @rule(bucket=buckets)
    def get_settings(self, bucket: str) -> None:
        answer = self.client.get(f"/v1/buckets/{self.names[bucket]}/settings")
        if (settings := self.model.buckets.get(bucket)) is None:
            self._expect(answer, 404, "bucket_not_found")
            return
        self._expect(answer, 200)
        found = answer.json()
        assert (found["versioning"], found["superseded_retention_s"]) == (settings.versioning, settings.retention_s)

    # --- one version ----------------------------------------------------------------------------------------------

    def _number(self, bucket: str, key: str, place: int) -> int:
        """A number of the key's history, by both of which a version may be asked for, or one of no version."""
        numbers = [number for each in self.model.history(bucket, key) for number in (each.number, each.index)]
        return numbers[place] if place < len(numbers) else NEVER

    def _missing(self, answer: httpx.Response, bucket: str, key: str) -> None:
        """The answer about a version that is not there."""
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
        else:
            self._expect(answer, 404, "version_not_found")
            self._expect_version(answer, self.model.version_of(bucket, key))

    @rule(bucket=buckets, key=few_keys, place=which, wanted=st.none() | st.sampled_from([*RANGES]))
    def get_version(self, bucket: str, key: str, place: int, wanted: str | None) -> None:
        self._read_version("GET", bucket, key, place, wanted)

    @rule(bucket=buckets, key=few_keys, place=which)
    def head_version(self, bucket: str, key: str, place: int) -> None:
        self._read_version("HEAD", bucket, key, place, None)

    def _read_version(self, method: str, bucket: str, key: str, place: int, wanted: str | None) -> None:
        number = self._number(bucket, key, place)
        version = self.model.find(bucket, key, number)
        headers = {} if wanted is None else {"range": wanted}
        url = self._url(bucket, key)
        answer = self.client.request(method, url, params={"version": number}, headers=headers)
        if version is None:
            self._missing(answer, bucket, key)
        elif version.file is None:
            self._expect(answer, 405)
            assert answer.headers["x-trivet-delete-marker"] == "true"
        else:
            self._shown(answer, method, version.file, wanted)

    @rule(bucket=buckets, key=few_keys, place=which)
    def delete_version(self, bucket: str, key: str, place: int) -> None:
        number = self._number(bucket, key, place)
        version = self.model.find(bucket, key, number)
        answer = self.client.delete(self._url(bucket, key), params={"version": number})
        if version is None:
            self._missing(answer, bucket, key)
            return
        self._expect(answer, 204)
        self._removed(bucket, key, version, int(answer.headers["x-trivet-version"]))

    def _removed(self, bucket: str, key: str, version: Version, index: int) -> None:
        """A version was removed for good; `index` is what the answer says changed the key last."""
        if self.model.current(bucket, key) == version:
            assert index > self.model.highest
            self.model.highest = index
        else:
            assert index == self.model.version_of(bucket, key)
        self.model.remove(bucket, key, [version], index)

    # --- lists of versions ----------------------------------------------------------------------------------------

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(["", "", "dir", "dir/", "zzz"]),
        delimiter=st.sampled_from([None, None, "/", "i"]),
        only=st.none() | keys,
        limit=st.sampled_from([1, 2, 3, 1000]),
    )
    def list_versions(self, bucket: str, prefix: str, delimiter: str | None, only: str | None, limit: int) -> None:
        if only is not None:
            prefix, delimiter = "", None
        asked = {"prefix": prefix, "delimiter": delimiter} if only is None else {"key": only}
        parameters = {name: value for name, value in asked.items() if value}
        rows = self.model.version_rows(bucket, prefix, delimiter, only)
        cursor: dict[str, str] = {}
        while True:
            url = f"/v1/versions/{self.names[bucket]}"
            answer = self.client.get(url, params=parameters | cursor | {"limit": str(limit)})
            if bucket not in self.model.buckets:
                self._expect(answer, 404, "bucket_not_found")
                return
            self._expect(answer, 200)
            page, rows = answer.json(), self._page_of_versions(answer.json(), rows, limit)
            if page["cursor"] is None:
                assert not rows
                return
            cursor = {"cursor": page["cursor"]}

    def _page_of_versions(
        self, page: dict[str, Any], rows: list[VersionRow | str], limit: int
    ) -> list[VersionRow | str]:
        """The rows that are still to come."""
        shown = [
            VersionRow(
                row["key"], row["version"], row["log_index"], row["is_current"], row["is_marker"], row["is_null"]
            )
            for row in page["versions"]
        ]
        expected = rows[:limit]
        assert shown == [row for row in expected if isinstance(row, VersionRow)]
        assert page["prefixes"] == [row for row in expected if isinstance(row, str)]
        assert (page["cursor"] is None) == (len(rows) <= limit)
        return rows[limit:]

    # --- copies ---------------------------------------------------------------------------------------------------

    def _change(
        self, call: str, bucket: str, key: str, again: str | None, body: Mapping[str, object], when: str
    ) -> httpx.Response | None:
        """The answer to a call with names in JSON, about a target; None for the right repeat of an earlier one."""
        present = self.model.file(bucket, key)
        asked, headers = (repr(body), self._asked_of_a_write(when, present)), CONDITIONS[when].render(present)

        def send(extra: dict[str, str]) -> httpx.Response:
            return self.client.post(f"/v1/{call}", json=body, headers=headers | extra)

        answer = self._once(call, bucket, key, again, asked, send)
        if answer is not None:
            self._remember(call, bucket, key, again, asked, answer)
        return answer

    def _name(self, bucket: str, key: str) -> dict[str, object]:
        return {"bucket": self.names[bucket], "key": key}

    @rule(
        origin=st.tuples(buckets, few_keys),
        goal=st.tuples(buckets, few_keys),
        place=st.none() | which,
        has_etag=st.sampled_from([None, None, None, True, False]),
        kind=types,
        meta=st.none() | metadata,
        new_tags=st.none() | tags,
        when=conditions,
        again=once,
    )
    def copy(
        self,
        origin: tuple[str, str],
        goal: tuple[str, str],
        place: int | None,
        has_etag: bool | None,
        kind: str | None,
        meta: Tags | None,
        new_tags: Tags | None,
        when: str,
        again: str | None,
    ) -> None:
        number = None if place is None else self._number(*origin, place)
        version = self.model.current(*origin) if number is None else self.model.find(*origin, number)
        asked_source = self._name(*origin) | ({} if number is None else {"version": number})
        if has_etag is not None:
            file = None if version is None else version.file
            asked_source["etag"] = file.etag if has_etag and file is not None else "another"
        description: dict[str, object] = {} if kind is None else {"content_type": kind}
        description |= {} if meta is None else {"user_metadata": dict(meta)}
        description |= {} if new_tags is None else {"tags": dict(new_tags)}
        body = {"source": asked_source, "target": self._name(*goal)} | description
        answer = self._change("copy", *goal, again, body, when)
        if answer is None:
            return
        refusal = self._refusal(origin, goal, number, version, asked_source, when, is_same=not description)
        if refusal is not None:
            self._expect(answer, *refusal)
            return
        assert version is not None
        assert version.file is not None
        is_created = self.model.file(*goal) is None
        self._copied(
            answer,
            goal,
            version,
            is_created=is_created,
            kind=kind or version.file.content_type,
            meta=version.file.metadata if meta is None else meta,
            new_tags=version.tags if new_tags is None else new_tags,
        )

    def _refusal(
        self,
        origin: tuple[str, str],
        goal: tuple[str, str],
        number: int | None,
        version: Version | None,
        asked_source: Mapping[str, object],
        when: str,
        *,
        is_same: bool,
    ) -> tuple[int, str] | None:
        """Status and code of a copy that is refused, in the order in which the log decides."""
        if origin[0] not in self.model.buckets or goal[0] not in self.model.buckets:
            return 404, "bucket_not_found"
        if version is None or version.file is None:
            return self._no_source(number, version)
        if origin == goal and is_same and version == self.model.current(*origin):
            return 400, "copy_onto_itself"
        if asked_source.get("etag", version.file.etag) != version.file.etag:
            return 412, "precondition_failed"
        if not CONDITIONS[when].write(self.model.file(*goal) is not None):
            return 412, "precondition_failed"
        return None

    def _no_source(self, number: int | None, version: Version | None) -> tuple[int, str]:
        """Status and code of what is said of a version that is not there, or is a marker."""
        if number is None:
            return 404, "file_not_found"
        return (404, "version_not_found") if version is None else (400, "source_is_marker")

    def _copied(
        self,
        answer: httpx.Response,
        goal: tuple[str, str],
        version: Version,
        *,
        is_created: bool,
        kind: str,
        meta: Tags,
        new_tags: Tags,
    ) -> dict[str, Any]:
        self._expect(answer, 201 if is_created else 200)
        receipt: dict[str, Any] = answer.json()
        assert (receipt["bucket"], receipt["key"]) == (self.names[goal[0]], goal[1])
        assert receipt["source_version"] == version.number
        assert answer.headers["etag"] == f'"{receipt["etag"]}"'
        assert version.file is not None
        assert receipt["size_bytes"] == len(version.file.body)
        self._expect_version(answer, receipt["version"])
        file = Stored(version.file.body, kind, meta, receipt["etag"], version.file.content_id)
        self.model.put(*goal, receipt["version"], file, new_tags)
        return receipt

    @rule(
        origin=st.tuples(buckets, few_keys),
        goal=st.tuples(buckets, few_keys),
        when=conditions,
        again=once,
    )
    def rename(self, origin: tuple[str, str], goal: tuple[str, str], when: str, again: str | None) -> None:
        version = self.model.current(*origin)
        body = {"source": self._name(*origin), "target": self._name(*goal)}
        answer = self._change("rename", *goal, again, body, when)
        if answer is None:
            return
        refusal = self._refusal(origin, goal, None, version, {}, when, is_same=True)
        if refusal is not None:
            self._expect(answer, *refusal)
            return
        assert version is not None
        file = version.file
        assert file is not None
        receipt = self._copied(
            answer,
            goal,
            version,
            is_created=self.model.file(*goal) is None,
            kind=file.content_type,
            meta=file.metadata,
            new_tags=version.tags,
        )
        self.model.delete_at(*origin, receipt["version"])

    @rule(bucket=buckets, key=few_keys, place=which, when=conditions, again=once)
    def restore(self, bucket: str, key: str, place: int, when: str, again: str | None) -> None:
        number = self._number(bucket, key, place)
        version = self.model.find(bucket, key, number)
        answer = self._change("restore", bucket, key, again, self._name(bucket, key) | {"version": number}, when)
        if answer is None:
            return
        name = (bucket, key)
        refusal = self._refusal(name, name, number, version, {}, when, is_same=True)
        if refusal is not None:
            self._expect(answer, *refusal)
            return
        assert version is not None
        file = version.file
        assert file is not None
        is_created = self.model.file(bucket, key) is None
        self._copied(
            answer,
            name,
            version,
            is_created=is_created,
            kind=file.content_type,
            meta=file.metadata,
            new_tags=version.tags,
        )

    # --- tags -----------------------------------------------------------------------------------------------------

    def _tags_url(self, bucket: str, key: str) -> str:
        return self._url(bucket, key).replace("/v1/files/", "/v1/tags/")

    @rule(bucket=buckets, key=few_keys, place=st.none() | which, new_tags=st.none() | tags)
    def set_tags(self, bucket: str, key: str, place: int | None, new_tags: Tags | None) -> None:
        number = None if place is None else self._number(bucket, key, place)
        parameters = {} if number is None else {"version": number}
        if new_tags is None:
            answer = self.client.delete(self._tags_url(bucket, key), params=parameters)
        else:
            answer = self.client.put(self._tags_url(bucket, key), params=parameters, json={"tags": dict(new_tags)})
        version = self._tagged(answer, bucket, key, number)
        if version is not None:
            self._expect(answer, 204 if new_tags is None else 200)
            self.model.tag(bucket, key, version, new_tags or ())

    @rule(bucket=buckets, key=few_keys, place=st.none() | which)
    def get_tags(self, bucket: str, key: str, place: int | None) -> None:
        number = None if place is None else self._number(bucket, key, place)
        parameters = {} if number is None else {"version": number}
        answer = self.client.get(self._tags_url(bucket, key), params=parameters)
        version = self._tagged(answer, bucket, key, number)
        if version is not None:
            self._expect(answer, 200)
            assert (answer.json()["version"], answer.json()["tags"]) == (version.number, dict(version.tags))

    def _tagged(self, answer: httpx.Response, bucket: str, key: str, number: int | None) -> Version | None:
        """The version that a call for tags is about; None when it was refused, and rightly."""
        version = self.model.current(bucket, key) if number is None else self.model.find(bucket, key, number)
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
        elif version is None:
            self._expect(answer, 404, "file_not_found" if number is None else "version_not_found")
        elif version.file is None and number is None:
            self._expect(answer, 404, "file_not_found")
        elif version.file is None:
            self._expect(answer, 400, "source_is_marker")
        else:
            return version
        return None

    @rule(bucket=buckets, key=few_keys, refused=bad_tags)
    def put_bad_tags(self, bucket: str, key: str, refused: dict[str, str]) -> None:
        answer = self.client.put(self._tags_url(bucket, key), json={"tags": refused})
        self._expect(answer, 400, "invalid_tags")

    # --- batches --------------------------------------------------------------------------------------------------

    @rule(
        bucket=buckets,
        chosen=st.dictionaries(keys, st.lists(which, max_size=3), min_size=1, max_size=4),
        again=once,
    )
    def batch_delete(self, bucket: str, chosen: dict[str, list[int]], again: str | None) -> None:
        """A key without numbers is deleted, one with numbers loses these versions."""
        files = [(key, self._number(bucket, key, place)) for key, places in chosen.items() for place in places]
        files += [(key, None) for key, places in chosen.items() if not places]
        body = {
            "bucket": self.names[bucket],
            "files": [{"key": key} | ({} if number is None else {"version": number}) for key, number in files],
        }
        answer = self._change("batch-delete", bucket, "", again, body, "none")
        if answer is None:
            return
        if bucket not in self.model.buckets:
            self._expect(answer, 404, "bucket_not_found")
            return
        self._expect(answer, 200)
        results = answer.json()["results"]
        assert [(row["key"], row["problem"]) for row in results] == [(key, None) for key, _ in files]
        for key in chosen:
            numbers = [number for name, number in files if name == key]
            self._deleted_of_batch(bucket, key, numbers, [row for row in results if row["key"] == key])
        self.model.highest = max(self.model.highest, answer.json()["log_index"])

    def _deleted_of_batch(self, bucket: str, key: str, numbers: list[int | None], rows: list[dict[str, Any]]) -> None:
        before = self.model.version_of(bucket, key)
        index = max(row["version"] for row in rows)
        if numbers == [None]:
            if self.model.file(bucket, key) is not None:
                assert index > self.model.highest
                self.model.delete_at(bucket, key, index)
            assert index == self.model.version_of(bucket, key)
            return
        gone: list[Version] = []
        for number, row in zip(numbers, rows, strict=True):
            version = self.model.find(bucket, key, number or NEVER)
            is_found = version is not None and version not in gone
            if version is not None and is_found:
                gone.append(version)
            is_current = self.model.current(bucket, key) in gone
            assert row["removed_version"] == (version.number if version is not None and is_found else None)
            assert row["is_marker"] == (version is not None and is_found and version.file is None)
            assert row["version"] == (index if is_found and is_current else before)
        self.model.remove(bucket, key, gone, index)

    # --- bad input ------------------------------------------------------------------------------------------------

    @rule(request=st.sampled_from(MALFORMED_BODIES))
    def malformed_body(self, request: tuple[str, object]) -> None:
        call, body = request
        self._expect(self.client.post(f"/v1/{call}", json=body), 400)
        self._expect(self.client.post(f"/v1/{call}?x=1", json=body), 400)
        self._expect(self.client.post(f"/v1/{call}", content=b"{"), 400)

    @precondition(lambda self: "a" in self.model.buckets)
    @rule(query=st.sampled_from(["version=0", "version=x", "version=1&version=1", "versionId=1", "version="]))
    def malformed_version(self, query: str) -> None:
        for method in ("GET", "HEAD", "DELETE"):
            self._expect(self.client.request(method, f"{self._url('a', 'k')}?{query}"), 400)
        self._expect(self.client.get(f"{self._tags_url('a', 'k')}?{query}"), 400)
