"""`trivet profile`: stores by name, in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click
from msgspec.structs import replace

from trivet.cli.exit_codes import ExitCode
from trivet.cli.failures import Failure
from trivet.cli.lazy import Group
from trivet.cli.output import Column
from trivet.cli.parameters import PROFILE
from trivet.cli.session import Session

COLUMNS: Final = (
    Column("name", title="profile"),
    Column("default", "text", "in use", colour=lambda used: "good" if used else None),
    Column("url"),
    Column("operations_url", is_minor=True),
    Column("key", is_minor=True),
)

profile = Group("profile", help="Keep addresses and keys of stores under names.")


@profile.command("list")
@click.pass_obj
def list_profiles(session: Session) -> None:
    """List the profiles.

    Keys are shown by the path of their file; one that stands in the configuration itself only by its id. With --json each line
    has name, is_default, url, operations_url, key.
    """
    from trivet.config import config_path, read_config

    config = read_config(config_path())
    if not config.profiles:
        session.output.say(f"There is none in {config_path()}. trivet profile add NAME --url URL --key FILE makes one.")
    table = session.output.table(COLUMNS)
    for name, found in config.profiles.items():
        is_default = name == config.default_profile
        table.add(
            {
                "name": name,
                "default": "yes" if is_default else "",
                "is_default": is_default,
                "url": found.url,
                "operations_url": found.operations_url,
                "key": _shown(found.key),
            }
        )
    table.finish()


@profile.command("add")
@click.argument("name")
@click.pass_obj
def add(session: Session, name: str) -> None:
    """Add or replace a profile: its --url, --operations-url and --key.

    --key is the path of a file that holds a key; the file stays where it is. The first profile becomes the one in use.
    """
    from trivet.config import ConfigFile, Profile, config_path, read_config, write_config

    chosen = session.options
    if not chosen.url:
        raise click.UsageError("a profile needs the address of its store: --url https://files.example.org.")
    config = read_config(config_path())
    made = Profile(chosen.url, chosen.operations_url, chosen.key and _absolute(chosen.key))
    write_config(config_path(), ConfigFile({**config.profiles, name: made}, config.default_profile or name))
    used = "is in use" if (config.default_profile or name) == name else f"can be used: trivet profile use {name}"
    session.output.say(f"The profile {name} {used}. trivet --profile {name} doctor tries it.")


@profile.command("use")
@click.argument("name", type=PROFILE)
@click.pass_obj
def use(session: Session, name: str) -> None:
    """Use a profile where nothing else says which store it is."""
    from trivet.config import config_path, read_config, write_config

    config = read_config(config_path())
    _check(name, config.profiles)
    write_config(config_path(), replace(config, default_profile=name))
    session.output.say(f"The profile {name} is in use.")


@profile.command("remove")
@click.argument("name", type=PROFILE)
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Remove a profile. The file of its key stays."""
    from trivet.config import ConfigFile, config_path, read_config, write_config

    config = read_config(config_path())
    _check(name, config.profiles)
    rest = {other: found for other, found in config.profiles.items() if other != name}
    write_config(config_path(), ConfigFile(rest, None if config.default_profile == name else config.default_profile))
    session.output.say(f"The profile {name} is removed.")


def _check(name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise Failure(f"there is no profile {name!r}; trivet profile list shows all.", ExitCode.NOT_FOUND)


def _absolute(key: str) -> str:
    """The path of a key's file must not depend on where the program is called; a key itself stays."""
    from pathlib import Path

    from trivet.access_key import AccessKey
    from trivet.errors import ConfigError

    try:
        return AccessKey.parse(key).line
    except ConfigError:
        return str(Path(key).expanduser().absolute())


def _shown(key: str | None) -> str | None:
    from trivet.access_key import AccessKey
    from trivet.errors import ConfigError

    if key is None:
        return None
    try:
        return f"{AccessKey.parse(key).id}.…"
    except ConfigError:
        return key
