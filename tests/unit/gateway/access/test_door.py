"""The door: every route of every listener asks who is there, before anything else, and says no in the right words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route

from services.gateway.access.credentials import bearer_of
from services.gateway.api.door_routes import OPERATIONS, PUBLIC, RouteTable, Rule
from services.gateway.main import build_app
from shared.contracts.access import Action
from shared.errors import CredentialInvalidError, UnauthenticatedError
from tests.unit.gateway.access.scene import Holder, Running, Scene, asking, may
from tests.unit.gateway.conftest import make_settings

pytestmark = pytest.mark.virtual_time

NAMES = {
    "{bucket}": "default",
    "{key:any}": "mine/a",
    "{upload_id}": f"{1:016x}-{'0' * 32}",
    "{number}": "1",
    "{node_id}": "storage-9",
    "{backup_id}": "backup",
    "{identity}": "f" * 64,
    "{key}": "TV" + "9" * 18,
    "{path:path}": "favicon.png",
}
TABLES: dict[str, Mapping[str, Mapping[str, Rule]]] = {"public": PUBLIC, "operations": OPERATIONS}
CHALLENGE = 'Bearer realm="trivet"'


def concrete(template: str) -> str:
    for name, value in NAMES.items():
        template = template.replace(name, value)
    assert "{" not in template, f"no example of {template}"
    return template


GUARDED = [
    pytest.param(listener, method, concrete(template), rule, id=f"{listener} {method} {template}")
    for listener, table in TABLES.items()
    for template, methods in table.items()
    for method, rule in methods.items()
    if not rule.is_open
]


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Every path and method that it answers."""
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        if isinstance(route, Mount):
            found.add((f"{route.path}/{{path:path}}", "GET"))
        else:
            assert isinstance(route, Route), f"{route}: made a second time, and looked through for every request"
            found |= {(route.path, method) for method in route.methods or set()}
    return found


def declared(app: FastAPI) -> set[tuple[str, str]]:
    """As the table has them: a HEAD that is declared beside GET, as the framework does for pages, is that of the GET."""
    routes = routes_of(app)
    return {
        (path, method) for path, method in routes if method != "HEAD" or path in BOTH or (path, "GET") not in routes
    }


BOTH = {"/v1/files/{bucket}/{key:any}"}
"""Paths whose HEAD is a route of its own."""


@pytest.mark.parametrize("listener", TABLES)
def test_the_table_has_every_route_and_no_other(listener: str) -> None:
    """A new route without an entry fails here; so does an entry that no route has any more."""
    app = build_app(make_settings())
    listening = app if listener == "public" else app.operations
    assert listening is not None
    assert declared(listening) == {(path, method) for path, methods in TABLES[listener].items() for method in methods}


def test_the_fast_path_has_no_route_of_its_own() -> None:
    """What it answers before FastAPI has a rule."""
    app, table = build_app(make_settings()), RouteTable(PUBLIC)
    assert app.front is not None
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        for path in ("/v1/files/default/a", "/v1/files/default/", "/v1/files/default/a\n", "/v1/files/\n/a"):
            rule = table.rule({"method": method, "path": path})
            assert rule is not None
            assert rule.action is not None


@pytest.fixture
async def wrong(scene: Scene) -> dict[str, Mapping[str, str]]:
    """Headers that prove nothing, and the code of the refusal by each."""
    holder, gone = await scene.holder(*EVERY_SCOPE), await scene.holder(*EVERY_SCOPE)
    disabled, expired = await scene.another_key(gone.identity), await scene.holder(*EVERY_SCOPE, expires_ns=1)
    await scene.disable_key(disabled)
    nobody = await scene.holder(*EVERY_SCOPE)
    await scene.disable(nobody)
    return {
        "no credential": {},
        "another secret": Holder(holder.identity, holder.key, "x" * 40).headers,
        "another's secret": Holder(holder.identity, holder.key, gone.secret).headers,
        "no such key": Holder("", "TV" + "0" * 18, holder.secret).headers,
        "no secret": {"authorization": f"Bearer {holder.key}"},
        "disabled": disabled.headers,
        "expired": expired.headers,
        "disabled identity": nobody.headers,
        "another scheme": {"authorization": "Basic " + "eDp5"},
        "the old admin token": {"authorization": "Bearer " + "a" * 64},
    }


