"""The only importer of raftos: what Trivet takes from it, and the proof that it is the version that was read.

Taken: the roles' life cycle and election sequence, timers, configuration, dispatch and message names. Never taken:
storage, log, state machine, network, cryptors, `Replicated*`, majority, append, commit and vote persistence (C-3).
`DISTRUSTED` lists what must never be entered, and a test makes each of them raise.
"""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from types import ModuleType
from typing import Final

import raftos
import raftos.conf
import raftos.network
import raftos.replicator
import raftos.serializers
import raftos.server
import raftos.state
import raftos.storage
import raftos.timer

BaseRole = raftos.state.BaseState
BaseCandidate = raftos.state.Candidate
BaseFollower = raftos.state.Follower
BaseLeader = raftos.state.Leader
BaseState = raftos.state.State
Timer = raftos.timer.Timer
config = raftos.conf.config

REVIEWED_VERSION: Final = "0.2.6"
REVIEWED_SHA256: Final = {
    "conf": "e4e9cdc360e6e59fea5a99384fe181f67bd7ca79ce149b7937061da8ecf998d3",
    "server": "0da603c766dabd1c19d01ce024fcdbda35c039297d3d4de3f5a3f17407bfcfb6",
    "state": "f36c2b4d9d950f013464cd6fe8ffe6d505627b050d5c98ec23ccf584f0c4d11e",
    "timer": "4abf94b10ec25665f54d1121092fe16408689e0886c090b9422508767f78f16d",
}
_REVIEWED_MODULES: Final[dict[str, ModuleType]] = {
    "conf": raftos.conf,
    "server": raftos.server,
    "state": raftos.state,
    "timer": raftos.timer,
}

DISTRUSTED: Final[tuple[tuple[type | ModuleType, str], ...]] = (
    (raftos.state.BaseState, "on_receive_request_vote"),
    (raftos.state.Leader, "append_entries"),
    (raftos.state.Leader, "on_receive_append_entries_response"),
    (raftos.state.Leader, "update_commit_index"),
    (raftos.state.Leader, "execute_command"),
    (raftos.state.Candidate, "on_receive_append_entries"),
    (raftos.state.Follower, "init_storage"),
    (raftos.state.Follower, "on_receive_append_entries"),
    (raftos.state.Follower, "on_receive_request_vote"),
    (raftos.state.State, "__init__"),
    (raftos.state.State, "is_majority"),
    (raftos.state.State, "get_value"),
    (raftos.state.State, "set_value"),
    (raftos.state.State, "wait_for_election_success"),
    (raftos.state.State, "wait_until_leader"),
    (raftos.storage.FileDict, "__init__"),
    (raftos.storage.FileDict, "update"),
    (raftos.storage.FileDict, "__getitem__"),
    (raftos.storage.FileDict, "__setitem__"),
    (raftos.storage.FileStorage, "__init__"),
    (raftos.storage.Log, "__init__"),
    (raftos.storage.Log, "write"),
    (raftos.storage.Log, "read"),
    (raftos.storage.Log, "erase_from"),
    (raftos.storage.StateMachine, "__init__"),
    (raftos.storage.StateMachine, "apply"),
    (raftos.server.Node, "__init__"),
    (raftos.server.Node, "start"),
    (raftos.server.Node, "send"),
    (raftos.server, "register"),
    (raftos.network.UDPProtocol, "__init__"),
    (raftos.replicator.ReplicatedContainer, "__init__"),
    (raftos.serializers.MessagePackSerializer, "pack"),
    (raftos.serializers.MessagePackSerializer, "unpack"),
)


class UnreviewedRaftosError(Exception):
    """The installed raftos is not the one whose every line was read."""


def verify_raftos() -> None:
    """Refuse a raftos that differs from the reviewed one by a byte in the modules that are used.

    Raises:
        UnreviewedRaftosError: names the module.
    """
    installed = version("raftos")
    if installed != REVIEWED_VERSION:
        raise UnreviewedRaftosError(f"raftos {installed} is installed; only {REVIEWED_VERSION} was reviewed")
    for name, module in _REVIEWED_MODULES.items():
        digest = hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
        if digest != REVIEWED_SHA256[name]:
            raise UnreviewedRaftosError(f"raftos.{name} differs from the reviewed one (sha256 {digest})")


def configure_raftos(*, heartbeat_interval_ms: int, election_timeout_min_ms: int, election_timeout_max_ms: int) -> None:
    """Set raftos' process-wide timing: its election interval becomes exactly the two bounds given, in seconds.

    raftos derives both bounds from the heartbeat: min = heartbeat * missed heartbeats, max = min * spread. Its step-down
    interval, which CheckQuorum uses, is the lower bound.
    """
    raftos.configure(
        {
            "heartbeat_interval": heartbeat_interval_ms / 1000,
            "step_down_missed_heartbeats": election_timeout_min_ms / heartbeat_interval_ms,
            "election_interval_spread": election_timeout_max_ms / election_timeout_min_ms,
        }
    )
