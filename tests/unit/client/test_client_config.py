"""Where addresses and keys come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.access_keys import PlainKey, draw_credential
from trivet.access_key import AccessKey
from trivet.config import ConfigFile, Profile, config_path, read_config, resolve, state_path, write_config
from trivet.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a config file of two profiles."""
    key_file = tmp_path / "home.key"
    key_file.write_text(draw_credential() + "\n")
    profiles = {
        "home": Profile("https://home.example", "https://ops.example:8090", str(key_file)),
        "lab": Profile("http://lab.example:8080"),
    }
    write_config(tmp_path / "config.toml", ConfigFile(profiles, "home"))
    return {"TRIVET_CONFIG": str(tmp_path / "config.toml")}


def test_without_anything_it_is_the_cluster_of_this_machine(tmp_path) -> None:
    """That `make run` starts."""
    found = resolve(environ={"TRIVET_CONFIG": str(tmp_path / "none.toml")})
    assert (found.url, found.operations_url, found.key) == ("http://127.0.0.1:8080", "http://127.0.0.1:8090", None)


def test_the_default_profile_is_taken_whole(home, tmp_path) -> None:
    """Addresses, and the key in the file that it names."""
    found = resolve(environ=home)
    assert (found.url, found.operations_url) == ("https://home.example", "https://ops.example:8090")
    assert found.key is not None
    assert found.key.line == (tmp_path / "home.key").read_text().strip()


def test_arguments_go_before_variables_and_variables_before_the_profile(home) -> None:
    """Each by itself."""
    one, two = draw_credential(), draw_credential()
    environ = home | {"TRIVET_KEY": one, "TRIVET_OPERATIONS_URL": "https://ops:1"}
    assert resolve(environ=environ).url == "https://home.example"
    assert resolve(environ=environ).operations_url == "https://ops:1"
    assert resolve(environ=environ).key == AccessKey.parse(one)
    assert resolve(key=two, environ=environ).key == AccessKey.parse(two)


def test_a_profile_that_is_asked_for_goes_before_variables(home) -> None:
    """They may be those of another store: no key of theirs is sent to this one."""
    found = resolve(profile="lab", environ=home | {"TRIVET_URL": "http://other:1", "TRIVET_KEY": draw_credential()})
    assert (found.url, found.key) == ("http://lab.example:8080", None)
    assert resolve(environ=home | {"TRIVET_PROFILE": "lab"}).url == "http://lab.example:8080"


def test_the_key_of_a_profile_is_not_sent_to_another_address(home) -> None:
    """Nor its operations address taken."""
    found = resolve(url="http://elsewhere.example", environ=home)
    assert (found.url, found.operations_url, found.key) == ("http://elsewhere.example", None, None)


def test_the_config_file_is_read_as_it_was_written(tmp_path) -> None:
    """And only its owner may read it."""
    path = tmp_path / "a" / "config.toml"
    config = ConfigFile({"odd": Profile("http://x:1", None, 'C:\\keys\\"my" key')}, None)
    write_config(path, config)
    assert read_config(path) == config
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "profiles = 3",
        "color = 'red'",
        "[profiles.x]\nport = 3",
        "default_profile = 'none'",
        "[profiles.x]\nurl = 3",
        "[[",
    ],
)
def test_a_config_file_with_something_else_is_refused(tmp_path, text) -> None:
    """A mistyped name would be ignored, and another store asked."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        read_config(path)


def test_a_profile_that_is_not_there_is_an_error(home) -> None:
    """Which names those that are."""
    with pytest.raises(ConfigError, match="home, lab"):
        resolve(profile="nowhere", environ=home)
    with pytest.raises(ConfigError):
        write_config(Path(home["TRIVET_CONFIG"]), ConfigFile({"a b": Profile()}))


@pytest.mark.parametrize(
    "url", ["ftp://x", "host:8080", "http://", "http://x/v1", "http://u:p@x", "http://x:99999", "http://x?y=1"]
)
def test_an_address_is_one_of_http(url, tmp_path) -> None:
    """With nothing behind the port."""
    with pytest.raises(ConfigError, match="not like http"):
        resolve(url=url, environ={"TRIVET_CONFIG": str(tmp_path / "none.toml")})


def test_a_key_is_read_as_the_store_writes_it(tmp_path) -> None:
    """By itself, or from a file."""
    line = draw_credential()
    known = PlainKey.parse(line)
    (tmp_path / "key").write_text(line + "\n")
    for given in (line, f" {line}\n", str(tmp_path / "key")):
        key = AccessKey.load(given)
        assert (key.id, key.secret, key.line) == (known.id, known.secret, line)
    assert known.secret not in repr(AccessKey.parse(line))


def test_no_error_shows_a_secret(tmp_path) -> None:
    """Not of a key that is one character too short, nor of one in a file."""
    line = draw_credential()
    secret = line.partition(".")[2]
    broken = line.replace("TV", "TV!", 1)
    (tmp_path / "key").write_text(broken)
    for given in (broken, str(tmp_path / "key"), secret, f"/{secret}"):
        with pytest.raises(ConfigError) as caught:
            AccessKey.load(given)
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None or secret not in repr(caught.value.__cause__)
    with pytest.raises(ConfigError, match="cannot be read"):
        AccessKey.load(str(tmp_path / "nothing"))


@pytest.mark.parametrize("url", ["https://bob:hunter2@files.test", "bob:hunter2@files.test", "https://bob:hun/ter2@x"])
def test_no_error_shows_the_password_of_an_address(url) -> None:
    """It is refused there, and was meant for somewhere."""
    with pytest.raises(ConfigError) as caught:
        resolve(url=url, environ={"TRIVET_CONFIG": "/nonexistent"})
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_secret"),
    [
        ("https://files.test", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("http://files.test", False),
        ("http://10.0.0.1:8080", False),
        ("http://127.0.0.1.files.test", False),
    ],
)
def test_a_key_goes_to_no_other_machine_in_the_clear(url, is_secret) -> None:
    """To neither address, unless that is allowed."""
    environ = {"TRIVET_CONFIG": "/nonexistent", "TRIVET_KEY": draw_credential()}
    for given in ({"url": url}, {"url": "https://files.test", "operations_url": url}):
        if not is_secret:
            with pytest.raises(ConfigError, match="in the clear"):
                resolve(**given, environ=environ)
        assert resolve(**given, environ=environ | {"TRIVET_ALLOW_PLAIN_BEARER": str(not is_secret)}).key is not None
        assert resolve(**given, environ={"TRIVET_CONFIG": "/nonexistent"}).key is None


def test_folders_follow_the_rules_of_the_desktop() -> None:
    """XDG, or below the home folder."""
    assert config_path({"XDG_CONFIG_HOME": "/c"}) == Path("/c/trivet/config.toml")
    assert config_path({}) == Path.home() / ".config/trivet/config.toml"
    assert state_path({"XDG_STATE_HOME": "/s"}) == Path("/s/trivet")
    assert state_path({}) == Path.home() / ".local/state/trivet"
