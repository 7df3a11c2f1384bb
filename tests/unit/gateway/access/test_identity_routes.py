"""Identities, keys and links by HTTP: what is shown, once or never, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.gateway.access.links import HARMLESS, is_to_be_named
from services.gateway.access.sealing import Sealer
from services.gateway.api import fast_path
from services.gateway.api.requests import fields_of
from shared.contracts.access import Action, ListAccessChanges, Scope
from shared.contracts.time import ClockState
from shared.links import LIFETIME_MAX_S
from shared.units import NANOSECONDS_PER_SECOND
from tests.unit.gateway.access.scene import SEALING_KEY, Holder, Running, Scene

pytestmark = pytest.mark.virtual_time

READ = {"actions": ["read"], "bucket": "photos", "prefix": "2026/"}


async def call(here: Running, scene: Scene, method: str, path: str, body: Any = None, *, status: int) -> Any:
    """As root, on the operations listener."""
    answer = await here.operations.request(method, path, json=body, headers=scene.root.headers)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def test_an_identity_is_made_shown_changed_and_deleted(here: Running, scene: Scene) -> None:
    """With what it may do and how much."""
    made = await call(
        here, scene, "POST", "/v1/identities",
        {"name": "camera", "scopes": [READ], "limits": {"quota_files": 10}}, status=201,
    )  # fmt: skip
    path = f"/v1/identities/{made['id']}"
    assert made["scopes"] == [{"effect": "allow", **READ}]
    assert made["limits"]["quota_files"] == 10
    assert (made["state"], made["is_root"]) == ("active", False)
    shown = await call(here, scene, "GET", path, status=200)
    assert shown == {**made, "keys": [], "usage": {"size_bytes": 0, "files": 0}}
    changed = await call(here, scene, "PATCH", path, {"state": "disabled", "scopes": []}, status=200)
    assert (changed["state"], changed["scopes"], changed["name"]) == ("disabled", [], "camera")
    assert changed["usage"] is None
    await call(here, scene, "DELETE", path, status=204)
    assert (await call(here, scene, "GET", path, status=404))["code"] == "identity_not_found"


async def test_an_identity_shows_how_much_there_is_of_what_it_wrote(here: Running, scene: Scene) -> None:
    """Wherever it wrote it, and nothing of others."""
    writer, other = [await scene.holder(Scope(actions=[Action.WRITE], bucket="default")) for _ in range(2)]
    for key in ("a", "b"):
        answer = await here.public.put(f"/v1/files/default/{key}", content=b"four", headers=writer.headers)
        assert answer.status_code == 201
    for holder, usage in ((writer, {"size_bytes": 8, "files": 2}), (other, {"size_bytes": 0, "files": 0})):
        shown = await call(here, scene, "GET", f"/v1/identities/{holder.identity}", status=200)
        assert shown["usage"] == usage


async def test_identities_are_listed_in_pages(here: Running, scene: Scene) -> None:
    """By id, each once."""
    for _ in range(4):
        await scene.holder()
    found: list[str] = []
    path = "/v1/identities?limit=2"
    while True:
        page = await call(here, scene, "GET", path, status=200)
        assert len(page["identities"]) <= 2
        found += [identity["id"] for identity in page["identities"]]
        if page["cursor"] is None:
            break
        path = f"/v1/identities?limit=2&cursor={page['cursor']}"
    assert found == [f"{number:064x}" for number in range(1, 6)]


async def test_a_secret_is_shown_once(here: Running, scene: Scene) -> None:
    """In the answer that no cache keeps; nowhere before, after or beside it."""
    holder = await scene.holder(Scope(actions=[Action.READ], bucket="default"))
    path = f"/v1/identities/{holder.identity}/keys"
    answer = await here.operations.post(path, json={}, headers=scene.root.headers)
    assert answer.status_code == 201
    assert "no-store" in answer.headers.get_list("cache-control", split_commas=True)
    created = answer.json()
    assert len(created["secret"]) == 40
    key = Holder(holder.identity, created["id"], created["secret"])
    caller = (await here.public.get("/v1/identity", headers=key.headers)).json()
    assert (caller["id"], caller["key"]) == (holder.identity, created["id"])
    shown = [
        await call(here, scene, "GET", path, status=200),
        await call(here, scene, "GET", f"/v1/identities/{holder.identity}", status=200),
        await call(here, scene, "GET", f"/v1/keys/{created['id']}", status=200),
        await call(here, scene, "PATCH", f"/v1/keys/{created['id']}", {"state": "disabled"}, status=200),
        (await scene.metadata.read(ListAccessChanges()))[0].model_dump(mode="json"),
    ]
    for document in shown:
        assert created["secret"] not in json.dumps(document)
    assert [key["id"] for key in shown[0]["keys"]] == sorted([holder.key, created["id"]])


async def test_a_key_is_replaced_by_a_second_one(here: Running, there: Running, scene: Scene) -> None:
    """Both open until the first is deleted, at every gateway."""
    old = await scene.holder(Scope(actions=[Action.READ], bucket="default"))
    created = await call(here, scene, "POST", f"/v1/identities/{old.identity}/keys", {}, status=201)
    new = Holder(old.identity, created["id"], created["secret"])
    for key in (old, new):
        assert (await there.public.get("/v1/identity", headers=key.headers)).status_code == 200
    await call(here, scene, "DELETE", f"/v1/keys/{old.key}", status=204)
    assert (await there.public.get("/v1/buckets", headers=old.headers)).status_code == 401
    assert (await there.public.get("/v1/buckets", headers=new.headers)).status_code == 200


async def test_an_identity_has_five_keys(here: Running, scene: Scene) -> None:
    """And a slot that was given up is used again."""
    holder = await scene.holder()
    path = f"/v1/identities/{holder.identity}/keys"
    made = [await call(here, scene, "POST", path, {}, status=201) for _ in range(4)]
    assert (await call(here, scene, "POST", path, {}, status=409))["code"] == "too_many_keys"
    await call(here, scene, "DELETE", f"/v1/keys/{made[1]['id']}", status=204)
    await call(here, scene, "POST", path, {}, status=201)


async def test_a_key_of_another_store_is_imported(here: Running, scene: Scene) -> None:
    """With its own id and secret; a short one is refused."""
    holder = await scene.holder()
    path = f"/v1/identities/{holder.identity}/keys"
    wanted = {"id": "TV" + "I" * 18, "secret": "s" * 32}
    assert (await call(here, scene, "POST", path, wanted, status=201))["id"] == wanted["id"]
    caller = await here.public.get("/v1/identity", headers=Holder("", wanted["id"], wanted["secret"]).headers)
    assert caller.json()["id"] == holder.identity
    assert (await call(here, scene, "POST", path, wanted, status=409))["code"] == "key_exists"
    for wrong in ({"id": "TV" + "J" * 18, "secret": "s" * 31}, {"id": "TV" + "J" * 18}, {"secret": "s" * 40}):
        problem = await call(here, scene, "POST", path, wrong, status=400)
        assert "sss" not in json.dumps(problem)


async def test_a_key_expires(here: Running, scene: Scene) -> None:
    """At the time that it was given; that can be moved, and taken away."""
    holder = await scene.holder()
    path = f"/v1/identities/{holder.identity}/keys"
    created = await call(here, scene, "POST", path, {"expires": "2100-01-01T00:00:00+01:00"}, status=201)
    assert created["expires"] == "2099-12-31T23:00:00.000000Z"
    key = Holder(holder.identity, created["id"], created["secret"])
    assert (await here.public.get("/v1/identity", headers=key.headers)).status_code == 200
    path = f"/v1/keys/{key.key}"
    await call(here, scene, "PATCH", path, {"expires": "1970-01-01T00:00:00Z"}, status=200)
    assert (await here.public.get("/v1/identity", headers=key.headers)).status_code == 401
    changed = await call(here, scene, "PATCH", path, {"state": "active"}, status=200)
    assert changed["expires"] == "1970-01-01T00:00:00.000000Z", "it was not named"
    changed = await call(here, scene, "PATCH", path, {"expires": None}, status=200)
    assert (changed["state"], changed["expires"]) == ("active", None)
    assert (await here.public.get("/v1/identity", headers=key.headers)).status_code == 200


@pytest.mark.parametrize(("earliest_s", "latest_s", "status"), [(98, 99, 200), (98, 100, 401), (100, 101, 401)])
async def test_a_key_has_expired_when_it_may_have(
    here: Running, scene: Scene, monkeypatch: pytest.MonkeyPatch, earliest_s: int, latest_s: int, status: int
) -> None:
    """By the upper bound of true time, as a link."""
    holder = await scene.holder(expires_ns=100 * NANOSECONDS_PER_SECOND)
    stamp = scene.clock.stamp().model_copy(
        update={
            "earliest_ns": earliest_s * NANOSECONDS_PER_SECOND,
            "latest_ns": latest_s * NANOSECONDS_PER_SECOND,
            "state": ClockState.SYNCED,
        }
    )
    monkeypatch.setattr(scene.clock, "stamp", lambda: stamp)
    assert (await here.public.get("/v1/identity", headers=holder.headers)).status_code == status


@pytest.mark.parametrize("expires", ["8797-10-02T10:10:57-06:43", "2262-04-12T00:00:00Z", "1969-12-31T23:59:59Z"])
async def test_a_key_ends_at_a_moment_that_can_be_said(here: Running, scene: Scene, expires: str) -> None:
    """A year beyond is malformed, and no defect."""
    holder = await scene.holder()
    await call(here, scene, "PATCH", f"/v1/keys/{holder.key}", {"expires": expires}, status=400)
    await call(here, scene, "POST", f"/v1/identities/{holder.identity}/keys", {"expires": expires}, status=400)


async def test_the_last_root_key_stays(here: Running, scene: Scene) -> None:
    """Whichever way it is tried."""
    root = scene.root
    for method, path, body in (
        ("DELETE", f"/v1/keys/{root.key}", None),
        ("PATCH", f"/v1/keys/{root.key}", {"state": "disabled"}),
        ("PATCH", f"/v1/keys/{root.key}", {"expires": "1970-01-01T00:00:00Z"}),
        ("PATCH", f"/v1/identities/{root.identity}", {"state": "disabled"}),
        ("DELETE", f"/v1/identities/{root.identity}", None),
    ):
        assert (await call(here, scene, method, path, body, status=409))["code"] == "last_root_key"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x", "surprise": 1},
        {"name": "x", "scopes": [{"actions": ["read"], "bucket": "photos", "prefix": "2026"}]},
        {"name": "x", "scopes": [{"actions": ["reed"], "bucket": "photos"}]},
        {"name": "x", "scopes": [{"actions": ["read"], "bucket": "Photos*"}]},
        {"name": "x", "scopes": [{"actions": ["read"], "bucket": "photos", "prefix": "../"}]},
        {"name": "x", "scopes": [{"actions": ["cluster-admin"], "bucket": "photos"}]},
        {"name": "x", "scopes": [{"actions": ["bucket-admin"], "bucket": "photos", "prefix": "2026/"}]},
        {"name": "x", "scopes": [READ] * 65},
    ],
)
async def test_a_scope_that_does_not_say_what_it_seems_to_is_refused(here: Running, scene: Scene, body) -> None:
    """Rather than allow nothing, or too much, in silence."""
    await call(here, scene, "POST", "/v1/identities", body, status=400)


@pytest.mark.parametrize(
    "path", ["/v1/identities/x", f"/v1/identities/{'f' * 64}", "/v1/keys/x", "/v1/keys/TV" + "9" * 18]
)
async def test_what_is_not_there_is_404(here: Running, scene: Scene, path) -> None:
    """Also what could be nobody's id."""
    for method, body in (("GET", None), ("PATCH", {"state": "disabled"}), ("DELETE", None)):
        await call(here, scene, method, path, body, status=404)