EVERY_SCOPE = [may("*", *Action)]


@pytest.mark.parametrize(("listener", "method", "path", "rule"), GUARDED)
async def test_without_a_credential_in_force_every_route_is_401(
    scene: Scene,
    here: Running,
    wrong: Mapping[str, Mapping[str, str]],
    listener: str,
    method: str,
    path: str,
    rule: Rule,
) -> None:
    """Whatever the route is, nothing is proposed, and the answer asks for a bearer."""
    before = scene.metadata.store.last_applied
    for what, headers in wrong.items():
        answer = await getattr(here, listener).request(method, path, headers=headers)
        assert answer.status_code == 401, (what, answer.text)
        assert answer.headers["www-authenticate"] == CHALLENGE
        assert answer.headers["cache-control"] == "no-cache"
        if method != "HEAD":
            expected = "unauthenticated" if what in {"no credential", "another scheme"} else "credential_invalid"
            assert answer.json()["code"] == expected, what
            assert answer.json()["definite"] is True
    assert scene.metadata.store.last_applied == before
    access = here.gateway.services.access
    assert access is not None
    assert sum(access.refusals.statistics().values()) == len(wrong)


def all_but(action: Action) -> list[Action]:
    return [other for other in Action if other is not action]


@pytest.mark.parametrize(
    ("listener", "method", "path", "rule"), [case for case in GUARDED if case.values[3].action is not None]
)
async def test_every_wrong_scope_is_403(
    scene: Scene, here: Running, listener: str, method: str, path: str, rule: Rule
) -> None:
    """All other actions; the action elsewhere; the action where it is denied as well."""
    action, before = rule.action, 0
    assert action is not None
    denied = may("default", action).model_copy(update={"effect": "deny"})
    wrong = {
        "nothing": [],
        "all other actions": [may("*", *all_but(action))],
        "another bucket": [may("defaults", action)],
        "another prefix": [may("default", action, prefix="mine/a/")],
        "denied": [may("*", *Action), denied],
    }
    if rule.target is not None and action is not Action.BUCKET_ADMIN and "mine" not in path:
        del wrong["another prefix"]
    for what, scopes in wrong.items():
        holder = await scene.holder(*scopes)
        before = scene.metadata.store.last_applied
        answer = await getattr(here, listener).request(method, path, headers=holder.headers)
        assert answer.status_code == 403, (what, answer.text)
        assert scene.metadata.store.last_applied == before
        if method != "HEAD":
            assert answer.json()["code"] == "access_denied"
    answer = await getattr(here, listener).request(method, path, headers=scene.root.headers)
    assert answer.status_code not in {401, 403}, answer.text


COPY = {"source": {"bucket": "default", "key": "mine/a"}, "target": {"bucket": "default", "key": "mine/b"}}
BY_COMMANDS = {
    "copy": ("POST", "/v1/copy", COPY, [Action.READ, Action.WRITE]),
    "rename": ("POST", "/v1/rename", COPY, [Action.READ, Action.WRITE, Action.DELETE]),
    "restore": (
        "POST",
        "/v1/restore",
        {"bucket": "default", "key": "mine/a", "version": 1},
        [Action.READ, Action.WRITE],
    ),
    "batch": ("POST", "/v1/batch-delete", {"bucket": "default", "files": [{"key": "mine/a"}]}, [Action.DELETE]),
    "begin": ("POST", "/v1/uploads", {"bucket": "default", "key": "mine/a"}, [Action.WRITE]),
    "uploads": ("GET", "/v1/uploads?bucket=default&prefix=mine/", None, [Action.LIST]),
}


