"""Identities and access keys from a terminal: `python -m services.gateway.tools.access --help`.

Most commands ask a gateway's operations listener, with the key in a file. A new key is written to standard output and everything
else to standard error, so that `... create camera --allow read,list@photos/2026/ > camera.key` keeps the key and shows the rest.

`reseal` and `recover` ask consensus itself and need the environment of a gateway, sealing key included: the first seals every
secret anew after the sealing key was replaced, the second is the way back in when no root key is left (docs/security.md).
"""

from __future__ import annotations

import argparse
import asyncio
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from services.gateway.settings import GatewaySettings
from services.gateway.tools.offline import Recovered, recover_root, reseal
from shared.access_keys import PlainKey, bearer_of
from shared.contracts.access import Action, Scope
from shared.errors import TrivetError, error_from_problem
from shared.private_process import make_process_private
from shared.settings import load_settings
from shared.telemetry import configure_logging

DEFAULT_URL: Final = "http://127.0.0.1:8090"
DEFAULT_KEY_FILE: Final = Path(".local/secrets/root-key")
_TIMEOUT_S: Final = 30.0
_KEY_PREFIX: Final = "TV"


class Operations:
    """A gateway's operations listener, asked with one key."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer, None for an empty one. Raises TrivetError: it was refused."""
        answer = self._client.request(method, path, json=body)
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            raise error_from_problem(answer.json())
        except (ValueError, TypeError, AttributeError):
            answer.raise_for_status()
            raise

    def identities(self) -> list[dict[str, Any]]:
        """All of them."""
        found: list[dict[str, Any]] = []
        path = "/v1/identities"
        while True:
            page = self.call("GET", path)
            found += page["identities"]
            if page["cursor"] is None:
                return found
            path = f"/v1/identities?cursor={page['cursor']}"


def parse_scope(text: str, effect: str) -> dict[str, Any]:
    """`read,list@photos/2026/`: actions, a bucket or `*`, and the prefix behind its slash.

    Raises:
        ValueError: it is no scope.
    """
    actions, at, place = text.partition("@")
    if not at:
        raise ValueError(f"{text!r} is not of the form actions@bucket/prefix/")
    bucket, _, prefix = place.partition("/")
    unknown = [action for action in actions.split(",") if action not in set(Action)]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no action; there are {', '.join(Action)}")
    scope = {"effect": effect, "actions": actions.split(","), "bucket": bucket, "prefix": prefix}
    Scope.model_validate(scope)
    return scope


def create(operations: Operations, arguments: argparse.Namespace) -> None:
    """An identity and its first key."""
    scopes = [parse_scope(text, "allow") for text in arguments.allow]
    scopes += [parse_scope(text, "deny") for text in arguments.deny]
    body = {"name": arguments.name, "is_root": arguments.root, "scopes": scopes}
    identity = operations.call("POST", "/v1/identities", body)
    _say(f"identity {identity['id']}  {identity['name']}")
    _make_key(operations, identity["id"], arguments.expires)


def add_key(operations: Operations, arguments: argparse.Namespace) -> None:
    """A further key of an identity."""
    _make_key(operations, arguments.identity, arguments.expires)


def rotate(operations: Operations, arguments: argparse.Namespace) -> None:
    """A second key beside one that is to be replaced."""
    old = operations.call("GET", f"/v1/keys/{arguments.key}")
    _make_key(operations, old["identity"], arguments.expires)
    _say(f"{old['id']} is still in force. Give the new key to whoever uses it, then: delete {old['id']}")


def _make_key(operations: Operations, identity: str, expires: str | None) -> None:
    created = operations.call(
        "POST", f"/v1/identities/{identity}/keys", {} if expires is None else {"expires": expires}
    )
    _say("The key is shown this once and never again:")
    sys.stdout.write(PlainKey(created["id"], created["secret"]).line() + "\n")


def list_identities(operations: Operations, arguments: argparse.Namespace) -> None:
    """Every identity with its keys, or one."""
    chosen = [{"id": arguments.identity}] if arguments.identity else operations.identities()
    rows: list[tuple[str, ...]] = []
    for row in chosen:
        identity = operations.call("GET", f"/v1/identities/{row['id']}")
        rows.append((identity["id"][:16] + "…", identity["state"], identity["name"], _rights(identity)))
        rows += [
            (f"  {key['id']}", key["state"], f"expires {key['expires'] or 'never'}", _last_use(key))
            for key in identity["keys"]
        ]
    _show(rows)


def set_state(operations: Operations, arguments: argparse.Namespace) -> None:
    """Of an identity or a key."""
    state = "disabled" if arguments.act == "disable" else "active"
    operations.call("PATCH", _path(arguments.id), {"state": state})
    _say(f"{arguments.id} is {state}")