async def test_only_cluster_admins_see_identities(here: Running, scene: Scene) -> None:
    """And only on the operations listener."""
    holder = await scene.holder(Scope(actions=[action for action in Action if action != "cluster-admin"], bucket="*"))
    admin = await scene.holder(Scope(actions=[Action.CLUSTER_ADMIN], bucket="*"))
    for method, path in (
        ("GET", "/v1/identities"),
        ("POST", "/v1/identities"),
        ("GET", f"/v1/identities/{holder.identity}"),
        ("PATCH", f"/v1/identities/{holder.identity}"),
        ("DELETE", f"/v1/identities/{holder.identity}"),
        ("POST", f"/v1/identities/{holder.identity}/keys"),
        ("GET", f"/v1/keys/{holder.key}"),
    ):
        assert (await here.operations.request(method, path, headers=holder.headers)).status_code == 403
        assert (await here.public.request(method, path, headers=admin.headers)).status_code == 404
    assert (await here.operations.get("/v1/identities", headers=admin.headers)).status_code == 200


async def test_whoever_asks_is_told_who_it_is(here: Running, scene: Scene) -> None:
    """On both listeners, with scopes and limits."""
    scope = Scope(actions=[Action.READ], bucket="default", prefix="a/")
    holder = await scene.holder(scope)
    for listener in (here.public, here.operations):
        caller = (await listener.get("/v1/identity", headers=holder.headers)).json()
        assert caller["id"] == holder.identity
        assert caller["scopes"] == [scope.model_dump(mode="json")]
        assert not caller["is_root"]
        assert (await listener.get("/v1/identity")).status_code == 401


