"""Random histories against a plain-dict model: results, reads, lists of now and of every earlier index."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.contracts.cluster import NodeState
from shared.contracts.files import Preconditions
from shared.contracts.metadata import (
    CreateBucket,
    DeleteBucket,
    DeleteFile,
    DrainNode,
    FilePage,
    GetFile,
    ListFiles,
    SetNodeState,
)
from shared.contracts.references import CondemnChunks
from tests.unit.consensus.metadata.builders import Log, content, publish, stamp

BUCKETS = ["default", "photos", "music"]
KEYS = ["a", "a/", "a/b", "a/b/c", "a/c", "a0", "b", "b/é", "é/b", "é/😀", "\uffee"]
ETAGS = ["e1", "e2", "*"]


@dataclass
class Model:
    """What a reader would expect: buckets by name, the last change of every key, and a copy of all at every index.

    No time passes, so a chunk that was referenced once stays so.
    """

    index: int = 3
    referenced: set[int] = field(default_factory=set)
    condemned: dict[int, int] = field(default_factory=dict)
    is_draining: bool = False
    incarnations: dict[str, int] = field(default_factory=lambda: {"default": 1})
    files: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    changed: dict[tuple[str, str], int] = field(default_factory=dict)
    past: dict[int, Any] = field(default_factory=dict)

    def remember(self) -> None:
        self.past[self.index] = dict(self.incarnations), dict(self.files)

    def matches(self, etags: list[str], at: tuple[str, str]) -> bool:
        return at in self.files and ("*" in etags or self.files[at][1] in etags)

    def step(self, action: tuple) -> str:
        """Apply one action; the code of its rejection, or `ok`."""
        self.index += 1
        outcome = getattr(self, action[0])(*action[1:])
        self.remember()
        return outcome

    def create(self, bucket: str) -> str:
        self.incarnations.setdefault(bucket, self.index)
        return "ok"

    def drop(self, bucket: str) -> str:
        if bucket == "default":
            return "bucket_protected"
        if bucket not in self.incarnations:
            return "bucket_not_found"
        if any(name == bucket for name, _ in self.files):
            return "bucket_not_empty"
        del self.incarnations[bucket]
        return "ok"

    def condemn(self, fill: int) -> str:
        if fill not in self.referenced:
            self.condemned[fill] = self.index
        return "ok"

    def drain(self, is_draining: bool) -> str:
        self.is_draining = is_draining
        return "ok"

    def put(self, bucket: str, key: str, etag: str, fill: int, age: int, conditions: tuple) -> str:
        at = bucket, key
        if bucket not in self.incarnations:
            return "bucket_not_found"
        if self.is_draining:
            return "node_draining"
        if self.condemned.get(fill, -1) >= max(0, self.index - 1 - age):
            return "chunk_condemned"
        if_match, if_none_match = conditions
        if if_match is not None and not self.matches(if_match, at):
            return "precondition_failed"
        if if_none_match is not None and self.matches(if_none_match, at):
            return "precondition_failed"
        self.files[at] = self.index, etag
        self.changed[at] = self.index
        self.referenced.add(fill)
        return "ok"

    def delete(self, bucket: str, key: str, conditions: tuple) -> str:
        at = bucket, key
        if bucket not in self.incarnations:
            return "bucket_not_found"
        if at not in self.files:
            return "file_not_found"
        if conditions[0] is not None and not self.matches(conditions[0], at):
            return "precondition_failed"
        if conditions[1] is not None and self.matches(conditions[1], at):
            return "precondition_failed"
        del self.files[at]
        self.changed[at] = self.index
        return "ok"

    def listing(self, at_index: int, bucket: str, prefix: str, delimiter: str | None) -> tuple[list, list] | None:
        incarnations, files = self.past[at_index]
        if bucket not in incarnations:
            return None
        shown, prefixes = [], []
        for key in sorted((key for name, key in files if name == bucket), key=str.encode):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if not found:
                shown.append((key, *files[bucket, key]))
            elif prefix + head + found not in prefixes:
                prefixes.append(prefix + head + found)
        return shown, prefixes


buckets, keys = st.sampled_from(["default", "default", "default", *BUCKETS]), st.sampled_from(KEYS)
some_etags = st.lists(st.sampled_from(ETAGS), max_size=2)
conditions = st.one_of(*[st.just((None, None))] * 3, st.tuples(st.none() | some_etags, st.none() | some_etags))
actions = st.one_of(
    st.tuples(st.just("create"), buckets),
    st.tuples(st.just("drop"), buckets),
    *[
        st.tuples(
            st.just("put"),
            buckets,
            keys,
            st.sampled_from(["e1", "e2"]),
            st.integers(1, 3),  # the content
            st.integers(0, 12),  # how many entries ago the upload began
            conditions,
        )
    ]
    * 3,
    *[st.tuples(st.just("delete"), buckets, keys, conditions)] * 3,
    st.tuples(st.just("condemn"), st.integers(1, 4)),
    st.tuples(st.just("drain"), st.booleans()),
)
lists = st.tuples(
    st.integers(0, 100),  # percent of the history to which the list is pinned; 100 is now
    buckets,
    st.sampled_from(["", "a", "a/", "a/b", "é", "zzz"]),
    st.sampled_from([None, "/", "b", "/b"]),
    st.integers(1, 6),
)


def command(log: Log, action: tuple):
    match action:
        case ("create", bucket):
            return CreateBucket(bucket=bucket, stamp=stamp())
        case ("drop", bucket):
            return DeleteBucket(bucket=bucket, stamp=stamp())
        case ("condemn", fill):
            digests = content(fill=fill).chunk_digests
            return CondemnChunks(digests=digests, start_indexes=[log.store.last_applied], stamp=stamp())
        case ("drain", is_draining):
            cancel = SetNodeState(node_id="storage-1", state=NodeState.ACTIVE, stamp=stamp())
            return DrainNode(node_id="storage-1", stamp=stamp()) if is_draining else cancel
        case ("put", bucket, key, etag, fill, age, (if_match, if_none_match)):
            row = log.store._reader.bucket(bucket)
            return publish(
                key,
                bucket=bucket,
                etag=etag,
                content=content(fill=fill),
                if_match=if_match,
                if_none_match=if_none_match,
                incarnation=0 if row is None else row.incarnation,
                start_index=max(0, log.store.last_applied - age),
            )
        case ("delete", bucket, key, (if_match, if_none_match)):
            preconditions = Preconditions(if_match=if_match, if_none_match=if_none_match)
            return DeleteFile(bucket=bucket, key=key, preconditions=preconditions, stamp=stamp())
    raise AssertionError(action)


def every_page(log: Log, query: ListFiles) -> tuple[list, list] | None:
    """The whole list, page by page; None when the bucket did not exist."""
    shown, prefixes = [], []
    while True:
        page = log.ask(query)
        assert isinstance(page, FilePage)
        if not page.has_bucket:
            return None
        shown += [(file.key, file.version, file.etag) for file in page.files]
        prefixes += page.prefixes
        if not page.has_more:
            return shown, prefixes
        query = query.model_copy(
            update={"after_key": page.last_key, "after_prefix": page.last_prefix, "at_index": page.at_index}
        )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
@given(st.lists(actions, min_size=5, max_size=60), st.lists(lists, min_size=10, max_size=20))
def test_a_random_history_agrees_with_a_dict(history, asked):
    """Every result, every key's version, and every list at every index are those of the model."""
    with tempfile.TemporaryDirectory() as folder:
        log, model = Log(Path(folder) / "m", entry_version=3), Model()
        for model.index in (1, 2, 3):
            model.remember()
        for action in history:
            outcome = log.propose(command(log, action))
            assert (outcome.problem or {"code": "ok"})["code"] == model.step(action), action
            assert outcome.log_index == model.index
        for bucket in BUCKETS:
            for key in KEYS:
                answer = log.ask(GetFile(bucket=bucket, key=key))
                present = model.files.get((bucket, key))
                assert answer.has_bucket == (bucket in model.incarnations)
                assert answer.version == model.changed.get((bucket, key), 0)
                assert (answer.file and (answer.file.version, answer.file.etag)) == present
        for percent, bucket, prefix, delimiter, limit in asked:
            at_index = 1 + (model.index - 1) * percent // 100
            query = ListFiles(bucket=bucket, prefix=prefix, delimiter=delimiter, limit=limit)
            if percent < 100:
                query = query.model_copy(update={"at_index": at_index})
            assert every_page(log, query) == model.listing(at_index, bucket, prefix, delimiter), query
        log.store.close()
