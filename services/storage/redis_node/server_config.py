"""The settings that a node's own Redis needs, and which of its versions have known holes. Pure.

The server is started by others: the launcher takes `config_lines`; docker-compose.yml and k8s/ hold the same lines, and a test
compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REQUIRED_SETTINGS: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",  # else even `always` means never while the file is rewritten
    "maxmemory-policy": "noeviction",
}
"""Without these an acknowledgement would be a lie, so that the node does not use the server."""

USERNAME: Final = "trivet"
_COMMANDS: Final = (
    "get set setnx mget mset unlink strlen exists zadd zrem zscore zmscore zcard zrange zrangebylex zscan scan eval multi exec"
    " ping info config|get"
)
ACL_RULES: Final = "resetchannels ~trivet:* -@all " + " ".join(f"+{name}" for name in _COMMANDS.split())
"""What a node may do: the commands that it uses, on its own keys. No scripts by name, no changes of settings, no dumps."""

LIMITS: Final = (
    "maxmemory 512mb",
    # Above the largest chunk. A client that does not read its answers is cut off; without a limit it fills the memory, before it
    # has said who it is in servers without the fix of CVE-2025-21605.
    "client-output-buffer-limit normal 96mb 32mb 10",
    "client-output-buffer-limit pubsub 1mb 1mb 10",
    "maxclients 64",
)

_FIXED: Final = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
"""The first patch version of each line that has the fixes of CVE-2025-21605 and of CVE-2025-49844 (Lua) and its siblings."""


def config_lines(password: str) -> tuple[str, ...]:
    """Everything but places: ports or sockets, and the folder."""
    return (
        *(f"{name} {value}" for name, value in REQUIRED_SETTINGS.items()),
        'save ""',
        *LIMITS,
        "user default off",
        f"user {USERNAME} on {ACL_RULES} >{password}",
    )


def weakness(info: Mapping[str, object]) -> str | None:
    """What to say of a server whose version lacks fixes of known holes, by its INFO; None of one that has them, or is unknown."""
    name = "valkey" if info.get("server_name") == "valkey" else "redis"
    text = str(info.get(f"{name}_version", ""))
    try:
        major, minor, patch = (int(part) for part in text.split(".")[:3])
    except ValueError:
        return None
    fixed = _FIXED[name]
    first = fixed.get((major, minor))
    is_fixed = patch >= first if first is not None else (major, minor) > max(fixed)
    if is_fixed:
        return None
    advice = ", ".join(f"{line[0]}.{line[1]}.{number}" for line, number in fixed.items())
    return f"{name.capitalize()} {text} has known security holes: use one of {advice} or newer"
