"""`trivet keys`: access keys and the identities that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from trivet.cli import words
from trivet.cli.lazy import Group, asynchronous
from trivet.cli.output import Column
from trivet.cli.parameters import Parsed
from trivet.cli.session import Session

if TYPE_CHECKING:
    from trivet import AsyncClient, models

ACTIONS: Final = ("read", "write", "delete", "list", "bucket-admin", "cluster-admin")
_KEY_PREFIX: Final = "TV"
_NEVER: Final = "never"
_NONE: Final = "none"
KEYS: Final = (
    Column("key"),
    Column("name"),
    Column("state", colour={"active": "good", "disabled": "bad"}.get),
    Column("rights", is_minor=True),
    Column("expires", "time", is_minor=True),
    Column("last_used", "time", is_minor=True),
    Column("identity", is_minor=True),
)
LIMITS: Final = (
    Column("name"),
    Column("identity"),
    Column("used_bytes", "bytes", "used"),
    Column("files", "count"),
    Column("quota_bytes", "bytes", "quota"),
    Column("quota_files", "count", "quota of files"),
    Column("requests_per_s", "count", "requests a second"),
    Column("bytes_per_s", "bytes", "bytes a second"),
)
CALLER: Final = (Column("name"), Column("key"), Column("rights"), Column("identity"), Column("bounds", title="limits"))

keys = Group("keys", help="Make, list, replace and delete access keys.")


def parse_scope(text: str) -> dict[str, Any]:
    """`read,list@photos/2026/`: actions, a bucket or `*`, and a prefix. Raises ValueError."""
    actions, at, place = text.partition("@")
    bucket, _, prefix = place.partition("/")
    chosen = actions.split(",")
    if unknown := [action for action in chosen if action not in ACTIONS]:
        raise ValueError(f"{unknown[0]!r} is no action; there are {', '.join(ACTIONS)}.")
    if not at or not bucket:
        raise ValueError(f"{text!r} is not of the form ACTIONS@BUCKET/PREFIX/, as read,list@photos/2026/.")
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"the prefix {prefix!r} has to end with a slash: {prefix}/.")
    return {"actions": chosen, "bucket": bucket, "prefix": prefix}


def parse_end(text: str) -> datetime:
    """A moment (`2027-01-01`, `2027-01-01T12:00:00Z`), or a length of time from now (`90d`). Raises ValueError."""
    try:
        return datetime.now(UTC) + timedelta(seconds=words.parse_duration_s(text))
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no moment; write it as 2027-01-01, 2027-01-01T12:00:00Z, 90d or never."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


SCOPE: Final = Parsed("scope", parse_scope)
END: Final = Parsed("time", parse_end, none=_NEVER)
_EXPIRES: Final = click.option("--expires", type=END, metavar="TIME", help="2027-01-01, 90d, or never.")
_SIZE: Final = Parsed("size", words.parse_size, none=_NONE)
_NUMBER: Final = Parsed("number", int, none=_NONE)
_LIMIT_OPTIONS: Final = (
    click.option("--quota", "quota_bytes", type=_SIZE, metavar="SIZE", help="Bytes of what it wrote: 10GiB, or none."),
    click.option("--quota-files", type=_NUMBER, metavar="N", help="Versions of what it wrote, or none."),
    click.option("--requests-per-s", type=_NUMBER, metavar="N", help="At each gateway, or none."),
    click.option("--bytes-per-s", type=_SIZE, metavar="SIZE", help="At each gateway: 10MiB, or none."),
)


def _with_limits(function: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_LIMIT_OPTIONS):
        function = option(function)
    return function


@keys.command("whoami")
@asynchronous
async def whoami(session: Session) -> None:
    """Show what the key in use stands for, and what it may do.

    With --json the document of GET /v1/identity.
    """
    async with session.client() as client:
        caller = await client.identity()
    if session.output.is_json:
        session.output.document(_builtins(caller))
        return
    limits = ", ".join(
        f"{name.replace('_', ' ')} {value:,}" for name, value in _builtins(caller.limits).items() if value is not None
    )
    record = {
        "name": caller.name,
        "key": caller.key,
        "rights": rights(caller),
        "identity": caller.id,
        "bounds": limits or None,
    }
    session.output.record(record, CALLER)


@keys.command("list")
@asynchronous
async def list_keys(session: Session) -> None:
    """List the keys with what they stand for.

    With --json each line has key, name, identity, state (of the key), identity_state, expires, last_used, created, is_root,
    scopes and limits.
    """
    table = session.output.table(KEYS)
    async with session.client() as client:
        async for identity in client.operations.identities():
            held = await client.operations.keys(identity.id)
            for key in held:
                table.add(_key_record(identity, key))
            if not held:
                table.add(_key_record(identity, None))
    table.finish()


@keys.command("create")
@click.argument("name")
@click.option(
    "--allow", type=SCOPE, multiple=True, metavar="ACTIONS@BUCKET/PREFIX/", help="What it may do. * is every bucket."
)
@click.option(
    "--deny", type=SCOPE, multiple=True, metavar="ACTIONS@BUCKET/PREFIX/", help="What it may not, in spite of that."
)
@click.option("--root", is_flag=True, help="It may do everything.")
@_EXPIRES
@_with_limits
@asynchronous
async def create(
    session: Session,
    name: str,
    *,
    allow: tuple[dict[str, Any], ...],
    deny: tuple[dict[str, Any], ...],
    root: bool,
    expires: datetime | str | None,
    **limits: Any,
) -> None:
    """Make an identity and its first key, which is written to standard output and to nowhere else.

    Actions are read, write, delete, list, bucket-admin and cluster-admin. With --json: key, identity, name, expires, line.
    """
    if not root and not allow:
        raise click.UsageError("it could do nothing: give --allow, for example --allow read,list@photos/.")
    from trivet.models import Limits, Scope

    scopes = [Scope(**scope) for scope in allow] + [Scope(**scope, effect="deny") for scope in deny]
    async with session.client() as client:
        identity = await client.operations.create_identity(name, scopes, is_root=root, limits=Limits(**_chosen(limits)))
        await _make_key(session, client, identity.id, name, expires)


@keys.command("rotate")
@click.argument("key_id", metavar="KEY")
@_EXPIRES
@asynchronous
async def rotate(session: Session, key_id: str, *, expires: datetime | str | None) -> None:
    """Make a second key beside one that is to be replaced. The old one works until it is deleted."""
    async with session.client() as client:
        old = await client.operations.key(key_id)
        await _make_key(session, client, old.identity, None, expires)
    session.output.say(f"{key_id} still works. Hand the new key over, and then: trivet keys delete {key_id}")


@keys.command("expire")
@click.argument("key_id", metavar="KEY")
@click.argument("time", type=END)
@asynchronous
async def expire(session: Session, key_id: str, *, time: datetime | str) -> None:
    """Set when a key ends: 2027-01-01, 90d, or never."""
    async with session.client() as client:
        changed = await client.operations.change_key(key_id, expires=None if isinstance(time, str) else time)
    if session.output.is_json:
        session.output.document(_builtins(changed))
        return
    session.output.say(
        f"{key_id} {'never ends' if changed.expires is None else 'ends at ' + words.moment(changed.expires)}."
    )


@keys.command("limit")
@click.argument("name", metavar="KEY|IDENTITY")
@_with_limits
@asynchronous
async def limit(session: Session, name: str, **limits: Any) -> None:
    """Show or change how much an identity may keep, and how often and how fast its keys may ask.

    All keys of an identity share its limits. With --json: name, identity, used_bytes, files, quota_bytes, quota_files,
    requests_per_s, bytes_per_s.
    """
    import msgspec

    async with session.client() as client:
        operations = client.operations
        identity = (await operations.key(name)).identity if name.startswith(_KEY_PREFIX) else name
        found = await operations.identity(identity)
        if chosen := _chosen(limits):
            await operations.change_identity(identity, limits=msgspec.structs.replace(found.limits, **chosen))
            found = await operations.identity(identity)
    record = {
        "name": found.name,
        "identity": found.id,
        "used_bytes": found.usage.size_bytes if found.usage else None,
        "files": found.usage.files if found.usage else None,
        **_builtins(found.limits),
    }
    session.output.record(record, LIMITS)


@keys.command("disable")
@click.argument("name", metavar="KEY|IDENTITY")
@asynchronous
async def disable(session: Session, name: str) -> None:
    """Have a key, or all keys of an identity, open nothing until they are enabled."""
    await _set_state(session, name, "disabled")


@keys.command("enable")
@click.argument("name", metavar="KEY|IDENTITY")
@asynchronous
async def enable(session: Session, name: str) -> None:
    """Undo that."""
    await _set_state(session, name, "active")


@keys.command("delete")
@click.argument("name", metavar="KEY|IDENTITY")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@asynchronous
async def delete(session: Session, name: str, *, yes: bool) -> None:
    """Delete a key, or an identity with all of its keys, for good."""
    if not yes:
        session.confirm(f"Delete {name} for good?")
    async with session.client() as client:
        if name.startswith(_KEY_PREFIX):
            await client.operations.delete_key(name)
        else:
            await client.operations.delete_identity(name)
    session.output.say(f"{name} is deleted.")


def rights(holder: models.Identity | models.Caller) -> str:
    """What it may do, in one line."""
    if holder.is_root:
        return "everything"
    return "; ".join(
        f"{'not ' if scope.effect == 'deny' else ''}{','.join(scope.actions)}@{scope.bucket}/{scope.prefix}"
        for scope in holder.scopes
    )


def _chosen(limits: Mapping[str, Any]) -> dict[str, int | None]:
    """Those that were given; None is no limit."""
    return {name: None if value == _NONE else value for name, value in limits.items() if value is not None}


async def _make_key(
    session: Session, client: AsyncClient, identity: str, name: str | None, expires: datetime | str | None
) -> None:
    made = await client.operations.create_key(identity, expires=expires if isinstance(expires, datetime) else None)
    if session.output.is_json:
        session.output.document(
            {"key": made.id, "identity": identity, "name": name, "expires": made.expires, "line": made.line}
        )
        return
    session.output.say("The key is shown this once and never again; > camera.key keeps it in a file for --key:")
    session.output.result(made.line)


async def _set_state(session: Session, name: str, state: str) -> None:
    async with session.client() as client:
        if name.startswith(_KEY_PREFIX):
            await client.operations.change_key(name, state=state)
        else:
            await client.operations.change_identity(name, state=state)
    session.output.say(f"{name} is {state}.")


def _key_record(identity: models.Identity, key: models.KeyInfo | None) -> dict[str, Any]:
    return {
        "key": key.id if key else None,
        "name": identity.name,
        "identity": identity.id,
        "state": key.state if key and identity.state == "active" else identity.state,
        "identity_state": identity.state,
        "expires": key.expires if key else None,
        "last_used": key.last_used_hour if key else None,
        "created": key.created if key else identity.created,
        "is_root": identity.is_root,
        "scopes": [_builtins(scope) for scope in identity.scopes],
        "limits": _builtins(identity.limits),
        "rights": rights(identity),
    }


def _builtins(model: Any) -> dict[str, Any]:
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(model)
    return built
