"""Identities and keys in the state machine: what commands change, what gateways are told, and what can not be taken away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from msgspec import structs

from services.consensus.metadata.access_records import _CHANGED, _IDENTITIES, _KEYS, _NTH_CHANGE, AccessRecords
from services.consensus.metadata.entries import OBJECTS_VERSION
from services.consensus.metadata.requesters import _BUCKET_FIELDS
from services.consensus.metadata.verification import verify
from shared.contracts.access import (
    ANONYMOUS,
    KEYS_PER_IDENTITY_MAX,
    SYSTEM,
    Action,
    DeleteIdentity,
    DeleteKey,
    GetIdentity,
    GetKey,
    IdentityAnswer,
    IdentityLimits,
    InitAccess,
    ListIdentities,
    RecordKeyUse,
    Requester,
    Scope,
    UpdateIdentity,
    UpdateKey,
)
from shared.contracts.metadata import AnyCommand, CreateBucket, DeleteBucket, PassTime
from shared.contracts.objects import DeleteBucketDocument, PutBucketDocument
from shared.contracts.uploads import AbortUpload, BeginUpload
from shared.errors import (
    AccessChangedError,
    AccessNotInitialisedError,
    IdentityExistsError,
    IdentityNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    KeySlotTakenError,
    LastRootKeyError,
    TooManyKeysError,
)
from tests.unit.consensus.metadata.access_builders import (
    REALM,
    ROOT,
    access_index,
    by,
    changes,
    create_identity,
    create_key,
    identity_id,
    init,
    key_id,
    sealed,
    secret,
)
from tests.unit.consensus.metadata.builders import Log, publish, stamp

READ_PHOTOS = Scope(actions=[Action.READ], bucket="photos", prefix="2026/")


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    """Of a cluster with a root identity and its key."""
    made = Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)
    init(made)
    yield made
    verify(made.path)
    made.store.close()


def pass_time(seconds: int) -> PassTime:
    return PassTime(elapsed_ms=seconds * 1000, cursor_retention_s=10, tombstone_retention_s=100, stamp=stamp())


# --- realm ----------------------------------------------------------------------------------------------------------


def test_the_first_realm_counts_for_ever(log):
    """A second gateway that names another learns the first, and nothing changes."""
    before = log.store.summary().access_index
    assert log.apply(InitAccess(realm="0f" * 16, stamp=stamp())) == {"realm": REALM}
    assert changes(log).realm == REALM
    assert access_index(log) == before


def test_a_gateway_that_knew_no_realm_asks_again(tmp_path):
    """The realm is a change as any: who has the table of before fetches it."""
    log = Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)
    assert (changes(log).realm, access_index(log)) == (None, 0)
    log.apply(InitAccess(realm=REALM, stamp=stamp()))
    assert access_index(log) == log.store.last_applied
    log.store.close()


def test_there_are_no_identities_before_the_realm(tmp_path):
    """Their secrets would be sealed for a realm that is not the one in force."""
    log = Log(tmp_path / "metadata.sqlite", entry_version=OBJECTS_VERSION)
    with pytest.raises(AccessNotInitialisedError):
        log.apply(create_identity(ROOT))
    log.store.close()


def test_the_realm_counts_in_the_state_hash(tmp_path):
    """Two members that heard different realms would seal for different ones: they differ."""
    hashes = set()
    for realm in (REALM, "0f" * 16):
        log = Log(tmp_path / realm, entry_version=OBJECTS_VERSION)
        # Not remembered: the stored result names the realm, too.
        log.apply(InitAccess(realm=realm, stamp=stamp()), retain_s=0)
        hashes.add(log.store.state_hash())
        log.store.close()
    assert len(hashes) == 2


# --- identities -----------------------------------------------------------------------------------------------------


def test_an_identity_is_told_as_it_was_made(log):
    """Name, scopes and limits, when it was made and by which entry."""
    limits = IdentityLimits(quota_bytes=5, requests_per_s=7)
    result = log.apply(
        create_identity(identity_id(1), name="Łukasz", scopes=[READ_PHOTOS], limits=limits, stamp=stamp(9))
    )
    [found] = changes(log, after=result["changed_index"] - 1).identities
    assert (found.id, found.name, found.is_root, found.state) == (identity_id(1), "Łukasz", False, "active")
    assert (found.scopes, found.limits) == ([READ_PHOTOS], limits)
    assert found.created_ns == stamp(9).approximate_ns
    assert found.changed_index == result["changed_index"] == access_index(log) == log.store.last_applied


def test_what_an_update_does_not_name_stays(log):
    """A change of the name leaves scopes, limits and state as they are, and the other way round."""
    limits = IdentityLimits(quota_files=3)
    log.apply(create_identity(identity_id(1), name="before", scopes=[READ_PHOTOS], limits=limits))
    log.apply(UpdateIdentity(identity=identity_id(1), state="disabled", stamp=stamp()))
    log.apply(UpdateIdentity(identity=identity_id(1), name="after", stamp=stamp()))
    [found] = changes(log, after=access_index(log) - 1).identities
    assert (found.name, found.state, found.scopes, found.limits) == ("after", "disabled", [READ_PHOTOS], limits)
    log.apply(UpdateIdentity(identity=identity_id(1), scopes=[], stamp=stamp()))
    [found] = changes(log, after=access_index(log) - 1).identities
    assert (found.name, found.scopes, found.limits) == ("after", [], limits)


def test_the_id_of_an_identity_is_taken_also_after_it_was_deleted(log):
    """What the deleted one was allowed must never be taken for the new one's."""
    log.apply(create_identity(identity_id(1)))
    with pytest.raises(IdentityExistsError):
        log.apply(create_identity(identity_id(1)))
    log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))
    with pytest.raises(IdentityExistsError):
        log.apply(create_identity(identity_id(1)))


