"""The command for identities and keys: what it asks, what it prints where, and the ways that need no key."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.access.bootstrap import ensure_root_key, has_root_key, init_access
from services.gateway.access.sealing import Sealer
from services.gateway.tools import access
from services.gateway.tools.offline import make_root, reseal_all
from shared.access_keys import PlainKey, draw_credential
from shared.contracts.access import CreateIdentity, CreateKey, DeleteKey, GetIdentity, GetKey, ListAccessChanges
from shared.errors import KeyNotFoundError

OLD, NEW = "o" * 43, "n" * 43
SECRET = "s" * 40
KEY = {"id": "TV" + "K" * 18, "identity": "a" * 64, "state": "active", "expires": None, "last_used_hour": None}
CAMERA = {
    "id": "a" * 64,
    "name": "camera",
    "state": "active",
    "is_root": False,
    "scopes": [{"effect": "allow", "actions": ["read"], "bucket": "photos", "prefix": "2026/"}],
    "keys": [KEY],
}


class Asked:
    """A gateway that answers as one would, and knows what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.calls.append((method, path, body))
        if method == "DELETE":
            raise KeyNotFoundError("There is no such access key.")
        if path.endswith("/keys"):
            return {**KEY, "secret": SECRET}
        return KEY if path.startswith("/v1/keys/") else CAMERA

    def identities(self) -> list[dict[str, Any]]:
        return [CAMERA]


def run(*arguments: str) -> Asked:
    asked = Asked()
    parsed = access.parser().parse_args(arguments)
    access._ONLINE[parsed.act](asked, parsed)
    return asked


def test_a_new_identity_gets_what_it_may_do_and_a_key(capsys) -> None:
    """The key alone stands on standard output."""
    asked = run("create", "camera", "--allow", "read,list@photos/2026/", "--deny", "read@*")
    assert asked.calls[0] == (
        "POST",
        "/v1/identities",
        {
            "name": "camera",
            "is_root": False,
            "scopes": [
                {"effect": "allow", "actions": ["read", "list"], "bucket": "photos", "prefix": "2026/"},
                {"effect": "deny", "actions": ["read"], "bucket": "*", "prefix": ""},
            ],
        },
    )
    assert asked.calls[1] == ("POST", f"/v1/identities/{'a' * 64}/keys", {})
    out, err = capsys.readouterr()
    assert PlainKey.parse(out) == PlainKey(KEY["id"], SECRET)
    assert SECRET not in err


@pytest.mark.parametrize("text", ["read", "reed@photos", "read@", "read@photos/2026", "@photos", "read@photos/2026/x"])
def test_what_is_no_scope_is_refused(text) -> None:
    """Before anything is made."""
    with pytest.raises(ValueError):
        access.parse_scope(text, "allow")


def test_a_key_is_rotated_by_a_second_one(capsys) -> None:
    """The first stays until it is deleted."""
    asked = run("rotate", KEY["id"])
    assert [call[:2] for call in asked.calls] == [
        ("GET", f"/v1/keys/{KEY['id']}"),
        ("POST", f"/v1/identities/{'a' * 64}/keys"),
    ]
    assert f"delete {KEY['id']}" in capsys.readouterr().err


def test_identities_and_keys_are_listed(capsys) -> None:
    """Aligned, with what they may do and when they were used."""
    run("list")
    first, second = capsys.readouterr().out.splitlines()
    assert "camera" in first
    assert "read@photos/2026/" in first
    assert KEY["id"] in second
    assert second.endswith("not used yet")


@pytest.mark.parametrize(("act", "state"), [("disable", "disabled"), ("enable", "active")])
def test_identities_and_keys_are_told_apart_by_their_ids(act, state) -> None:
    """One command for both."""
    assert run(act, KEY["id"]).calls == [("PATCH", f"/v1/keys/{KEY['id']}", {"state": state})]
    assert run(act, "a" * 64).calls == [("PATCH", f"/v1/identities/{'a' * 64}", {"state": state})]


@pytest.mark.parametrize(("time", "end"), [("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"), ("never", None)])
def test_the_end_of_a_key_is_moved_or_taken_away(time, end) -> None:
    """`never` is no time: null."""
    assert run("expire", KEY["id"], time).calls == [("PATCH", f"/v1/keys/{KEY['id']}", {"expires": end})]


def test_a_refusal_is_one_sentence(tmp_path) -> None:
    """And another exit status; so is a file that cannot be read."""
    with pytest.raises(KeyNotFoundError):
        run("delete", KEY["id"])
    with pytest.raises(SystemExit) as ended:
        access.main(["--key-file", str(tmp_path / "absent"), "list"])
    assert "absent" in str(ended.value)


# --- without a key ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
async def upgraded(world) -> None:
    """Every member knows what an identity is."""
    await world.metadata.upgrade(world.clock)


async def test_a_lost_root_key_is_replaced_by_another_root(world) -> None:
    """Whatever the lost one has, and on a cluster that never had one."""
    sealer = Sealer([NEW])
    for _ in range(2):
        made = await make_root(world.metadata, world.clock, sealer)
        answer, _ = await world.metadata.read(GetIdentity(identity=made.identity))
        assert answer.identity.is_root
        assert [key.id for key in answer.keys] == [made.key.id]
        assert sealer.is_secret_of(answer.keys[0], made.key.secret)
    assert await has_root_key(world.metadata)
    assert made.key.secret not in repr(made)


async def test_every_secret_is_sealed_anew(world) -> None:
    """Once each; afterwards the old sealing key can go. What no line opens is named."""
    root = PlainKey.parse(draw_credential())
    await ensure_root_key(world.metadata, world.clock, Sealer([OLD]), root)
    realm, other = await init_access(world.metadata, world.clock), "b" * 64
    stamp = world.clock.stamp()
    await world.metadata.propose(CreateIdentity(identity=other, name="x", stamp=stamp))
    lost = PlainKey.parse(draw_credential())
    sealed = Sealer(["?" * 43]).seal(realm, lost.id, 0, lost.secret)
    await world.metadata.propose(CreateKey(key=lost.id, identity=other, slot=0, secret=sealed, stamp=stamp))
    both = Sealer([NEW, OLD])
    done = await reseal_all(world.metadata, world.clock, both)
    assert (done.sealed, done.current, done.unreadable) == (1, 0, [lost.id])
    answer, _ = await world.metadata.read(GetKey(key=root.id))
    assert Sealer([NEW]).unseal(realm, answer.key) == root.secret
    assert Sealer([NEW]).is_secret_of(answer.key, root.secret)
    done = await reseal_all(world.metadata, world.clock, both)
    assert (done.sealed, done.current) == (0, 1)
    await world.metadata.propose(DeleteKey(key=lost.id, stamp=stamp))
    assert (await reseal_all(world.metadata, world.clock, both)).unreadable == []
    rows, _ = await world.metadata.read(ListAccessChanges())
    assert root.secret not in rows.model_dump_json()