async def test_secrets_are_sealed_under_the_first_sealing_key(here: Running, scene: Scene) -> None:
    """As the row says."""
    holder = await scene.holder()
    created = await call(here, scene, "POST", f"/v1/identities/{holder.identity}/keys", {}, status=201)
    assert created["sealing_key"] == Sealer([SEALING_KEY]).sealing_key


# --- what belongs to a principal ---------------------------------------------------------------------------------


WRITER = Scope(actions=[Action.READ, Action.WRITE, Action.DELETE], bucket="default", prefix="mine/")


async def test_a_cursor_belongs_to_whom_it_was_given(here: Running, scene: Scene) -> None:
    """Another principal's is 400, whatever that one may do."""
    for key in ("mine/1", "mine/2"):
        await here.public.put(f"/v1/files/default/{key}", content=b"", headers=scene.root.headers)
    one = await scene.holder(Scope(actions=[Action.LIST], bucket="default"))
    cursor = (await here.public.get("/v1/files/default?limit=1", headers=one.headers)).json()["cursor"]
    path = f"/v1/files/default?cursor={cursor}"
    assert (await here.public.get(path, headers=scene.root.headers)).status_code == 400
    again = await here.public.get(path, headers=one.headers)
    assert [row["key"] for row in again.json()["files"]] == ["mine/2"]