@pytest.mark.parametrize("is_deleted", [True, False])
def test_an_identity_that_is_not_there_cannot_be_changed(log, is_deleted):
    """Neither one that never was nor one that is gone."""
    if is_deleted:
        log.apply(create_identity(identity_id(1)))
        log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))
    for command in (
        UpdateIdentity(identity=identity_id(1), name="x", stamp=stamp()),
        DeleteIdentity(identity=identity_id(1), stamp=stamp()),
        create_key(key_id(1), identity_id(1)),
    ):
        with pytest.raises(IdentityNotFoundError):
            log.apply(command)


def test_the_keys_of_a_deleted_identity_are_gone_with_it(log):
    """In one change; nothing of its name, scopes and secrets is left in the tables."""
    log.apply(create_identity(identity_id(1), name="secretive", scopes=[READ_PHOTOS]))
    for slot in range(2):
        log.apply(create_key(key_id(1 + slot), identity_id(1), slot=slot, secret=secret(0xAB)))
    deleted = log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))["changed_index"]
    page = changes(log, after=deleted - 1)
    assert sorted(page.deleted) == sorted([identity_id(1), key_id(1), key_id(2)])
    assert (page.identities, page.keys) == ([], [])
    log.store.checkpoint()
    for row in (
        AccessRecords(log.store._reader).identity(identity_id(1)),
        AccessRecords(log.store._reader).key(key_id(1)),
    ):
        assert row is not None
        assert "secretive" not in str(row)
        assert b"\xab\xab" not in b"".join(each for each in row if isinstance(each, bytes))


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_is_told_as_it_was_made(log):
    """With its sealed secret, which gateways can read, and its end."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1), slot=4, expires_ns=10**19 // 2, secret=secret(7), stamp=stamp(9)))
    [found] = changes(log, after=access_index(log) - 1).keys
    assert (found.id, found.identity, found.slot, found.state) == (key_id(1), identity_id(1), 4, "active")
    assert (found.secret, found.expires_ns, found.last_used_hour) == (sealed(7), 10**19 // 2, None)
    assert (found.created_ns, found.changed_index) == (stamp(9).approximate_ns, access_index(log))


def test_an_identity_has_as_many_keys_as_slots(log):
    """One in each; a deleted one gives its slot back."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1), slot=0))
    with pytest.raises(KeySlotTakenError):
        log.apply(create_key(key_id(2), identity_id(1), slot=0))
    for slot in range(1, KEYS_PER_IDENTITY_MAX):
        log.apply(create_key(key_id(1 + slot), identity_id(1), slot=slot))
    with pytest.raises(TooManyKeysError):
        log.apply(create_key(key_id(9), identity_id(1), slot=0))
    log.apply(DeleteKey(key=key_id(2), stamp=stamp()))
    log.apply(create_key(key_id(9), identity_id(1), slot=1))


