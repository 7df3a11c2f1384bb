"""Random histories of identities and keys against plain dictionaries: what gateways know of them, and what is refused."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.consensus.metadata.entries import OBJECTS_VERSION
from services.consensus.metadata.verification import verify
from shared.contracts.access import (
    ANONYMOUS,
    KEYS_PER_IDENTITY_MAX,
    Action,
    DeleteIdentity,
    DeleteKey,
    InitAccess,
    RecordKeyUse,
    Requester,
    Scope,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.metadata import AnyCommand, CreateBucket, DeleteBucket, PassTime
from shared.contracts.objects import DeleteBucketDocument, PutBucketDocument
from tests.unit.consensus.metadata.access_builders import (
    REALM,
    access_index,
    changes,
    create_identity,
    create_key,
    identity_id,
    key_id,
)
from tests.unit.consensus.metadata.builders import Log, publish, stamp

IDENTITIES = 4
KEYS = 7
BUCKETS = ("default", "photos")
GATEWAYS = 2
TOMBSTONES_S = 100


@dataclass
class Identity:
    is_root: bool
    state: str = "active"
    scopes: list[Scope] = field(default_factory=list)
    changed: int = 0


@dataclass
class Key:
    identity: int
    slot: int
    state: str = "active"
    expires_s: int | None = None
    used: int | None = None
    changed: int = 0


@dataclass
class Gateway:
    """What one knows: its copy, as (state, ...) by id, and up to which index."""

    identities: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    index: int = 0


class World:
    """The state machine and the model, changed alike. Second n of the stamps is the n-th step."""

    def __init__(self, folder: Path) -> None:
        self.log = Log(folder / "metadata.sqlite", entry_version=OBJECTS_VERSION)
        self.log.apply(InitAccess(realm=REALM, stamp=stamp()))
        self.index = self.log.store.last_applied
        self.identities: dict[int, Identity] = {}
        self.keys: dict[int, Key] = {}
        self.taken: dict[str, int | None] = {}
        """Ids that were deleted, with the first age that the log is known to have had after it."""
        self.buckets = {"default": (1, 0)}
        """By name: incarnation, and the last change of its documents of access."""
        self.documents: set[str] = set()
        self.gateways = [Gateway() for _ in range(GATEWAYS)]
        self.lived_s = 0
        self.second = 1

    def stamp(self) -> Any:
        return stamp(self.second)

    def propose(self, command: AnyCommand, code: str | None) -> int:
        """Apply it; `code` is that of the refusal that is due. The index."""
        outcome = self.log.propose(command)
        assert (None if outcome.problem is None else outcome.problem["code"]) == code, command
        self.second += 1
        return outcome.log_index

    # --- commands -------------------------------------------------------------------------------------------------

    def make_identity(self, n: int, *, is_root: bool) -> None:
        is_taken = n in self.identities or identity_id(n) in self.taken
        code = "identity_exists" if is_taken else None
        index = self.propose(create_identity(identity_id(n), is_root=is_root, stamp=self.stamp()), code)
        if code is None:
            self.identities[n] = Identity(is_root, changed=index)
            self.index = index

    def change_identity(self, n: int, state: str | None, scopes: int | None) -> None:
        wanted = None if scopes is None else [Scope(actions=[Action.READ], bucket=f"bucket-{i}") for i in range(scopes)]
        code = None if n in self.identities else "identity_not_found"
        if code is None and (state or self.identities[n].state) != "active" and self.would_lose(identity=n):
            code = "last_root_key"
        command = UpdateIdentity(identity=identity_id(n), state=state, scopes=wanted, stamp=self.stamp())
        index = self.propose(command, code)
        if code is None:
            found = self.identities[n]
            found.state = state or found.state
            found.scopes = found.scopes if wanted is None else wanted
            found.changed = self.index = index

    def delete_identity(self, n: int) -> None:
        code = None if n in self.identities else "identity_not_found"
        if code is None and self.would_lose(identity=n):
            code = "last_root_key"
        index = self.propose(DeleteIdentity(identity=identity_id(n), stamp=self.stamp()), code)
        if code is None:
            del self.identities[n]
            self.taken[identity_id(n)] = None
            for k in [k for k, key in self.keys.items() if key.identity == n]:
                del self.keys[k]
                self.taken[key_id(k)] = None
            self.index = index

    def make_key(self, k: int, n: int, slot: int, expires_in_s: int | None) -> None:
        others = [key for key in self.keys.values() if key.identity == n]
        code = None
        if n not in self.identities:
            code = "identity_not_found"
        elif k in self.keys or key_id(k) in self.taken:
            code = "key_exists"
        elif len(others) == KEYS_PER_IDENTITY_MAX:
            code = "too_many_keys"
        elif slot in {key.slot for key in others}:
            code = "key_slot_taken"
        expires_s = None if expires_in_s is None else self.second + expires_in_s
        expires_ns = None if expires_s is None else stamp(expires_s).approximate_ns
        command = create_key(key_id(k), identity_id(n), slot=slot, expires_ns=expires_ns, stamp=self.stamp())
        index = self.propose(command, code)
        if code is None:
            self.keys[k] = Key(n, slot, expires_s=expires_s, changed=index)
            self.index = index

    def change_key(self, k: int, state: str | None, end: int | str | None) -> None:
        """`end`: seconds from now, `never`, or None for the one that it has."""
        key = self.keys.get(k)
        end_s = max(self.second + end, 0) if isinstance(end, int) else None
        expires_ns = end if end_s is None else stamp(end_s).approximate_ns
        code = None if key is not None else "key_not_found"
        if key is not None:
            end_s = key.expires_s if end is None else end_s
            is_usable = (state or key.state) == "active" and (end_s is None or end_s > self.second)
            if not is_usable and self.would_lose(key=k):
                code = "last_root_key"
        index = self.propose(UpdateKey(key=key_id(k), state=state, expires_ns=expires_ns, stamp=self.stamp()), code)
        if key is not None and code is None:
            key.state = state or key.state
            key.expires_s = end_s
            key.changed = self.index = index

    def delete_key(self, k: int) -> None:
        code = None if k in self.keys else "key_not_found"
        if code is None and self.would_lose(key=k):
            code = "last_root_key"
        index = self.propose(DeleteKey(key=key_id(k), stamp=self.stamp()), code)
        if code is None:
            del self.keys[k]
            self.taken[key_id(k)] = None
            self.index = index

    def use(self, ks: list[int], hour: int) -> None:
        self.propose(RecordKeyUse(keys=[key_id(k) for k in ks], hour=hour, stamp=self.stamp()), None)
        for k in ks:
            if k in self.keys:
                self.keys[k].used = max(self.keys[k].used or 0, hour)

    def usable(self, *, but_identity: int | None = None, but_key: int | None = None) -> list[int]:
        """The keys that may administer the cluster now."""
        return [
            k
            for k, key in self.keys.items()
            if k != but_key
            and key.identity != but_identity
            and key.state == "active"
            and (key.expires_s is None or key.expires_s > self.second)
            and self.identities[key.identity].is_root
            and self.identities[key.identity].state == "active"
        ]

    def would_lose(self, *, identity: int | None = None, key: int | None = None) -> bool:
        return bool(self.usable()) and not self.usable(but_identity=identity, but_key=key)

    def put_document(self, bucket: str, kind: str) -> None:
        code = None if bucket in self.buckets else "bucket_not_found"
        index = self.propose(PutBucketDocument(bucket=bucket, kind_name=kind, body=b"", stamp=self.stamp()), code)
        if code is None and kind == "policy":
            self.documents.add(bucket)
            self.buckets[bucket] = (self.buckets[bucket][0], index)
            self.index = index

    def delete_document(self, bucket: str) -> None:
        code = None if bucket in self.buckets else "bucket_not_found"
        index = self.propose(DeleteBucketDocument(bucket=bucket, kind_name="policy", stamp=self.stamp()), code)
        if bucket in self.documents:
            self.documents.remove(bucket)
            self.buckets[bucket] = (self.buckets[bucket][0], index)
            self.index = index

    def turn_bucket(self) -> None:
        """The second bucket is made, or deleted."""
        name = BUCKETS[1]
        if name not in self.buckets:
            index = self.propose(CreateBucket(bucket=name, stamp=self.stamp()), None)
            self.buckets[name] = (index, 0)
            return
        index = self.propose(DeleteBucket(bucket=name, stamp=self.stamp()), None)
        self.documents.discard(name)
        if self.buckets.pop(name)[1]:
            self.index = index

    def pass_time(self, elapsed_s: int) -> None:
        command = PassTime(
            elapsed_ms=elapsed_s * 1000,
            cursor_retention_s=10,
            tombstone_retention_s=TOMBSTONES_S,
            reference_retention_s=10,
            condemned_retention_s=10,
            stamp=self.stamp(),
        )
        self.propose(command, None)
        self.lived_s += elapsed_s
        ages = {name: self.lived_s if age is None else age for name, age in self.taken.items()}
        self.taken = {name: age for name, age in ages.items() if age > self.lived_s - TOMBSTONES_S}

    # --- gateways -------------------------------------------------------------------------------------------------

    def follow(self, g: int, limit: int) -> None:
        """A gateway fetches what changed, and then has what there is."""
        gateway, after, walk = self.gateways[g], self.gateways[g].index, None
        while True:
            page = changes(self.log, after=after, limit=limit, walk=walk)
            if page.is_full:
                gateway.identities, gateway.keys = {}, {}
            for identity in page.identities:
                gateway.identities[identity.id] = (identity.is_root, identity.state, identity.scopes)
            for key in page.keys:
                gateway.keys[key.id] = (key.identity, key.slot, key.state, key.expires_ns)
            for gone in page.deleted:
                gateway.identities.pop(gone, None)
                gateway.keys.pop(gone, None)
            if page.next_after is None:
                break
            after, walk = page.next_after, page.walk
        gateway.index = page.access_index
        self.check_copy(gateway)

    def check_copy(self, gateway: Gateway) -> None:
        assert gateway.index == self.index
        assert gateway.identities == {
            identity_id(n): (found.is_root, found.state, found.scopes) for n, found in self.identities.items()
        }
        assert gateway.keys == {
            key_id(k): (
                identity_id(key.identity),
                key.slot,
                key.state,
                None if key.expires_s is None else stamp(key.expires_s).approximate_ns,
            )
            for k, key in self.keys.items()
        }

    def put(self, g: int, k: int | None, bucket: str) -> None:
        """A gateway has a file published for the owner of a key that it knows, or for anybody."""
        gateway = self.gateways[g]
        if k is not None and key_id(k) not in gateway.keys:
            return
        principal = ANONYMOUS if k is None else gateway.keys[key_id(k)][0]
        requester = Requester(principal=principal, key=None if k is None else key_id(k), access_index=gateway.index)
        incarnation, _ = self.buckets.get(bucket, (1, 0))
        # Refused by its precondition at the latest: a bucket stays empty, so that it can be deleted.
        command = publish("f", bucket=bucket, incarnation=incarnation, start_index=1, if_match=["none"])
        outcome = self.log.propose(command, requester=requester)
        is_refused = outcome.problem is not None and outcome.problem["code"] == "access_changed"
        assert is_refused == self.is_outdated(gateway, k, bucket)

    def is_outdated(self, gateway: Gateway, k: int | None, bucket: str) -> bool:
        if gateway.index == self.index:
            return False
        if bucket in self.buckets and max(self.buckets[bucket]) > gateway.index:
            return True
        if k is None:
            return False
        key = self.keys.get(k)
        if key is None or key.state != "active" or key.changed > gateway.index:
            return True
        identity = self.identities[key.identity]
        return identity.state != "active" or identity.changed > gateway.index

    def check(self) -> None:
        assert access_index(self.log) == self.index
        assert self.log.store.summary().access_index == self.index
        used = {key.id: key.last_used_hour for key in changes(self.log).keys}
        assert used == {key_id(k): key.used for k, key in self.keys.items()}

    def close(self) -> None:
        state = self.log.store.summary()
        self.log.store.close()
        assert verify(self.log.path) == state


AN_IDENTITY = st.integers(min_value=0, max_value=IDENTITIES - 1)
A_KEY = st.integers(min_value=0, max_value=KEYS - 1)
A_STATE = st.sampled_from([None, "active", "disabled", "disabled"])
A_GATEWAY = st.integers(min_value=0, max_value=GATEWAYS - 1)
A_BUCKET = st.sampled_from(BUCKETS)
FOLLOW = st.tuples(st.just("follow"), A_GATEWAY, st.integers(min_value=1, max_value=4))
PUT = st.tuples(st.just("put"), A_GATEWAY, st.none() | A_KEY, A_BUCKET)
ACTIONS = st.one_of(
    FOLLOW,
    FOLLOW,
    PUT,
    PUT,
    st.tuples(st.just("make_identity"), AN_IDENTITY, st.booleans()),
    st.tuples(st.just("change_identity"), AN_IDENTITY, A_STATE, st.none() | st.integers(min_value=0, max_value=2)),
    st.tuples(st.just("delete_identity"), AN_IDENTITY),
    st.tuples(
        st.just("make_key"),
        A_KEY,
        AN_IDENTITY,
        st.integers(min_value=0, max_value=KEYS_PER_IDENTITY_MAX - 1),
        st.sampled_from([None, None, 3, 40]),
    ),
    st.tuples(st.just("change_key"), A_KEY, A_STATE, st.sampled_from([None, None, "never", -1, 0, 1, 40])),
    st.tuples(st.just("delete_key"), A_KEY),
    st.tuples(st.just("use"), st.lists(A_KEY, min_size=1, max_size=4), st.integers(min_value=0, max_value=5)),
    st.tuples(st.just("put_document"), A_BUCKET, st.sampled_from(["policy", "cors"])),
    st.tuples(st.just("delete_document"), A_BUCKET),
    st.tuples(st.just("turn_bucket")),
    st.tuples(st.just("pass_time"), st.sampled_from([1, 30, 60, 110])),
)
BEGIN: list[tuple[Any, ...]] = [
    ("make_identity", 0, True),
    ("make_key", 0, 0, 0, None),
    ("make_identity", 1, False),
    ("make_key", 1, 1, 0, None),
    ("make_key", 2, 1, 1, None),
    ("follow", 0, 1000),
    ("follow", 1, 1000),
]
"""Half of the histories begin with this, so that there is something to lose."""


@settings(max_examples=150)
@given(begin=st.booleans(), actions=st.lists(ACTIONS, min_size=5, max_size=40))
def test_who_may_do_what_is_what_plain_dictionaries_say(begin: bool, actions: list[tuple[Any, ...]]) -> None:
    """Gateways that follow now and then have what there is; what one of them allowed by an older copy is refused."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for name, *values in [*(BEGIN if begin else ()), *actions]:
            if name == "make_identity":
                world.make_identity(values[0], is_root=values[1])
            else:
                getattr(world, name)(*values)
            world.check()
        world.close()
