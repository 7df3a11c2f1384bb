"""Settings and secrets for a cluster on machines of its own, without containers: `make machines`, docs/deploy-machines.md.

Every machine runs a clock, a storage node with its Redis and a gateway, and three of them a consensus member. What stands here
is written for its `/etc/trivet`, one file of settings per role, which the units in `systemd/` read. A machine's number names what
runs on it (`storage-4`) and is never used again, for a node or member that lost its disk must not come back under its name.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from local_cluster.errors import LocalClusterError
from local_cluster.local_secrets import ensure_secret, write_curl_config, write_peer_keys, write_private
from local_cluster.plan import ALLOCATOR_ENVIRONMENT, STORAGE_ALLOCATOR_ENVIRONMENT
from local_cluster.terminal import complain, say
from services.storage.redis_node.server_config import USERNAME, config_lines
from shared.access_keys import draw_credential
from shared.private_process import make_process_private
from shared.roles import Role

FOLDER: Final = Path(".local/machines")
ETC: Final = "/etc/trivet"
DATA: Final = "/var/lib/trivet"
SOCKET: Final = "/run/trivet-redis/redis.sock"
LOOPBACK: Final = "127.0.0.1"
PORTS: Final = {Role.CLOCK: 8301, Role.CONSENSUS: 8201, Role.STORAGE: 8101, Role.GATEWAY: 8080}
MEMBERS: Final = 3

_SECRETS: Final = ("cluster-secret", "sealing-key", "root-key", "redis-password", "metrics-token")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Machine(BaseModel):
    """One machine; `number` is that of all that runs on it."""

    number: int
    address: str


class Inventory(BaseModel):
    """What was asked for the last time. `members` are the names of the machines with a consensus member."""

    cluster_id: str
    next_number: int
    members: list[str]
    machines: dict[str, Machine]

    def of_members(self) -> list[Machine]:
        """In the order of their names in `members`."""
        return [self.machines[name] for name in self.members]


def write_machines(folder: Path, addresses: Mapping[str, str]) -> Inventory:
    """Write the files of each machine below `folder`; machines that are not named any more are dropped.

    Secrets, the id of the cluster and the numbers of machines are made once and kept in `folder`, the only place with the keys of
    an operator. Where a machine with a member is dropped, the first that has none takes its place.

    Raises:
        LocalClusterError: a name or an address is none, or there are too few for a new cluster.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    inventory = _updated(_read(folder / "inventory.json"), addresses)
    own = folder / "secrets"
    own.mkdir(mode=0o700, exist_ok=True)
    for name in _SECRETS:
        ensure_secret(own / name, draw_credential() if name == "root-key" else secrets.token_hex(32))
    write_peer_keys(own, (own / "cluster-secret").read_text(), write_private)
    write_curl_config(folder / "curl.conf", (own / "root-key").read_text().strip())
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in {"secrets", *inventory.machines}:
            shutil.rmtree(entry)
    for name, machine in inventory.machines.items():
        _write_machine(folder / name, own, inventory, machine)
    write_private(folder / "operator.env", _text(_operator(own, inventory)))
    write_private(folder / "inventory.json", inventory.model_dump_json(indent=1) + "\n")
    return inventory


def _read(path: Path) -> Inventory:
    if not path.exists():
        return Inventory(cluster_id=f"trivet-{secrets.token_hex(8)}", next_number=1, members=[], machines={})
    try:
        return Inventory.model_validate_json(path.read_text())
    except ValidationError as error:
        raise LocalClusterError(f"{path} cannot be read: {error}") from error


def _updated(before: Inventory, addresses: Mapping[str, str]) -> Inventory:
    for name, address in addresses.items():
        if not _NAME.fullmatch(name) or name == "secrets":
            raise LocalClusterError(f"{name!r} is no name for a machine: lower case letters, digits and dashes.")
        try:
            ipaddress.IPv4Address(address)
        except ValueError as error:
            raise LocalClusterError(f"{name}={address}: that is no IPv4 address.") from error
    if len(set(addresses.values())) < len(addresses):
        raise LocalClusterError("Two machines have one address.")
    if len(addresses) < MEMBERS:
        raise LocalClusterError(f"A cluster needs {MEMBERS} machines: a=10.0.0.1 b=10.0.0.2 c=10.0.0.3")
    machines, number = {}, before.next_number
    for name, address in addresses.items():
        known = before.machines.get(name)
        machines[name] = Machine(number=known.number if known else number, address=address)
        number += known is None
    kept = [name for name in before.members if name in machines]
    members = [*kept, *(name for name in machines if name not in kept)][:MEMBERS]
    return before.model_copy(update={"machines": machines, "next_number": number, "members": members})