def test_the_id_of_a_key_is_taken_also_after_it_was_deleted(log):
    """Of any identity: whoever holds the secret of the deleted one must not open anything with it again."""
    log.apply(create_identity(identity_id(1)))
    with pytest.raises(KeyExistsError):
        log.apply(create_key(key_id(0), identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    log.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    with pytest.raises(KeyExistsError):
        log.apply(create_key(key_id(1), identity_id(1)))


def test_what_an_update_of_a_key_does_not_name_stays(log):
    """State, end and sealed secret change one by one."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1), secret=secret(1)))
    log.apply(UpdateKey(key=key_id(1), state="disabled", stamp=stamp()))
    log.apply(UpdateKey(key=key_id(1), expires_ns=77, stamp=stamp()))
    log.apply(UpdateKey(key=key_id(1), secret=secret(2, sealing_key="00000002"), stamp=stamp()))
    [found] = changes(log, after=access_index(log) - 1).keys
    assert (found.state, found.expires_ns, found.secret) == ("disabled", 77, sealed(2, sealing_key="00000002"))
    log.apply(UpdateKey(key=key_id(1), expires_ns="never", stamp=stamp()))
    [found] = changes(log, after=access_index(log) - 1).keys
    assert (found.state, found.expires_ns, found.secret) == ("disabled", None, sealed(2, sealing_key="00000002"))


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_key_that_is_not_there_cannot_be_changed(log, is_deleted):
    """Neither one that never was nor one that is gone."""
    if is_deleted:
        log.apply(create_identity(identity_id(1)))
        log.apply(create_key(key_id(1), identity_id(1)))
        log.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    for command in (UpdateKey(key=key_id(1), state="active", stamp=stamp()), DeleteKey(key=key_id(1), stamp=stamp())):
        with pytest.raises(KeyNotFoundError):
            log.apply(command)


def test_the_use_of_a_key_is_no_change_of_access(log):
    """No gateway fetches anything for it; the hour never goes back, and keys that are gone are passed over."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    log.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    before, [key] = access_index(log), changes(log).keys
    for hour in (480_000, 480_002, 480_001):
        log.apply(RecordKeyUse(keys=[key_id(0), key_id(1), key_id(2)], hour=hour, stamp=stamp()))
    assert access_index(log) == before
    assert changes(log).keys == [structs.replace(key, last_used_hour=480_002)]
    assert changes(log).deleted == [key_id(1)]


# --- the last root key ----------------------------------------------------------------------------------------------

LOSSES = {
    "disable the identity": UpdateIdentity(identity=ROOT, state="disabled", stamp=stamp()),
    "delete the identity": DeleteIdentity(identity=ROOT, stamp=stamp()),
    "disable the key": UpdateKey(key=key_id(0), state="disabled", stamp=stamp()),
    "delete the key": DeleteKey(key=key_id(0), stamp=stamp()),
    "let the key expire": UpdateKey(key=key_id(0), expires_ns=1, stamp=stamp(5)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    "other",
    ["none", "a root key that is disabled", "a root key that expired", "of a disabled root", "of no root", "deleted"],
)
def test_the_last_usable_root_key_stays(log, loss, other):
    """However it would be lost: nobody could administer the cluster any more. What is unusable does not count."""
    _another_key(log, other)
    before = log.store.summary()
    with pytest.raises(LastRootKeyError):
        log.apply(loss)
    assert log.store.summary().access_index == before.access_index


def _another_key(log: Log, other: str) -> None:
    if other == "none":
        return
    log.apply(create_identity(identity_id(2), is_root=other != "of no root"))
    log.apply(create_key(key_id(2), identity_id(2), expires_ns=1 if other == "a root key that expired" else None))
    if other == "a root key that is disabled":
        log.apply(UpdateKey(key=key_id(2), state="disabled", stamp=stamp()))
    if other == "of a disabled root":
        log.apply(UpdateIdentity(identity=identity_id(2), state="disabled", stamp=stamp()))
    if other == "deleted":
        log.apply(DeleteKey(key=key_id(2), stamp=stamp()))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_root_key_may_go_when_another_one_is_usable(log, loss):
    """That is how they are rotated."""
    log.apply(create_identity(identity_id(2), is_root=True))
    log.apply(create_key(key_id(2), identity_id(2), expires_ns=stamp(100).approximate_ns))
    log.apply(loss)


def test_an_identity_never_stops_being_root_in_place():
    """There is no field for it: it would be a sixth way to lose the last root key."""
    assert "is_root" not in UpdateIdentity.model_fields


def test_keys_of_others_go_where_no_root_key_is_usable(log):
    """The rule keeps what is there; it does not hold up a cluster whose root key ran out by itself."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    log.apply(UpdateKey(key=key_id(0), expires_ns=stamp(50).approximate_ns, stamp=stamp(5)))
    log.apply(DeleteKey(key=key_id(1), stamp=stamp(60)))
    log.apply(DeleteIdentity(identity=ROOT, stamp=stamp(61)))


# --- what gateways are told -----------------------------------------------------------------------------------------


def test_pages_go_by_change_and_never_split_one(log):
    """Walked with any limit, a gateway has each row once; the rows of one deletion are on one page."""
    for n in range(1, 4):
        log.apply(create_identity(identity_id(n)))
        for slot in range(3):
            log.apply(create_key(key_id(10 * n + slot), identity_id(n), slot=slot))
    log.apply(DeleteIdentity(identity=identity_id(2), stamp=stamp()))
    whole = changes(log)
    assert (whole.is_full, whole.next_after) == (True, None)
    for limit in range(1, 14):
        identities, keys, deleted, after, walk = [], [], [], 0, None
        while True:
            page = changes(log, after=after, limit=limit, walk=walk)
            assert page.is_full is (walk is None)
            assert not page.deleted or len(page.deleted) == 4
            identities += page.identities
            keys += page.keys
            deleted += page.deleted
            if page.next_after is None:
                break
            after, walk = page.next_after, page.walk
        assert (identities, keys, deleted) == (whole.identities, whole.keys, whole.deleted)
        assert page.access_index == access_index(log)


@pytest.mark.parametrize("statement", [_NTH_CHANGE, f"{_IDENTITIES} {_CHANGED}", f"{_KEYS} {_CHANGED}"])
def test_a_page_costs_what_it_shows(log, statement):
    """However many keys there are: rows come from an index in the order of changes, and none is sorted or passed over."""
    plan = [row[-1] for row in log.store._reader.database.execute(f"EXPLAIN QUERY PLAN {statement}", (1, 2))]
    assert any("by_change" in step for step in plan), plan
    assert not any("SCAN" in step or "TEMP B-TREE FOR ORDER BY" in step for step in plan), plan


def test_a_gateway_that_knows_everything_is_told_nothing(log):
    """And with what changed since, not more than that."""
    page = changes(log, after=access_index(log))
    assert (page.is_full, page.identities, page.keys, page.deleted, page.next_after) == (False, [], [], [], None)
    log.apply(UpdateKey(key=key_id(0), secret=secret(3), stamp=stamp()))
    page = changes(log, after=access_index(log) - 1)
    assert ([key.id for key in page.keys], page.identities) == ([key_id(0)], [])


def test_a_gateway_that_may_have_missed_a_deletion_starts_anew(log):
    """Tombstones are forgotten after some time; a copy that is older than that forgets what it has."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    old = access_index(log)
    deleted = log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))["changed_index"]
    log.apply(pass_time(1))
    log.apply(pass_time(90))
    assert sorted(changes(log, after=old).deleted) == sorted([identity_id(1), key_id(1)])
    log.apply(pass_time(20))
    page = changes(log, after=old)
    assert (page.is_full, page.deleted) == (True, [])
    assert [identity.id for identity in page.identities] == [ROOT]
    assert changes(log, after=deleted).is_full is False
    # The id is free again only now, when nobody can take the new one for the old.
    log.apply(create_identity(identity_id(1)))


def test_a_walk_that_may_have_missed_a_deletion_begins_anew(log):
    """Its first page showed a key that was deleted and forgotten since; a horizon of before the walk does not matter."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    log.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    for seconds in (1, 200):
        log.apply(pass_time(seconds))
    first = changes(log, limit=1)
    assert changes(log, after=first.next_after, walk=first.walk).is_full is False
    log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))
    assert changes(log, after=first.next_after, walk=first.walk).deleted == [identity_id(1)]
    for seconds in (1, 200):
        log.apply(pass_time(seconds))
    again = changes(log, after=first.next_after, walk=first.walk)
    assert (again.is_full, [identity.id for identity in again.identities]) == (True, [ROOT])


def test_a_copy_that_is_brought_up_to_date_too_slowly_begins_anew(log):
    """What was deleted after the copy may be forgotten before its page is asked for, although the walk is newer than that."""
    log.apply(create_identity(identity_id(1)))
    log.apply(create_key(key_id(1), identity_id(1)))
    old = access_index(log)
    log.apply(UpdateKey(key=key_id(0), secret=secret(3), stamp=stamp()))
    log.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    first = changes(log, after=old, limit=1)
    assert ([key.id for key in first.keys], first.is_full) == ([key_id(0)], False)
    for seconds in (1, 200):
        log.apply(pass_time(seconds))
    assert changes(log, after=first.next_after, walk=first.walk).is_full


def test_a_copy_from_a_later_state_is_none_of_this_cluster(log):
    """After a restore the state may be older than a gateway's copy: it gets everything."""
    page = changes(log, after=log.store.last_applied + 5)
    assert page.is_full
    assert [identity.id for identity in page.identities] == [ROOT]


# --- whom a change is made for --------------------------------------------------------------------------------------


def put(log: Log, requester: Requester | None, **options) -> str | None:
    """The code of the refusal of a publish, if it was refused."""
    command = publish("f", start_index=log.store.last_applied)
    outcome = log.propose(command, requester=requester, **options)
    return None if outcome.problem is None else outcome.problem["code"]


@pytest.fixture
def allowed(log) -> Log:
    """With an identity 1 that has key 1."""
    log.apply(create_identity(identity_id(1), scopes=[READ_PHOTOS]))
    log.apply(create_key(key_id(1), identity_id(1)))
    return log


CHANGES = {
    "the identity is disabled": UpdateIdentity(identity=identity_id(1), state="disabled", stamp=stamp()),
    "the scopes changed": UpdateIdentity(identity=identity_id(1), scopes=[], stamp=stamp()),
    "the identity is deleted": DeleteIdentity(identity=identity_id(1), stamp=stamp()),
    "the key is disabled": UpdateKey(key=key_id(1), state="disabled", stamp=stamp()),
    "the key got an end": UpdateKey(key=key_id(1), expires_ns=1 << 62, stamp=stamp()),
    "the key is deleted": DeleteKey(key=key_id(1), stamp=stamp()),
    "the bucket's policy": PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp()),
    "the bucket's acl": PutBucketDocument(bucket="default", kind_name="acl", body=b"{}", stamp=stamp()),
    "the public block": PutBucketDocument(bucket="default", kind_name="public-access-block", body=b"", stamp=stamp()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_allowed_by_what_changed_since_is_refused(allowed, change):
    """The gateway decided by an older table; it is told so, and nothing happened."""
    requester = by(allowed, identity_id(1), key_id(1))
    allowed.apply(change)
    assert put(allowed, requester) == "access_changed"


UNRELATED = {
    "another identity": create_identity(identity_id(2)),
    "another identity's key": UpdateKey(key=key_id(0), secret=secret(2), stamp=stamp()),
    "the use of the key": RecordKeyUse(keys=[key_id(1)], hour=5, stamp=stamp()),
    "a document that says nothing of access": PutBucketDocument(
        bucket="default", kind_name="cors", body=b"", stamp=stamp()
    ),
    "the policy of another bucket": PutBucketDocument(bucket="photos", kind_name="policy", body=b"", stamp=stamp()),
}


@pytest.mark.parametrize("change", UNRELATED.values(), ids=UNRELATED)
def test_changes_that_do_not_concern_the_principal_refuse_nothing(allowed, change):
    """Else every change of any key would cost every request under way another attempt."""
    allowed.apply(CreateBucket(bucket="photos", stamp=stamp()))
    requester = by(allowed, identity_id(1), key_id(1))
    allowed.apply(change)
    assert put(allowed, requester) is None


def test_one_who_decided_by_the_table_of_now_may(allowed):
    """After the refusal the gateway decides again and proposes anew, under the same request id."""
    before = by(allowed, identity_id(1), key_id(1))
    allowed.apply(UpdateIdentity(identity=identity_id(1), name="other", stamp=stamp()))
    options = {"request_id": "r", "fingerprint": "f"}
    assert put(allowed, before, attempt_id="a1", **options) == "access_changed"
    assert put(allowed, by(allowed, identity_id(1), key_id(1)), attempt_id="a2", **options) is None
    assert put(allowed, before, attempt_id="a1", **options) == "access_changed", "the outcome of that attempt stays"


def test_an_attempt_that_happened_keeps_its_result(allowed):
    """Its outcome was unknown and it is proposed again after the key was revoked: it is not said that it did not happen."""
    requester = by(allowed, identity_id(1), key_id(1))
    for options in ({"request_id": "r", "fingerprint": "f", "attempt_id": "a1"}, {"request_id": "own"}):
        first = allowed.propose(publish("f", start_index=allowed.store.last_applied), requester=requester, **options)
        assert first.problem is None
    allowed.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    for options in ({"request_id": "r", "fingerprint": "f", "attempt_id": "a1"}, {"request_id": "own"}):
        assert put(allowed, requester, **options) is None
    assert put(allowed, requester, request_id="r", fingerprint="f", attempt_id="a2") == "access_changed"


def test_a_stored_result_is_not_for_a_revoked_principal(allowed):
    """The check of the principal comes before the lookup of the request id."""
    requester = by(allowed, identity_id(1), key_id(1))
    assert put(allowed, requester, request_id="r", fingerprint="f", attempt_id="a1") is None
    allowed.apply(UpdateIdentity(identity=identity_id(1), state="disabled", stamp=stamp()))
    assert put(allowed, requester, request_id="r", fingerprint="f", attempt_id="a2") == "access_changed"
    # Decided by the table of now, which may allow it again, it gets what is stored.
    now = by(allowed, identity_id(1), key_id(1))
    assert put(allowed, now, request_id="r", fingerprint="f", attempt_id="a3") is None


def test_a_refusal_without_an_attempt_is_not_remembered(allowed):
    """The next proposal under the request id is made with the table of now."""
    before = by(allowed, identity_id(1), key_id(1))
    allowed.apply(UpdateIdentity(identity=identity_id(1), name="other", stamp=stamp()))
    assert put(allowed, before, request_id="r") == "access_changed"
    assert put(allowed, by(allowed, identity_id(1), key_id(1)), request_id="r") is None


def test_a_principal_that_was_never_there_is_refused(allowed):
    """Once the table that the gateway says it used is not the one of now; and so is a key of another identity."""
    at = access_index(allowed)
    allowed.apply(create_identity(identity_id(2)))
    assert put(allowed, Requester(principal=identity_id(9), access_index=at)) == "access_changed"
    assert put(allowed, Requester(principal=identity_id(1), key=key_id(9), access_index=at)) == "access_changed"
    assert put(allowed, Requester(principal=identity_id(1), key=key_id(0), access_index=at)) == "access_changed"
    assert put(allowed, Requester(principal=identity_id(1), access_index=at)) is None


def test_a_table_that_is_ahead_of_the_state_decides_nothing(allowed):
    """It is another cluster's, from before a restore."""
    assert put(allowed, by(allowed, identity_id(1), at=access_index(allowed) + 1)) == "access_changed"


def test_anonymous_has_no_rows_and_heeds_the_documents_of_buckets(allowed):
    """Identities do not concern it; a bucket that is not public any more does."""
    before = by(allowed, ANONYMOUS)
    allowed.apply(UpdateIdentity(identity=identity_id(1), state="disabled", stamp=stamp()))
    assert put(allowed, before) is None
    allowed.apply(PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp()))
    assert put(allowed, before) == "access_changed"


def test_what_trivet_does_by_itself_no_change_of_access_concerns(allowed):
    """It is allowed by no table."""
    before = by(allowed, SYSTEM)
    allowed.apply(PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp()))
    assert put(allowed, before) is None


