"""Links and lists at the door: one request for whoever has a link, and no name outside in any list."""

from __future__ import annotations

from typing import Any

from shared.contracts.access import Action, Scope
from tests.unit.gateway.access.scene import Holder, Running, Scene

WRITER = Scope(actions=[Action.READ, Action.WRITE, Action.DELETE], bucket="default", prefix="mine/")


async def linked(here: Running, holder: Holder, **asked: Any) -> str:
    body = {"bucket": "default", "key": "mine/a b.txt", **asked}
    answer = await here.public.post("/v1/links", json=body, headers=holder.headers)
    assert answer.status_code == 201, answer.text
    assert "no-store" in answer.headers.get_list("cache-control", split_commas=True)
    path: str = answer.json()["path"]
    return path


async def test_a_link_opens_one_request(here: Running, there: Running, scene: Scene) -> None:
    """At any gateway, without a credential; GET is good for HEAD."""
    holder = await scene.holder(WRITER)
    put = await linked(here, holder, method="PUT", headers={"Content-Type": "text/plain"})
    stored = await there.public.put(put, content=b"hello", headers={"content-type": "text/plain"})
    assert stored.status_code == 201, stored.text
    get = await linked(here, holder)
    read = await there.public.get(get)
    assert (read.status_code, read.content, read.headers["content-type"]) == (200, b"hello", "text/plain")
    assert (await there.public.head(get)).status_code == 200
    assert (await there.public.get(get, headers={"range": "bytes=1-2"})).content == b"el"
    assert (await there.public.delete(get)).status_code == 401
    delete = await linked(here, holder, method="DELETE")
    assert (await there.public.get(delete)).status_code == 401
    assert (await there.public.delete(delete)).status_code == 204
    assert (await there.public.get(get)).status_code == 404


async def test_a_link_of_a_version_opens_that_version(here: Running, scene: Scene) -> None:
    """The query is signed."""
    holder = await scene.holder(WRITER)
    stored = await here.public.put("/v1/files/default/mine/a%20b.txt", content=b"1", headers=holder.headers)
    version = stored.json()["version"]
    path = await linked(here, holder, version=version)
    assert (await here.public.get(path)).content == b"1"
    assert (await here.public.get(path.replace(f"version={version}", f"version={version + 1}"))).status_code == 401


async def test_a_header_that_is_not_signed_is_refused(here: Running, scene: Scene) -> None:
    """Before a byte is taken."""
    holder = await scene.holder(WRITER)
    put = await linked(here, holder, method="PUT")
    for name in ("content-type", "x-trivet-meta-a", "x-trivet-write-quorum", "idempotency-key"):
        refused = await here.public.put(put, content=b"x", headers={name: "1"})
        assert (refused.status_code, refused.json()["code"]) == (403, "header_not_signed")
    assert (await here.public.put(put, content=b"x")).status_code == 201


async def test_a_link_may_do_no_more_than_whoever_made_it(here: Running, there: Running, scene: Scene) -> None:
    """When it is used; it ends with the key."""
    holder = await scene.holder(WRITER)
    get = await linked(here, holder)
    await here.public.put("/v1/files/default/mine/a%20b.txt", content=b"1", headers=holder.headers)
    assert (await there.public.get(get)).status_code == 200
    await scene.rescope(holder, Scope(actions=[Action.WRITE], bucket="default"))
    assert (await there.public.get(get)).status_code == 403
    await scene.rescope(holder, WRITER)
    assert (await there.public.get(get)).status_code == 200
    await scene.disable_key(holder)
    assert (await there.public.get(get)).status_code == 401


async def test_a_link_is_one_credential(here: Running, scene: Scene) -> None:
    """Beside another, or on another path, it is refused."""
    holder = await scene.holder(WRITER)
    get = await linked(here, holder)
    assert (await here.public.get(get, headers=holder.headers)).status_code == 400
    assert (await here.public.get(get + "&" + get.partition("?")[2])).status_code == 400
    query = get.partition("?")[2]
    for path in ("/v1/files/default", "/v1/buckets", "/v1/tags/default/mine/a%20b.txt"):
        assert (await here.public.get(f"{path}?{query}")).status_code in {400, 401}, path


async def test_lists_show_no_name_outside(here: Running, scene: Scene) -> None:
    """Files, versions, uploads and buckets; nor does a cursor."""
    await here.public.put("/v1/buckets/hidden-bucket", headers=scene.root.headers)
    for key in ("mine/1", "other/1", "mine/2", "zz"):
        await here.public.put(f"/v1/files/default/{key}", content=b"", headers=scene.root.headers)
        body = {"bucket": "default", "key": key}
        begun = await here.public.post("/v1/uploads", json=body, headers=scene.root.headers)
        assert begun.status_code == 201, begun.text
    holder = await scene.holder(Scope(actions=[Action.LIST], bucket="default", prefix="mine/"))
    for path, rows in (
        ("/v1/files/default", "files"),
        ("/v1/versions/default", "versions"),
        ("/v1/uploads?bucket=default", "uploads"),
    ):
        joint = "&" if "?" in path else "?"
        answer = await here.public.get(path, headers=holder.headers)
        assert answer.status_code == 200, answer.text
        assert [row["key"] for row in answer.json()[rows]] == ["mine/1", "mine/2"]
        assert answer.json()["cursor"] is None
        common = (await here.public.get(f"{path}{joint}delimiter=/", headers=holder.headers)).json()
        assert (common["prefixes"], common[rows]) == (["mine/"], [])
        assert (await here.public.get(f"{path}{joint}prefix=other/", headers=holder.headers)).status_code == 403
    buckets = (await here.public.get("/v1/buckets", headers=holder.headers)).json()["buckets"]
    assert [bucket["name"] for bucket in buckets] == ["default"]
    nothing = await scene.holder(Scope(actions=[Action.LIST], bucket="zzz-last"))
    page = (await here.public.get("/v1/buckets?limit=1", headers=nothing.headers)).json()
    assert (page["buckets"], page["cursor"]) == ([], None)