async def test_an_idempotency_key_belongs_to_a_principal(here: Running, scene: Scene) -> None:
    """Two that use the same one are two requests, and neither sees the other's answer."""
    one, other = await scene.holder(WRITER), await scene.holder(WRITER)
    path, repeated = "/v1/files/default/mine/x", {"idempotency-key": "once"}
    first = await here.public.put(path, content=b"1", headers=one.headers | repeated)
    second = await here.public.put(path, content=b"2", headers=other.headers | repeated)
    again = await here.public.put(path, content=b"1", headers=one.headers | repeated)
    assert (first.status_code, second.status_code) == (201, 200)
    assert again.json()["version"] == first.json()["version"] != second.json()["version"]


async def test_a_link_is_made_with_a_key_for_what_it_opens(here: Running, scene: Scene) -> None:
    """Nothing outside a scope; nothing that lasts too long; not by a link."""
    holder = await scene.holder(WRITER)
    for body, status in (
        ({"bucket": "default", "key": "other"}, 403),
        ({"bucket": "other-bucket", "key": "mine/a"}, 403),
        ({"bucket": "default", "key": "mine/a", "expires_in_s": LIFETIME_MAX_S + 1}, 400),
        ({"bucket": "default", "key": "mine/a", "expires_in_s": 0}, 400),
        ({"bucket": "default", "key": "mine/../a"}, 400),
        ({"bucket": "default", "key": "mine/a", "method": "POST"}, 400),
        ({"bucket": "default", "key": "mine/a", "headers": {"A": "1", "a": "1"}}, 400),
        ({"bucket": "default", "key": "mine/a", "headers": {"a": "1\n2"}}, 400),
    ):
        answer = await here.public.post("/v1/links", json=body, headers=holder.headers)
        assert answer.status_code == status, body
    assert (await here.public.post("/v1/links", json={"bucket": "default", "key": "mine/a"})).status_code == 401


async def test_every_header_that_is_read_is_harmless_or_must_be_named(here: Running, scene: Scene, monkeypatch) -> None:
    """A header that a call comes to read is one or the other: who adds it says which."""
    read: set[str] = set()

    class Watched(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

        def __getitem__(self, name: str) -> str:
            read.add(name)
            return super().__getitem__(name)

        def __contains__(self, name: object) -> bool:
            read.add(str(name))
            return super().__contains__(name)

    monkeypatch.setattr(fast_path, "fields_of", lambda scope: Watched(fields_of(scope)))
    path = "/v1/files/default/a"
    for method, headers in (
        ("PUT", {"if-match": "*", "content-md5": "x"}),
        ("PUT", {}),
        ("GET", {"if-none-match": '"x"', "if-range": '"y"', "range": "bytes=0-0"}),
        ("GET", {"if-modified-since": "x", "if-unmodified-since": "x"}),
        ("HEAD", {"x-trivet-read-quorum": "2"}),
        ("DELETE", {"if-match": '"x"'}),
        ("DELETE", {"idempotency-key": "x"}),
    ):
        await here.public.request(method, path, content=b"1", headers=scene.root.headers | headers)
    assert {"if-match", "range", "content-md5", "idempotency-key", "x-trivet-read-quorum"} <= read
    assert [name for name in sorted(read) if name not in HARMLESS and not is_to_be_named(name)] == []
