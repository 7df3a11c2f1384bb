from __future__ import annotations

import re

import pytest

from local_cluster.settings import PROJECT_ROOT
from services.storage.redis_node.server_config import ACL_RULES, LIMITS, REQUIRED_SETTINGS, config_lines, weakness


@pytest.mark.parametrize(
    ("name", "version", "is_weak"),
    [
        ("redis", "6.2.19", True),
        ("redis", "6.2.20", False),
        ("redis", "7.0.15", True),
        ("redis", "7.2.10", True),
        ("redis", "7.2.11", False),
        ("redis", "8.0.3", True),
        ("redis", "8.0.4", False),
        ("redis", "8.4.0", False),
        ("valkey", "7.2.10", True),
        ("valkey", "7.2.11", False),
        ("valkey", "8.0.5", True),
        ("valkey", "8.0.6", False),
        ("valkey", "8.1.3", True),
        ("valkey", "8.1.4", False),
        ("valkey", "9.0.0", False),
        ("redis", "something", False),
    ],
)
def test_a_version_with_known_holes_is_named(name, version, is_weak):
    """Both sides of the first fixed version of every line; a Valkey also reports a Redis version that it is compatible with."""
    info = {"redis_version": "7.2.4", "server_name": "valkey"} if name == "valkey" else {}
    found = weakness(info | {f"{name}_version": version})
    assert (found is not None) == is_weak
    if found is not None:
        assert version in found


@pytest.mark.parametrize("file", ["docker-compose.yml", "k8s/base/storage.yaml k8s/base/redis.conf"])
def test_containers_start_redis_with_the_same_settings(file):
    """Copies of the launcher's lines, which nothing else would keep equal."""
    text = "\n".join((PROJECT_ROOT / name).read_text() for name in file.split())
    lines = {line.strip() for line in text.splitlines()}
    assert {*LIMITS, "user default off"} <= lines
    assert {f"{name} {value}" for name, value in REQUIRED_SETTINGS.items()} <= lines
    assert re.search(re.escape(f"user trivet on {ACL_RULES} >$"), text)


def test_a_client_that_reads_nothing_has_a_limit_in_every_class():
    """Those that subscribe, too; replicas are none here."""
    limited = {line.split()[1] for line in config_lines("secret") if line.startswith("client-output-buffer-limit ")}
    assert limited == {"normal", "pubsub"}
    assert any(line.startswith("maxmemory ") for line in config_lines("secret"))
    assert any(line.startswith("maxclients ") for line in config_lines("secret"))


def test_the_rules_leave_nothing_but_the_commands_in_use():
    """No wildcard gives more, and the password is the last word of the line."""
    (line,) = [line for line in config_lines("secret") if line.startswith("user trivet")]
    rules = line.split()
    assert rules[-1] == ">secret"
    assert rules.index("-@all") < min(place for place, rule in enumerate(rules) if rule.startswith("+"))
    assert not [rule for rule in rules if rule.startswith(("+@", "allcommands", "allkeys", "~*", "&*"))]
