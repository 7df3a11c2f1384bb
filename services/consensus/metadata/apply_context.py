"""The apply context: what a command gets besides itself. Times come from the applied stamp, identities from the log index."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from services.consensus.metadata.audit import Trail
from services.consensus.metadata.bucket_records import DEFAULT_SETTINGS, BucketRecords
from services.consensus.metadata.entries import GARBAGE_VERSION, OBJECTS_VERSION
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.history import History
from services.consensus.metadata.older_versions import OlderVersions
from services.consensus.metadata.rows import BucketRow, FileRow, NodeRow, RunRow, State, TombstoneRow
from services.consensus.metadata.tables import Tables
from shared.contracts.access import ANONYMOUS, SYSTEM, IdentityLimits, Requester
from shared.contracts.conditions import check_preconditions
from shared.contracts.files import Preconditions
from shared.contracts.names import check_bucket_name, check_key, check_object_key
from shared.contracts.objects import BucketSettings
from shared.contracts.time import ClockState, Stamp
from shared.errors import BucketNotFoundError

_NO_OWNERS: Final = frozenset({None, ANONYMOUS, SYSTEM})


@dataclass(slots=True)
class KnownLimits:
    """What identities may have, as far as it was asked for. Invariant: as of `access_index`."""

    access_index: int = -1
    by_identity: dict[bytes, IdentityLimits] = field(default_factory=dict)


@dataclass(slots=True)
class ApplyContext:
    """The apply context of one entry: its place in the log, its applied stamp, the tables, and the state that it may replace.

    Attributes:
        owner: the identity that what this entry writes belongs to; None of nobody that is an identity.
        owner_id: the same, as ids are written.

    Invariant: `nodes`, `runs` and `announced` equal the tables of nodes, runs and members, and `buckets` and `settings` what the
    tables say of some buckets.
    """

    index: int
    term: int
    stamp: Stamp
    tables: Tables
    history: History
    garbage: Garbage
    state: State
    nodes: dict[str, NodeRow]
    runs: dict[str, RunRow]
    buckets: dict[str, BucketRow | None]
    announced: dict[str, int]
    older: OlderVersions
    records: BucketRecords
    settings: dict[int, BucketSettings]
    trail: Trail
    limits: KnownLimits
    owner: bytes | None = None
    owner_id: str | None = None

    def act_for(self, requester: Requester | None) -> None:
        """What is written from here on belongs to whom the entry is for."""
        principal = None if requester is None else requester.principal
        if principal != self.owner_id:
            self.owner_id = None if principal in _NO_OWNERS else principal
            self.owner = None if self.owner_id is None else bytes.fromhex(self.owner_id)

    @property
    def knows_garbage(self) -> bool:
        """Whether the rules of entries of version 3 hold here, for entries of earlier versions, too."""
        return self.state.entry_version >= GARBAGE_VERSION

    def check_preconditions(
        self, preconditions: Preconditions, file: FileRow | None, tombstone: TombstoneRow | None
    ) -> None:
        """As `shared.contracts.conditions.check_preconditions`, by the rules that every member knows."""
        deleted_index = 0 if tombstone is None else tombstone.deleted_index
        check_preconditions(preconditions, file, deleted_index, knows_s3=self.knows_objects)

    @property
    def knows_objects(self) -> bool:
        """Whether what came with entries of version 4 may be there: versions that are kept, tags, uploads by parts."""
        return self.state.entry_version >= OBJECTS_VERSION

    def checked_key(self, key: str) -> bytes:
        """`key` as the tables have it. Before entries of version 4 there are only keys that a path may name.

        Raises:
            InvalidNameError: it is none.
        """
        return (check_object_key if self.knows_objects else check_key)(key).encode()

    def raise_access_index(self) -> None:
        """This entry changes who may do what."""
        self.state = replace(self.state, access_index=self.index)

    def settings_of(self, incarnation: int) -> BucketSettings:
        """What a bucket is set to now."""
        if not self.knows_objects:
            return DEFAULT_SETTINGS
        if incarnation not in self.settings:
            row = self.records.settings(incarnation)
            self.settings[incarnation] = DEFAULT_SETTINGS if row is None else row.settings
        return self.settings[incarnation]

    def bucket(self, name: str) -> BucketRow | None:
        """The bucket of that name that exists now."""
        if name not in self.buckets:
            self.buckets[name] = self.tables.bucket(name)
        return self.buckets[name]

    def existing_bucket(self, name: str) -> BucketRow:
        """The same. Raises InvalidNameError, BucketNotFoundError."""
        bucket = self.bucket(check_bucket_name(name))
        if bucket is None:
            raise BucketNotFoundError("There is no such bucket.", bucket=name)
        return bucket


NO_STAMP: Final = Stamp(hlc=0, state=ClockState.INIT)
"""Before the first entry of a batch."""