def test_a_document_that_is_deleted_is_a_change_too(allowed):
    """A deny that is gone allows what it refused; deleting one that is not there changes nothing."""
    allowed.apply(PutBucketDocument(bucket="default", kind_name="acl", body=b"{}", stamp=stamp()))
    before = by(allowed, identity_id(1), key_id(1))
    allowed.apply(DeleteBucketDocument(bucket="default", kind_name="policy", stamp=stamp()))
    assert access_index(allowed) == before.access_index
    allowed.apply(DeleteBucketDocument(bucket="default", kind_name="acl", stamp=stamp()))
    assert put(allowed, before) == "access_changed"


def test_a_bucket_that_was_made_again_is_not_the_one_that_allowed_it(allowed):
    """Its documents went with the first one of the name."""
    allowed.apply(CreateBucket(bucket="photos", stamp=stamp()))
    allowed.apply(PutBucketDocument(bucket="photos", kind_name="policy", body=b"{}", stamp=stamp()))
    before = by(allowed, ANONYMOUS)
    allowed.apply(DeleteBucket(bucket="photos", stamp=stamp()))
    made = allowed.apply(CreateBucket(bucket="photos", stamp=stamp()))
    command = publish("f", bucket="photos", incarnation=made["incarnation"], start_index=allowed.store.last_applied)
    with pytest.raises(AccessChangedError):
        allowed.apply(command, requester=before)


