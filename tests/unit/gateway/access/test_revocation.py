"""Whatever is revoked is refused at once, by every gateway, whatever that one has in its caches (linearizable revocation)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from starlette.types import ASGIApp, Message

from services.gateway.access import control
from services.gateway.access.context import AccessContext
from services.gateway.access.principal import NOBODY
from shared.contracts.access import Action, DeleteKey, UpdateIdentity
from shared.contracts.uploads import GetUpload
from shared.errors import CredentialInvalidError, LeaderUnavailableError
from tests.unit.gateway.access.scene import LOOPBACK, Client, Holder, Running, Scene, may
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES

pytestmark = pytest.mark.virtual_time

FILES = "/v1/files/default"
EVERYTHING = may("default", Action.READ, Action.WRITE, Action.DELETE, Action.LIST)
SMALL = b"x" * 100
"""Of one chunk: an upload of it needs no read where another one was before."""

Ask = Callable[[Client, Holder, str], Awaitable[httpx.Response]]


def asks(method: str, path: str, **arguments: object) -> Ask:
    async def ask(client: Client, holder: Holder, upload: str) -> httpx.Response:
        return await client.request(method, path.format(upload=upload), headers=holder.headers, **arguments)

    return ask


COPY = {"source": {"bucket": "default", "key": "a"}, "target": {"bucket": "default", "key": "b"}}
FIRST_REQUESTS: dict[str, Ask] = {
    "put": asks("PUT", f"{FILES}/new", content=SMALL),
    "large put": asks("PUT", f"{FILES}/new", content=bytes(5 * CHUNK_SIZE_BYTES)),
    "replace": asks("PUT", f"{FILES}/a", content=SMALL),
    "delete": asks("DELETE", f"{FILES}/a"),
    "part": asks("PUT", "/v1/uploads/{upload}/parts/1", content=SMALL),
    "complete": asks("POST", "/v1/uploads/{upload}/complete", json={"parts": [{"number": 2, "etag": "0" * 64}]}),
    "abort": asks("DELETE", "/v1/uploads/{upload}"),
    "copy": asks("POST", "/v1/copy", json=COPY),
    "rename": asks("POST", "/v1/rename", json=COPY),
    "batch delete": asks("POST", "/v1/batch-delete", json={"bucket": "default", "files": [{"key": "a"}]}),
    "tags": asks("PUT", "/v1/tags/default/a", json={"tags": {"a": "b"}}),
    "get": asks("GET", f"{FILES}/a"),
    "head": asks("HEAD", f"{FILES}/a"),
    "list": asks("GET", FILES),
    "versions": asks("GET", "/v1/versions/default"),
    "buckets": asks("GET", "/v1/buckets"),
}


@pytest.fixture
async def holder(scene: Scene) -> Holder:
    return await scene.holder(EVERYTHING)


@pytest.fixture
async def upload(scene: Scene, here: Running, there: Running, holder: Holder) -> AsyncIterator[str]:
    """A file `a` and an upload, which both gateways have in all of their caches."""
    stored = await here.public.put(f"{FILES}/a", content=SMALL, headers=holder.headers)
    assert stored.status_code == 201, stored.text
    begun = await here.public.post("/v1/uploads", json={"bucket": "default", "key": "parts"}, headers=holder.headers)
    upload_id = begun.json()["upload_id"]
    for gateway in (here, there):
        for _ in range(2):
            read = await gateway.public.get(f"{FILES}/a", headers=holder.headers)
            assert (read.status_code, read.content) == (200, SMALL)
        part = await gateway.public.put(f"/v1/uploads/{upload_id}/parts/2", content=SMALL, headers=holder.headers)
        assert part.status_code in {200, 201}, part.text
    return upload_id


@pytest.mark.parametrize("name", FIRST_REQUESTS)
@pytest.mark.parametrize("revoke", ["disable key", "delete key", "disable identity", "no scopes"])
async def test_a_key_that_was_revoked_at_one_gateway_is_refused_by_an_idle_one(
    scene: Scene, there: Running, holder: Holder, upload: str, name: str, revoke: str
) -> None:
    """By the very first request that it gets, whichever it is; and nothing of it happens."""
    if revoke == "disable key":
        await scene.disable_key(holder)
    elif revoke == "delete key":
        await scene.metadata.propose(DeleteKey(key=holder.key, stamp=scene.clock.stamp()))
    elif revoke == "disable identity":
        await scene.disable(holder)
    elif name == "buckets":
        pytest.skip("needs no scope")
    else:
        await scene.rescope(holder)
    before = scene.metadata.store.last_applied
    answer = await FIRST_REQUESTS[name](there.public, holder, upload)
    assert answer.status_code == (403 if revoke == "no scopes" else 401), answer.text
    if name != "head":
        assert answer.json()["code"] == ("access_denied" if revoke == "no scopes" else "credential_invalid")
    listed = await there.public.get(FILES, headers=scene.root.headers)
    assert [file["key"] for file in listed.json()["files"]] == ["a"]
    refused = scene.metadata.store.last_applied - before
    assert refused <= 2, "at most one proposal, which the log refuses, and the end of an upload"
    again = await FIRST_REQUESTS[name](there.public, scene.root, upload)
    assert again.status_code not in {401, 403}, again.text


async def test_what_changed_and_still_allows_is_decided_again_within_the_request(
    scene: Scene, here: Running, there: Running, holder: Holder, upload: str
) -> None:
    """The log refuses what was decided by older rows; the gateway reads them, decides and proposes anew."""
    await scene.metadata.propose(UpdateIdentity(identity=holder.identity, name="y", stamp=scene.clock.stamp()))
    before = len(scene.metadata.proposed)
    stored = await there.public.put(f"{FILES}/new", content=SMALL, headers=holder.headers)
    assert stored.status_code == 201, stored.text
    assert [type(command).__name__ for command in scene.metadata.proposed[before:]] == ["PublishFile", "PublishFile"]


async def test_a_source_that_is_revoked_while_the_upload_is_looked_up_is_not_copied(
    scene: Scene, here: Running, there: Running, holder: Holder, upload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its bytes may be read is decided by the same rows as that the upload may be written: those that the log is told of."""
    access, read = there.gateway.services.access, scene.metadata.read
    assert access is not None
    begun = await here.public.post("/v1/uploads", json={"bucket": "default", "key": "more"}, headers=holder.headers)
    path = f"/v1/uploads/{begun.json()['upload_id']}/parts/1/copy"

    async def revoking(query: object, **arguments: object) -> object:
        if isinstance(query, GetUpload):
            monkeypatch.setattr(scene.metadata, "read", read)
            await scene.rescope(holder, may("default", Action.WRITE))
            await access.table.refresh()
        return await read(query, **arguments)

    monkeypatch.setattr(scene.metadata, "read", revoking)
    copied = {"source": {"bucket": "default", "key": "a"}}
    answer = await there.public.post(path, json=copied, headers=holder.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "access_denied"), answer.text