def set_end(operations: Operations, arguments: argparse.Namespace) -> None:
    """When a key ends to open anything."""
    end = None if arguments.time == "never" else arguments.time
    key = operations.call("PATCH", _path(arguments.key), {"expires": end})
    _say(f"{key['id']} expires {key['expires'] or 'never'}")


def delete(operations: Operations, arguments: argparse.Namespace) -> None:
    """An identity with its keys, or a key."""
    operations.call("DELETE", _path(arguments.id))
    _say(f"{arguments.id} is deleted")


_ONLINE: Final = {
    "create": create,
    "add-key": add_key,
    "rotate": rotate,
    "list": list_identities,
    "disable": set_state,
    "enable": set_state,
    "expire": set_end,
    "delete": delete,
}


def run_offline(act: str) -> None:
    """`reseal` or `recover`, with the environment of a gateway."""
    settings = load_settings(GatewaySettings)
    # To standard error: what stands on standard output is the key.
    configure_logging(settings.node_id, "warning")
    if act == "reseal":
        done = asyncio.run(reseal(settings))
        _say(f"{done.sealed} sealed anew, {done.current} were already, {len(done.unreadable)} cannot be read here")
        for key in done.unreadable:
            _say(f"  {key}: sealed under a key that is not in the file; delete it and make another")
        if done.unreadable:
            raise SystemExit(1)
        return
    recovered: Recovered = asyncio.run(recover_root(settings))
    _say(f"A new root identity: {recovered.identity}. Look at `list`, and delete the root that was lost.")
    sys.stdout.write(recovered.key.line() + "\n")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m services.gateway.tools.access",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--url", default=DEFAULT_URL, help=f"a gateway's operations listener ({DEFAULT_URL})")
    top.add_argument("--key-file", type=Path, default=DEFAULT_KEY_FILE, help=f"a root key ({DEFAULT_KEY_FILE})")
    acts = top.add_subparsers(dest="act", required=True)
    make = acts.add_parser("create", help="an identity and its first key")
    make.add_argument("name")
    make.add_argument("--root", action="store_true", help="may do everything")
    make.add_argument("--allow", action="append", default=[], metavar="ACTIONS@BUCKET/PREFIX/")
    make.add_argument("--deny", action="append", default=[], metavar="ACTIONS@BUCKET/PREFIX/")
    further = acts.add_parser("add-key", help="a further key of an identity; it has at most five")
    further.add_argument("identity")
    second = acts.add_parser("rotate", help="a second key beside one that is to be replaced")
    second.add_argument("key")
    for each in (make, further, second):
        each.add_argument("--expires", metavar="TIME", help="such as 2027-01-01T00:00:00Z; never, if not given")
    acts.add_parser("list", help="identities and their keys").add_argument("identity", nargs="?")
    end = acts.add_parser("expire", help="when a key ends to open anything")
    end.add_argument("key")
    end.add_argument("time", metavar="TIME", help="such as 2027-01-01T00:00:00Z, or never")
    for name, text in (
        ("disable", "end what an identity or a key may do, until it is enabled"),
        ("enable", "undo that"),
        ("delete", "for good"),
    ):
        acts.add_parser(name, help=text).add_argument("id", help="of an identity or a key")
    acts.add_parser("reseal", help="seal every secret under the first line of the sealing key file")
    acts.add_parser("recover", help="a new root key, when none is left")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    make_process_private()
    asked = parser().parse_args(arguments)
    try:
        if asked.act in {"reseal", "recover"}:
            run_offline(asked.act)
            return
        headers = {"authorization": bearer_of(_key_in(asked.key_file).line())}
        with httpx.Client(base_url=asked.url, headers=headers, timeout=_TIMEOUT_S) as client:
            _ONLINE[asked.act](Operations(client), asked)
    except TrivetError as error:
        raise SystemExit(f"trivet: {error.message} ({error.code})") from error
    except httpx.HTTPError as error:
        raise SystemExit(f"trivet: {asked.url}: {error}") from error
    except ValueError as error:
        raise SystemExit(f"trivet: {error}") from error


def _key_in(path: Path) -> PlainKey:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            _say(f"warning: others can read {path}; chmod 600 {path}")
        return PlainKey.parse(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name a file with a root key by --key-file") from error


def _path(identifier: str) -> str:
    return f"/v1/keys/{identifier}" if identifier.startswith(_KEY_PREFIX) else f"/v1/identities/{identifier}"


def _rights(identity: dict[str, Any]) -> str:
    if identity["is_root"]:
        return "everything"
    return "; ".join(
        f"{'not ' if scope['effect'] == 'deny' else ''}{','.join(scope['actions'])}@{scope['bucket']}/{scope['prefix']}"
        for scope in identity["scopes"]
    )


def _last_use(key: dict[str, Any]) -> str:
    return f"last used {key['last_used_hour'][:13]}h" if key["last_used_hour"] else "not used yet"


def _show(rows: list[tuple[str, ...]]) -> None:
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        sys.stdout.write(
            "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip() + "\n"
        )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