def test_a_command_on_an_upload_heeds_the_documents_of_its_bucket(allowed):
    """It does not name the bucket; the upload does."""
    index = allowed.next_index
    begun = BeginUpload(bucket="default", key="f", nonce="1" * 32, content_type="text/plain", stamp=stamp())
    allowed.apply(begun)
    before = by(allowed, ANONYMOUS)
    allowed.apply(PutBucketDocument(bucket="default", kind_name="policy", body=b"{}", stamp=stamp()))
    abort = AbortUpload(upload=index, nonce="1" * 32, stamp=stamp())
    with pytest.raises(AccessChangedError):
        allowed.apply(abort, requester=before)
    allowed.apply(abort, requester=by(allowed, ANONYMOUS))


def test_every_field_that_names_a_bucket_is_known():
    """A command to come that names one otherwise would pass a policy that changed."""
    named = set()
    for command in get_args(get_args(AnyCommand)[0]):
        named |= {name for name in command.model_fields if "bucket" in name}
    assert named == set(_BUCKET_FIELDS)


# --- snapshots and old entries --------------------------------------------------------------------------------------


def test_a_member_that_starts_again_knows_the_access_index(allowed):
    """What it checks requesters by is in its tables."""
    before = by(allowed, identity_id(1), key_id(1))
    allowed.apply(DeleteKey(key=key_id(1), stamp=stamp()))
    hash_before = allowed.store.state_hash()
    allowed.store.close()
    again = Log(allowed.path, is_initialised=False)
    allowed.store = again.store
    assert (again.store.state_hash(), changes(again).realm) == (hash_before, REALM)
    assert put(again, before) == "access_changed"


