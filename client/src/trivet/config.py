"""Where the store is and which key opens it: arguments, then the environment, then a profile of the config file.

The file is `~/.config/trivet/config.toml`, or where `TRIVET_CONFIG` or `XDG_CONFIG_HOME` say:

    default_profile = "home"

    [profiles.home]
    url = "https://files.example.org"
    operations_url = "https://operations.example.org"
    key = "~/.config/trivet/home.key"

`key` is the path of a file that holds an access key, or the key itself. `TRIVET_PROFILE` chooses another profile.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import asdict, replace

from trivet.access_key import AccessKey
from trivet.errors import ConfigError

DEFAULT_URL: Final = "http://127.0.0.1:8080"
DEFAULT_OPERATIONS_URL: Final = "http://127.0.0.1:8090"
"""Of the cluster that `make run` starts; taken only together with `DEFAULT_URL`."""

_PROFILE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Profile(Struct, frozen=True):
    """What the config file says under one name; None for what it leaves out."""

    url: str | None = None
    operations_url: str | None = None
    key: str | None = None


class ConfigFile(Struct, frozen=True):
    """The whole file; `default_profile` is taken where nothing else is chosen."""

    profiles: dict[str, Profile]
    default_profile: str | None = None


class Endpoint(Struct, frozen=True):
    """What a client needs to know. `operations_url` is None where nothing names it."""

    url: str
    operations_url: str | None
    key: AccessKey | None


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where the config file is, whether or not it exists."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("TRIVET_CONFIG"):
        return Path(chosen).expanduser()
    home = environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "trivet" / "config.toml"


def state_path(environ: Mapping[str, str] | None = None) -> Path:
    """The folder in which transfers under way are remembered: `~/.local/state/trivet`, or in `XDG_STATE_HOME`."""
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "trivet"


def read_config(path: Path) -> ConfigFile:
    """The config file; without one, no profile.

    Raises:
        ConfigError: it cannot be read, or says what it may not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        import tomllib  # takes a third of this module's time, and many have no such file

        document = tomllib.loads(text)
    except FileNotFoundError:
        return ConfigFile({})
    except (OSError, ValueError) as error:
        raise ConfigError(f"The config file {path} cannot be read: {error}") from error
    unknown = set(document) - {"profiles", "default_profile"}
    tables = document.get("profiles", {})
    if unknown or not isinstance(tables, dict):
        raise ConfigError(f"The config file {path} has `default_profile` and tables `[profiles.NAME]`, nothing else.")
    default = document.get("default_profile")
    if default is not None and default not in tables:
        raise ConfigError(f"The config file {path} has no profile {default!r}, which is its `default_profile`.")
    return ConfigFile({name: _profile(path, name, table) for name, table in tables.items()}, default)


def write_config(path: Path, config: ConfigFile) -> None:
    """Replace the config file, whole or not at all; only its owner may read it, for it may hold keys.

    Raises:
        ConfigError: it cannot be written, or a profile has a name that none may have.
    """
    lines = [] if config.default_profile is None else [f"default_profile = {json.dumps(config.default_profile)}"]
    for name, profile in config.profiles.items():
        if not _PROFILE_NAME.fullmatch(name):
            raise ConfigError(f"A profile's name has 1-64 of A-Z a-z 0-9 _ -, and {name!r} has not.")
        lines += ["", f"[profiles.{name}]"]
        # A string of JSON is one of TOML, too.
        lines += [f"{field} = {json.dumps(value)}" for field, value in asdict(profile).items() if value is not None]
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write("\n".join(lines).lstrip("\n") + "\n")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"The config file {path} cannot be written: {error}") from error


def resolve(
    url: str | None = None,
    key: str | None = None,
    *,
    operations_url: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoint:
    """The store to speak to: what an argument leaves out, a variable says, and what that leaves out, the profile.

    A profile that is named, by argument or by `TRIVET_PROFILE`, must exist. An address that was given by itself is never
    joined with the operations address or the key of a profile that names another store.

    Raises:
        ConfigError: an address, a key or the config file cannot be used, or the key would be sent in the clear to another
            machine, which only `TRIVET_ALLOW_PLAIN_BEARER=true` allows.
    """
    environ = os.environ if environ is None else environ
    given = Profile(
        url or environ.get("TRIVET_URL") or None,
        operations_url or environ.get("TRIVET_OPERATIONS_URL") or None,
        key or environ.get("TRIVET_KEY") or None,
    )
    # A profile that is asked for goes before variables, which may be those of the shell's own store.
    if profile is not None:
        chosen = _named(profile, environ)
        given = Profile(url or chosen.url, operations_url or chosen.operations_url, key or chosen.key)
    else:
        given = _filled(given, environ)
    if given.url is None:
        given = replace(given, url=DEFAULT_URL, operations_url=given.operations_url or DEFAULT_OPERATIONS_URL)
    found = Endpoint(
        _checked_url(given.url or DEFAULT_URL),
        None if given.operations_url is None else _checked_url(given.operations_url),
        None if given.key is None else AccessKey.load(given.key),
    )
    if found.key is not None and environ.get("TRIVET_ALLOW_PLAIN_BEARER", "").lower() not in {"1", "true", "yes", "on"}:
        _check_secrecy(found.url)
        _check_secrecy(found.operations_url or found.url)
    return found


def _filled(given: Profile, environ: Mapping[str, str]) -> Profile:
    name = environ.get("TRIVET_PROFILE") or None
    if name is not None:
        found = _named(name, environ)
    else:
        config = read_config(config_path(environ))
        found = config.profiles[config.default_profile] if config.default_profile is not None else Profile()
    if given.url is not None and found.url is not None and given.url.rstrip("/") != found.url.rstrip("/"):
        return given
    return Profile(given.url or found.url, given.operations_url or found.operations_url, given.key or found.key)


def _named(name: str, environ: Mapping[str, str]) -> Profile:
    path = config_path(environ)
    profiles = read_config(path).profiles
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise ConfigError(f"The config file {path} has no profile {name!r}; there is {known}.")
    return profiles[name]


def _profile(path: Path, name: str, table: Any) -> Profile:
    fields = {"url", "operations_url", "key"}
    if (
        not isinstance(table, dict)
        or set(table) - fields
        or not all(isinstance(value, str) for value in table.values())
    ):
        raise ConfigError(f"The profile {name!r} in {path} has `url`, `operations_url` and `key`, each a text.")
    return Profile(**table)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
        parts = urlsplit("")
    if not is_good or parts.query or parts.fragment or parts.username or parts.path.strip("/"):
        shown = re.sub(r"^([a-z]+://)?.*@", r"\1…@", url)
        raise ConfigError(f"The address {shown!r} is not like http://host:port or https://host.")
    return f"{parts.scheme}://{parts.netloc}"


def _check_secrecy(url: str) -> None:
    """Return when a key that is sent there cannot be listened to. Raises ConfigError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_here = ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost" or host.endswith(".localhost")
    if parts.scheme == "http" and not is_here:
        raise ConfigError(
            f"The access key would be sent to {url} in the clear, for anybody on the way to take: use an https address. "
            "On a private network, TRIVET_ALLOW_PLAIN_BEARER=true allows it."
        )
