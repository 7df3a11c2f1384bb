"""Short ways to say commands and entries; a log that numbers what is applied."""

from pathlib import Path
from typing import Any

from services.consensus.metadata.entries import CommittedEntry, encode_proposal
from services.consensus.metadata.store import MetadataStore
from shared.contracts.access import Requester
from shared.contracts.cluster import NodeRun
from shared.contracts.files import Durability, FileContent, Preconditions
from shared.contracts.metadata import (
    AnnounceMember,
    Answer,
    AnyCommand,
    AnyQuery,
    InitCluster,
    Proposal,
    ProposalResult,
    PublishFile,
    RaiseEntryVersion,
)
from shared.contracts.names import DIGEST_BYTES
from shared.contracts.time import ClockState, Stamp
from shared.errors import error_from_problem
from tests.fresh_metadata import open_store

CHUNK_SIZE_BYTES = 1000


def stamp(seconds: int = 1, *, counter: int = 0) -> Stamp:
    return Stamp(hlc=(seconds << 32) + counter, state=ClockState.LOGICAL)


def content(size_bytes: int = 1, *, fill: int = 1) -> FileContent:
    count = -(-size_bytes // CHUNK_SIZE_BYTES)
    digests = b"".join(bytes((fill,)) * (DIGEST_BYTES - 4) + n.to_bytes(4) for n in range(count))
    return FileContent(
        size_bytes=size_bytes, chunk_size_bytes=CHUNK_SIZE_BYTES, chunk_digests=digests, digest=f"{fill:02x}" * 32
    )


def publish(key: str, **changes: Any) -> PublishFile:
    if_match, if_none_match = changes.pop("if_match", None), changes.pop("if_none_match", None)
    fields: dict[str, Any] = {
        "bucket": "default",
        "incarnation": 1,
        "key": key,
        "content": content(),
        "content_type": "text/plain",
        "user_metadata": {"colour": "blue"},
        "etag": "etag-1",
        "start_index": 1,
        "epoch": 3,
        "durability": Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-2"]),
        "preconditions": Preconditions(if_match=if_match, if_none_match=if_none_match),
        "stamp": stamp(),
    }
    return PublishFile(**fields | changes)


def run(**changes: Any) -> NodeRun:
    """A storage node's first run, by default."""
    return NodeRun(**{"disk_id": "d" * 32, "counter": 1, "boot_id": "b" * 32} | changes)


def entry(
    index: int,
    command: AnyCommand,
    *,
    request_id: str | None = None,
    retain_s: int = 600,
    fingerprint: str | None = None,
    attempt_id: str | None = None,
    requester: Requester | None = None,
    term: int = 1,
):
    proposal = Proposal(
        request_id=request_id or f"request-{index}",
        retain_s=retain_s,
        fingerprint=fingerprint,
        attempt_id=attempt_id,
        requester=requester,
        command=command,
    )
    return CommittedEntry(index, term, encode_proposal(proposal))


class Log:
    """A store, and the index of what comes next. Begins with a cluster `trivet-test` of storage-1 to storage-3.

    With an `entry_version`, that is in force from the third entry on. `requester`: whom changes are made for.
    """

    requester: Requester | None = None

    def __init__(self, path: Path, *, is_initialised: bool = True, entry_version: int | None = None) -> None:
        self.path = path
        self.store = open_store(path)
        if is_initialised:
            nodes = ["storage-1", "storage-2", "storage-3"]
            self.apply(InitCluster(cluster_id="trivet-test", admitted_nodes=nodes, stamp=stamp()))
        if entry_version is not None:
            self.raise_entry_version(entry_version)

    @property
    def next_index(self) -> int:
        return self.store.last_applied + 1

    def raise_entry_version(self, entry_version: int) -> None:
        """Two entries, after which those of that version may be proposed."""
        self.apply(AnnounceMember(member_id="consensus-1", entry_version=entry_version, stamp=stamp()))
        self.apply(RaiseEntryVersion(entry_version=entry_version, stamp=stamp()))

    def propose(self, command: AnyCommand, **options: Any) -> ProposalResult:
        """Apply one command; its result, whatever it is."""
        options = {"requester": self.requester} | options
        [result] = self.store.apply_batch([entry(self.next_index, command, **options)])
        assert result is not None
        return result

    def apply(self, command: AnyCommand, **options: Any) -> dict[str, Any]:
        """Apply one command that is expected to succeed; raises its rejection."""
        outcome = self.propose(command, **options)
        if outcome.problem is not None:
            raise error_from_problem(outcome.problem)
        assert outcome.result is not None
        return outcome.result

    def ask(self, query: AnyQuery) -> Answer:
        """Answer one query; raises its rejection."""
        [result] = self.store.answer([query], term=1).results
        if result.answer is None:
            assert result.problem is not None
            raise error_from_problem(result.problem)
        return result.answer


def referring_versions(store: MetadataStore, digest: bytes) -> list[int]:
    """The versions that refer to a chunk, superseded ones included."""
    rows = store._reader.database.execute("SELECT version FROM chunk_refs WHERE digest=? ORDER BY version", (digest,))
    return [version for (version,) in rows]