def test_a_state_without_identities_hashes_as_it_did_before_there_were_any(tmp_path):
    """So that members of two versions can compare theirs."""
    log = Log(tmp_path / "metadata.sqlite")
    assert log.store.summary().later() == ()
    log.store.close()


# --- what there is --------------------------------------------------------------------------------------------------


def test_an_identity_is_shown_with_its_keys(log):
    """By id, without those that are deleted; none of a deleted identity, and none of one that never was."""
    log.apply(create_identity(identity_id(1), scopes=[READ_PHOTOS]))
    for number in (3, 2, 4):
        log.apply(create_key(key_id(number), identity_id(1), slot=number))
    log.apply(DeleteKey(key=key_id(4), stamp=stamp()))
    shown = log.ask(GetIdentity(identity=identity_id(1)))
    assert (shown.identity.scopes, shown.realm) == ([READ_PHOTOS], REALM)
    assert [key.id for key in shown.keys] == [key_id(2), key_id(3)]
    assert log.ask(GetKey(key=key_id(3))).key == shown.keys[1]
    assert log.ask(GetKey(key=key_id(4))).key is None
    assert log.ask(GetKey(key=key_id(9))).key is None
    log.apply(DeleteIdentity(identity=identity_id(1), stamp=stamp()))
    for gone in (identity_id(1), identity_id(9)):
        assert log.ask(GetIdentity(identity=gone)) == IdentityAnswer(identity=None, realm=REALM)
    assert log.ask(GetKey(key=key_id(3))).key is None


def test_identities_are_listed_by_id_in_pages(log):
    """Each once, whatever the size of a page; the deleted ones are in none."""
    for number in range(1, 6):
        log.apply(create_identity(identity_id(number)))
    log.apply(DeleteIdentity(identity=identity_id(3), stamp=stamp()))
    wanted = [identity_id(number) for number in (1, 2, 4, 5)] + [ROOT]
    for limit in (1, 2, 4, 5, 6):
        found, after = [], None
        while True:
            page = log.ask(ListIdentities(after=after, limit=limit))
            assert len(page.identities) <= limit
            found += [identity.id for identity in page.identities]
            if not page.has_more:
                break
            after = page.identities[-1].id
        assert found == wanted