@pytest.mark.parametrize("name", BY_COMMANDS)
async def test_what_a_body_names_is_decided_by_the_very_command(scene: Scene, here: Running, name: str) -> None:
    """It needs each of these actions, there; a path, a header or another action opens nothing."""
    method, path, body, actions = BY_COMMANDS[name]
    await here.public.put("/v1/files/default/mine/a", content=b"x", headers=scene.root.headers)
    for missing in actions:
        for scopes in (
            [may("default", *all_but(missing))],
            [may("*", *all_but(missing)), may("default", missing, prefix="other/")],
        ):
            holder = await scene.holder(*scopes)
            before = scene.metadata.store.last_applied
            answer = await here.public.request(method, path, json=body, headers=holder.headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "access_denied"), missing
            assert scene.metadata.store.last_applied == before
    allowed = await scene.holder(may("default", *actions, prefix="mine/"))
    answer = await here.public.request(method, path, json=body, headers=allowed.headers)
    assert answer.status_code not in {401, 403}, answer.text


async def test_an_upload_is_for_who_may_write_the_file_that_it_will_be(scene: Scene, here: Running) -> None:
    """Whoever knows its id and may write elsewhere can do nothing with it."""
    begun = await here.public.post(
        "/v1/uploads", json={"bucket": "default", "key": "mine/a"}, headers=scene.root.headers
    )
    upload = f"/v1/uploads/{begun.json()['upload_id']}"
    part = {"parts": [{"number": 1, "etag": "0" * 64}]}
    calls = [
        ("GET", upload, {}),
        ("PUT", f"{upload}/parts/1", {"content": b"x"}),
        ("POST", f"{upload}/parts/1/copy", {"json": {"source": {"bucket": "default", "key": "other/a"}}}),
        ("POST", f"{upload}/complete", {"json": part}),
        ("DELETE", upload, {}),
    ]
    stranger = await scene.holder(may("default", *Action, prefix="other/"))
    before = scene.metadata.store.last_applied
    for method, path, arguments in calls:
        answer = await here.public.request(method, path, headers=stranger.headers, **arguments)
        assert (answer.status_code, answer.json()["code"]) == (403, "access_denied"), path
    assert scene.metadata.store.last_applied == before
    writer = await scene.holder(may("default", Action.WRITE, prefix="mine/"))
    for method, path, arguments in calls:
        answer = await here.public.request(method, path, headers=writer.headers, **arguments)
        assert (answer.status_code in {401, 403}) is path.endswith("/copy"), (path, answer.text)


async def test_a_form_stores_nothing_under_a_name_that_its_sender_may_not_write(scene: Scene, here: Running) -> None:
    """The path names the bucket alone: what the form says is decided before a byte of its file is kept."""
    holder = await scene.holder(may("default", Action.WRITE, prefix="mine/"))
    for name, status in (("other/a", 403), ("mine/a", 201)):
        files = {"file": (name, b"x" * 5000)}
        answer = await here.public.post("/v1/files/default", files=files, headers=holder.headers)
        assert answer.status_code == status, answer.text
        assert any(scene.nodes.chunks.values()) is (status == 201)