@pytest.mark.parametrize("allow", [True, False])
async def test_a_copy_never_refuses_by_itself(scene: Scene, there: Running, holder: Holder, upload: str, allow) -> None:
    """What it would refuse is read first: a key or a right that was given elsewhere a moment ago counts."""
    late = await scene.holder(*([EVERYTHING] if allow else []))
    answer = await there.public.get(f"{FILES}/a", headers=late.headers)
    assert answer.status_code == (200 if allow else 403)
    await scene.rescope(late, EVERYTHING)
    assert (await there.public.get(f"{FILES}/a", headers=late.headers)).status_code == 200


@pytest.mark.parametrize("is_revoked", [True, False])
async def test_an_open_download_ends_when_its_principal_may_not_read_any_more(
    scene: Scene, there: Running, holder: Holder, monkeypatch: pytest.MonkeyPatch, is_revoked: bool
) -> None:
    """It is looked at again and again, and broken off before its end; another change of rights leaves it alone."""
    monkeypatch.setattr(control, "CHECK_INTERVAL_S", -1.0)
    body = bytes(40 * CHUNK_SIZE_BYTES)
    await there.public.put(f"{FILES}/long", content=body, headers=holder.headers)
    received = bytearray()
    async with asking_slowly(there.app, f"{FILES}/long", holder) as pieces:
        async for piece in pieces:
            if not received:
                await (scene.disable_key(holder) if is_revoked else scene.holder())
            received += piece
    assert (len(received) < len(body)) is is_revoked


@asynccontextmanager
async def asking_slowly(app: ASGIApp, path: str, holder: Holder) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of an answer, one at a time; they end where the application raises."""
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", holder.headers["authorization"].encode())],
        "client": (LOOPBACK, 1),
        "server": ("localhost", 80),
    }

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if body := message.get("body"):
            await pieces.put(bytes(body))

    async def run() -> None:
        with suppress(CredentialInvalidError):
            await app(scope, receive, send)
        await pieces.put(None)

    async def received() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async with asyncio.TaskGroup() as group:
        group.create_task(run())
        yield received()


async def test_while_consensus_is_away_a_download_goes_on_for_a_while(
    scene: Scene, there: Running, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be revoked by this side then; but the other side may have a leader, so not for ever."""
    access = there.gateway.services.access
    assert access is not None
    await there.public.put(f"{FILES}/a", content=SMALL, headers=holder.headers)
    context = AccessContext(NOBODY, operation=Action.READ, bucket="default", key="a")
    await access.identify(context, holder.headers["authorization"].encode())
    monkeypatch.setattr(control, "CHECK_INTERVAL_S", -1.0)
    standing = access.standing(context)

    async def away(*_: object, **__: object) -> None:
        raise LeaderUnavailableError("Nobody leads.", definite=True)

    monkeypatch.setattr(scene.metadata, "read", away)
    await standing.check()
    monkeypatch.setattr(control, "UNCONFIRMED_MAX_S", -1.0)
    with pytest.raises(LeaderUnavailableError):
        await standing.check()