def _write_machine(folder: Path, own: Path, inventory: Inventory, machine: Machine) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    is_member = machine in inventory.of_members()
    for role in (Role.CLOCK, *([Role.CONSENSUS] if is_member else []), Role.STORAGE, Role.GATEWAY):
        write_private(folder / f"{role}.env", _text(_settings(role, inventory, machine)))
        shutil.copy(own / f"peer-keys-{role}", folder)
    for name in ("sealing-key", "root-key", "redis-password", "metrics-token"):
        shutil.copy(own / name, folder)
    write_private(folder / "redis.conf", _redis_configuration((own / "redis-password").read_text().strip()))


def _settings(role: Role, inventory: Inventory, machine: Machine) -> dict[str, str]:
    settings = {
        **ALLOCATOR_ENVIRONMENT,
        "PYTHONUNBUFFERED": "1",
        "TRIVET_CLUSTER_ID": inventory.cluster_id,
        "TRIVET_NODE_ID": f"{role}-{machine.number}",
        # Clients come through a proxy on the same machine, which ends TLS.
        "TRIVET_HOST": LOOPBACK if role is Role.GATEWAY else machine.address,
        "TRIVET_PORT": str(PORTS[role]),
        "TRIVET_PEER_KEYS_FILE": f"{ETC}/peer-keys-{role}",
        "TRIVET_METRICS_TOKEN_FILE": f"{ETC}/metrics-token",
    }
    if role is not Role.GATEWAY:
        settings["TRIVET_DATA_DIR"] = f"{DATA}/{role}"
    if role is not Role.CLOCK:
        settings["TRIVET_CLOCK_URLS"] = _urls(Role.CLOCK, inventory.machines.values())
    if role in {Role.STORAGE, Role.GATEWAY}:
        settings["TRIVET_CONSENSUS_URLS"] = _urls(Role.CONSENSUS, inventory.of_members())
    if role is Role.STORAGE:
        settings |= {
            **STORAGE_ALLOCATOR_ENVIRONMENT,
            "TRIVET_ADVERTISED_URL": f"http://{machine.address}:{PORTS[role]}",
            "TRIVET_ZONE": f"machine-{machine.number}",
            "TRIVET_REDIS_URL": f"unix://{SOCKET}",
            "TRIVET_REDIS_USERNAME": USERNAME,
            "TRIVET_REDIS_PASSWORD_FILE": f"{ETC}/redis-password",
        }
    if role is Role.GATEWAY:
        settings |= {
            "TRIVET_SEALING_KEY_FILE": f"{ETC}/sealing-key",
            "TRIVET_ROOT_KEY_FILE": f"{ETC}/root-key",
            "TRIVET_TRUSTED_PROXIES": LOOPBACK,
        }
    return settings


def _operator(own: Path, inventory: Inventory) -> dict[str, str]:
    members = inventory.of_members()
    return {
        "TRIVET_CLUSTER_ID": inventory.cluster_id,
        "TRIVET_PEER_KEYS_FILE": str((own / f"peer-keys-{Role.OPERATOR}").resolve()),
        "TRIVET_CONSENSUS_URLS": _urls(Role.CONSENSUS, members),
        "TRIVET_INIT_MEMBERS": ",".join(
            f"consensus-{each.number}=http://{each.address}:{PORTS[Role.CONSENSUS]}={each.address}:8251"
            for each in members
        ),
        "TRIVET_INIT_NODES": ",".join(f"storage-{each.number}" for each in inventory.machines.values()),
    }


def _urls(role: Role, machines: Iterable[Machine]) -> str:
    return ",".join(f"{role}-{each.number}=http://{each.address}:{PORTS[role]}" for each in machines)


def _redis_configuration(password: str) -> str:
    lines = (
        "# Written by `make machines`. The Redis of this machine's storage node alone, durable at every acknowledged write.",
        "port 0",
        f"unixsocket {SOCKET}",
        "unixsocketperm 600",
        f"dir {DATA}/redis",
        "daemonize no",
        *config_lines(password),
    )
    return "\n".join(lines) + "\n"


def _text(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def main() -> int:
    """Write the machines that are named as `name=address`; the exit status."""
    make_process_private()
    words = sys.argv[1:]
    addresses = dict(word.split("=", 1) for word in words if "=" in word)
    if not words or len(addresses) < len(words):
        complain("Name each machine once, with its address: a=10.0.0.1 b=10.0.0.2 c=10.0.0.3")
        return 2
    try:
        inventory = write_machines(FOLDER, addresses)
    except LocalClusterError as error:
        complain(str(error))
        return 1
    for name, machine in inventory.machines.items():
        say(f"{FOLDER / name}: for /etc/trivet of {machine.address}, where storage-{machine.number} and its like run")
    say(f"{FOLDER} has the secrets of the cluster: keep it, and keep it to yourself.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