async def test_a_list_of_buckets_shows_those_where_something_is_allowed(scene: Scene, here: Running) -> None:
    """To anybody with a key."""
    for name in ("photos", "films"):
        await here.public.put(f"/v1/buckets/{name}", headers=scene.root.headers)
    holder = await scene.holder(may("photos", Action.READ, prefix="a/"))
    listed = await here.public.get("/v1/buckets", headers=holder.headers)
    assert [bucket["name"] for bucket in listed.json()["buckets"]] == ["photos"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/files", "/nothing", "/v1/%63luster", "/v1/files/default/a/../b"])
async def test_what_is_no_route_is_not_reached(scene: Scene, here: Running, path: str) -> None:
    """Nobody is told so; whoever has a key is told what the router would have said."""
    assert (await here.public.get(path)).status_code == 401
    answer = await here.public.get(path, headers=scene.root.headers)
    assert answer.status_code in {400, 404}
    other = await here.public.request("PATCH", "/v1/cluster", headers=scene.root.headers)
    assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD")


async def test_health_and_the_description_need_no_credential(here: Running) -> None:
    """Nor is a wrong one looked at."""
    for client in (here.public, here.operations):
        for path in ("/healthz", "/readyz", "/docs", "/redoc", "/openapi.json", "/docs-assets/favicon.png"):
            assert (await client.get(path)).status_code == 200, path
            assert (await client.get(path, headers={"authorization": "Bearer x"})).status_code == 200
    assert (await here.operations.get("/metrics")).status_code == 200


async def test_one_credential_once(scene: Scene, here: Running) -> None:
    """Two of a form, and two forms, are 400: nobody chooses between them."""
    bearer = scene.root.headers["authorization"]
    twice = await here.public.get("/v1/time", headers=[("authorization", bearer), ("authorization", bearer)])
    assert (twice.status_code, twice.json()["code"]) == (400, "invalid_request")
    link = f"link-key={scene.root.key}&link-expires=1&link-signature={'0' * 64}"
    both = await here.public.get(f"/v1/files/default/a?{link}", headers=scene.root.headers)
    assert (both.status_code, both.json()["code"]) == (400, "invalid_request")


REMOTE = "192.0.2.7"
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "scheme", "headers", "changes", "is_taken"),
    [
        ("127.0.0.1", "http", {}, {}, True),
        ("::1", "http", {}, {}, True),
        ("::ffff:127.0.0.1", "http", {}, {}, True),
        (REMOTE, "http", {}, {}, False),
        (REMOTE, "https", {}, {}, True),
        (REMOTE, "http", {}, {"allow_plain_bearer": True}, True),
        (REMOTE, "http", {"x-forwarded-proto": "https"}, {"trusted_proxies": "10.0.0.0/8"}, False),
        (PROXY, "http", {"x-forwarded-proto": "https"}, {}, False),
        (PROXY, "http", {"x-forwarded-proto": "https"}, {"trusted_proxies": "10.0.0.0/8, 192.168.0.1"}, True),
        (PROXY, "http", {"x-forwarded-proto": "http"}, {"trusted_proxies": "10.0.0.0/8"}, False),
        (PROXY, "http", {"x-forwarded-proto": "https, http"}, {"trusted_proxies": "10.0.0.0/8"}, False),
        (PROXY, "http", {}, {"trusted_proxies": "10.0.0.0/8"}, False),
        ("127.0.0.1", "http", {"x-forwarded-proto": "http"}, {"trusted_proxies": "127.0.0.1"}, False),
        ("127.0.0.1", "http", {"x-forwarded-proto": "https"}, {"trusted_proxies": "127.0.0.1"}, True),
        ("127.0.0.1", "http", {}, {"trusted_proxies": "127.0.0.1"}, True),
    ],
)
async def test_a_key_is_taken_where_nobody_could_read_it(
    scene: Scene, address: str, scheme: str, headers: Mapping[str, str], changes: Mapping[str, object], is_taken: bool
) -> None:
    """Over TLS, from this machine, from a trusted proxy that says so, or everywhere if the operator wants it; known or not."""
    async with scene.gateway(**changes) as running:
        client = asking(running.app, address=address, base_url=f"{scheme}://localhost")
        for _ in range(2):
            answer = await client.get("/v1/time", headers={**scene.root.headers, **headers})
            assert answer.status_code == (200 if is_taken else 403)
            if not is_taken:
                assert answer.json()["code"] == "plain_credential"
            known = await running.public.get("/v1/time", headers=scene.root.headers)
            assert known.status_code == 200
        assert bool(running.gateway.degradations()) is bool(changes.get("allow_plain_bearer"))


