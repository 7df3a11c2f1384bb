"""Who did what is known afterwards: changes in the audit trail, refusals and reads as lines of the gateway."""

from __future__ import annotations

import json
from typing import Any

from shared.audit_chain import ChainPoint, follow, parse_begin
from shared.contracts.access import Action
from tests.unit.gateway.access.scene import Holder, Running, Scene, asking, may

FILE = "/v1/files/default/photos/a"


async def trail(here: Running, root: Holder) -> list[dict[str, Any]]:
    """What the operations listener shows to who may see it."""
    answer = await here.operations.get("/v1/audit", headers=root.headers)
    assert answer.status_code == 200, answer.text
    first, *lines = answer.content.splitlines()
    begin = parse_begin(first)
    assert begin is not None
    follow(begin, lines)
    return [json.loads(line)["row"] for line in lines]


def lines_of(here: Running) -> list[dict[str, Any]]:
    """Of a gateway that has ended."""
    lines = "".join(here.gateway.written).encode().splitlines()
    follow(ChainPoint(), lines)
    return [json.loads(line)["row"] for line in lines]


async def test_every_change_names_whom_it_was_made_for(scene: Scene) -> None:
    """By the credential that the request showed, with the client's address and the id of the request."""
    ann = await scene.holder(may("default", Action.WRITE, Action.READ, Action.DELETE))
    async with scene.gateway(allow_plain_bearer=True) as here, asking(here.app, address="192.0.2.7") as client:
        put = await client.put(FILE, content=b"x", headers=ann.headers)
        assert put.status_code == 201, put.text
        assert (await client.delete(FILE, headers=ann.headers)).status_code == 204
        assert (await client.delete(FILE, headers=ann.headers)).status_code == 404
        assert (await here.public.put("/v1/buckets/photos", headers=scene.root.headers)).status_code == 201
        rows = await trail(here, scene.root)
    found = [(row["principal"], row["access_key"], row["address"], row["kind"], row["outcome"]) for row in rows]
    assert found == [
        (ann.identity, ann.key, "192.0.2.7", "publish_file", "ok"),
        (ann.identity, ann.key, "192.0.2.7", "delete_file", "ok"),
        (ann.identity, ann.key, "192.0.2.7", "delete_file", "file_not_found"),
        (scene.root.identity, scene.root.key, "127.0.0.1", "create_bucket", "ok"),
    ]
    assert (rows[0]["bucket"], rows[0]["key"], rows[0]["version"]) == ("default", "photos/a", put.json()["version"])
    assert len({row["request"] for row in rows} - {""}) == 4


async def test_only_who_administers_the_cluster_reads_the_trail(scene: Scene, here: Running) -> None:
    """It names keys, addresses and files of others."""
    everything_else = [action for action in Action if action is not Action.CLUSTER_ADMIN]
    ann = await scene.holder(may("*", *everything_else))
    admin = await scene.holder(may("*", Action.CLUSTER_ADMIN))
    for path in ("/v1/audit", "/v1/audit/verify"):
        assert (await here.operations.get(path)).status_code == 401
        assert (await here.operations.get(path, headers=ann.headers)).status_code == 403
        assert (await here.operations.get(path, headers=admin.headers)).status_code == 200


async def test_refusals_and_reads_are_lines_without_a_secret(scene: Scene) -> None:
    """Who, what, and why not; whatever the request carried besides stays out."""
    ann = await scene.holder(may("default", Action.READ))
    wrong = Holder(ann.identity, ann.key, "w" * 40)
    async with scene.gateway(audit_reads="all") as here:
        await here.public.put(FILE, content=b"x", headers=scene.root.headers)
        await here.public.get(f"{FILE}?version=1", headers=ann.headers)
        await here.public.put(FILE, content=b"y", headers=ann.headers)
        await here.public.get(FILE, headers=wrong.headers)
        await here.public.get(f"{FILE}?token=hidden-in-the-query")
    lines = lines_of(here)
    assert [(line["event"], line.get("code"), line.get("method")) for line in lines] == [
        ("start", None, None),
        ("read", None, "GET"),
        ("denied", "access_denied", "PUT"),
        ("denied", "credential_invalid", "GET"),
        ("denied", "unauthenticated", "GET"),
    ]
    assert [line.get("principal") for line in lines[1:3]] == [ann.identity] * 2
    assert {line["path"] for line in lines[1:]} == {FILE}
    text = "".join(here.gateway.written)
    credentials = [f"{holder.key}.{holder.secret}" for holder in (ann, wrong, scene.root)]
    for secret in (*credentials, wrong.secret, "hidden-in-the-query", "Bearer"):
        assert secret not in text


async def test_refusals_alone_are_written_by_default(scene: Scene) -> None:
    """And nothing at all where that is wanted."""
    written = {}
    for setting in ({}, {"audit_reads": "none"}):
        async with scene.gateway(**setting) as here:
            await here.public.get("/v1/buckets", headers=scene.root.headers)
            await here.public.get("/v1/buckets")
        written[str(setting)] = [line["event"] for line in lines_of(here)]
    assert list(written.values()) == [["start", "denied"], []]