@pytest.mark.parametrize(
    ("changes", "address", "headers", "expected"),
    [
        ({}, "127.0.0.1", {}, (401, 401)),
        ({"anonymous": "read"}, "127.0.0.1", {}, (200, 401)),
        ({"anonymous": "write"}, "127.0.0.1", {}, (200, 201)),
        ({"anonymous": "write"}, REMOTE, {}, (401, 401)),
        ({"anonymous": "write"}, "127.0.0.1", {"x-forwarded-for": REMOTE}, (401, 401)),
        ({"anonymous": "write"}, "127.0.0.1", {"forwarded": "for=x"}, (401, 401)),
        ({"anonymous": "write"}, "127.0.0.1", {"via": "1.1 x"}, (401, 401)),
        ({"anonymous": "write", "anonymous_anywhere": True}, REMOTE, {}, (200, 201)),
        ({"anonymous": "read", "anonymous_anywhere": True}, REMOTE, {}, (200, 401)),
    ],
)
async def test_anonymous_is_nobody_unless_the_operator_says_otherwise(
    scene: Scene, changes: Mapping[str, object], address: str, headers: Mapping[str, str], expected: tuple[int, int]
) -> None:
    """And only on this machine unless that is said as well; a wrong credential is never taken for none."""
    async with scene.gateway(**changes) as running:
        await running.public.put("/v1/files/default/a", content=b"x", headers=scene.root.headers)
        client = asking(running.app, address=address)
        read = await client.get("/v1/files/default/a", headers=headers)
        written = await client.put("/v1/files/default/b", content=b"x", headers=headers)
        assert (read.status_code, written.status_code) == expected
        assert (await client.get("/v1/cluster", headers=headers)).status_code == 401
        assert (await client.delete("/v1/buckets/default", headers=headers)).status_code == 401
        wrong = await running.public.get("/v1/files/default/a", headers={"authorization": "Bearer x"})
        assert wrong.status_code == 401


async def test_a_refused_upload_is_not_asked_for_its_body(scene: Scene, here: Running) -> None:
    """What asks for the first byte sends 100 Continue."""
    asked: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        asked.append("body")
        yield b"x" * 100

    reader = await scene.holder(may("default", Action.READ))
    for headers, status in (({}, 401), (reader.headers, 403)):
        scope_sent = await here.public.put("/v1/files/default/a", content=body(), headers=headers)
        assert scope_sent.status_code == status
    assert asked == []


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", UnauthenticatedError),
        (b"Bearer", UnauthenticatedError),
        (b"Bearer ", UnauthenticatedError),
        (b"Basic eDp5", UnauthenticatedError),
        (b"AWS4-HMAC-SHA256 Credential=x", UnauthenticatedError),
        (b"Bearer a b", UnauthenticatedError),
        (b"Bearer \xff", UnauthenticatedError),
        (b"Bearer x", CredentialInvalidError),
        (b"Bearer TV000000000000000000", CredentialInvalidError),
        (b"Bearer TV000000000000000000.", CredentialInvalidError),
        (b"Bearer tv000000000000000000.x", CredentialInvalidError),
        (b"Bearer TV000000000000000000." + b"x" * 257, CredentialInvalidError),
    ],
)
def test_a_bearer_is_an_id_and_a_secret(value: bytes, error: type[UnauthenticatedError]) -> None:
    """Nothing else is looked up."""
    with pytest.raises(error) as raised:
        bearer_of(value)
    assert type(raised.value) is error
    found = bearer_of(b"bearer  TV000000000000000000.a.b ")
    assert (found.key, found.secret) == ("TV000000000000000000", "a.b")
    assert "a.b" not in repr(found)


async def test_a_bearer_that_was_right_is_remembered_for_the_rows_of_then(scene: Scene, here: Running) -> None:
    """A wrong one never is, and a right one not when the rows are others."""
    old = await scene.holder(*EVERY_SCOPE)
    wrong = Holder(old.identity, old.key, "y" * 40)
    for holder, status in ((old, 200), (wrong, 401), (wrong, 401), (old, 200)):
        assert (await here.public.get("/v1/time", headers=holder.headers)).status_code == status
    await scene.disable_key(old)
    assert (await here.public.get("/v1/buckets", headers=old.headers)).status_code == 401
