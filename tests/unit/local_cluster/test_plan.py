"""`local_cluster.plan`: the processes, ports and environments of docs/operations.md, as the services themselves read them."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import TypeAdapter
from redis.connection import parse_url

from local_cluster.cluster import Cluster
from local_cluster.errors import LocalClusterError
from local_cluster.layout import Layout
from local_cluster.local_secrets import load_or_make_secrets, write_private
from local_cluster.plan import DEFAULT_SHAPE, ClusterPlan, Kind, Shape, all_ports, make_plan, process_names
from local_cluster.shape_file import load_shape, save_shape
from services.clock.settings import ClockSettings
from services.consensus.settings import ConsensusSettings
from services.gateway.settings import GatewaySettings
from services.storage.settings import StorageSettings
from shared.access_keys import draw_credential
from shared.cluster_keys import PAIRS, PeerKeys, derive_peer_keys
from shared.contracts.access import KeyId
from shared.settings import load_settings

SETTINGS = {
    Kind.CLOCK: ClockSettings,
    Kind.CONSENSUS: ConsensusSettings,
    Kind.STORAGE: StorageSettings,
    Kind.GATEWAY: GatewaySettings,
}


def plan_in(
    folder: Path,
    offset: int = 0,
    overrides: dict[str, dict[str, str]] | None = None,
    shape: Shape = DEFAULT_SHAPE,
) -> ClusterPlan:
    layout = Layout(folder)
    layout.make()
    secrets = load_or_make_secrets(layout, process_names(Kind.REDIS, shape))
    return make_plan(layout, secrets, offset, Path("/usr/bin/redis-server"), overrides or {}, shape=shape)


def test_the_processes_and_ports_are_those_of_the_design(tmp_path) -> None:
    """Others rely on these numbers."""
    plan = plan_in(tmp_path)
    assert {spec.name: spec.ports for spec in plan.processes} == {
        "gateway-1": (8080, 9000, 8090),
        "storage-1": (8101, 8181),
        "storage-2": (8102, 8182),
        "storage-3": (8103, 8183),
        "redis-1": (),
        "redis-2": (),
        "redis-3": (),
        "consensus-1": (8201, 8251, 8281),
        "consensus-2": (8202, 8252, 8282),
        "consensus-3": (8203, 8253, 8283),
        "clock-1": (8301, 8381),
    }


def test_two_clusters_with_an_offset_of_a_thousand_share_no_port(tmp_path) -> None:
    """And the list of ports that is checked before a start is the list of ports that is used."""
    for offset in (0, 1000):
        plan = plan_in(tmp_path, offset)
        assert sorted(all_ports(offset)) == sorted(port for spec in plan.processes for port in spec.ports)
    assert not set(all_ports(0)) & set(all_ports(1000))


def test_each_node_is_told_the_socket_of_its_own_redis() -> None:
    """As redis-py reads the URL, whatever characters the folder has. A longer path would not do for a socket."""
    with TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / "100% of it? #1"
        plan = plan_in(folder)
    for number in (1, 2, 3):
        url = plan.get(f"storage-{number}").environment["TRIVET_REDIS_URL"]
        assert url == plan.get(f"redis-{number}").url
        assert parse_url(url)["path"] == f"{folder}/run/redis-{number}.sock"
        assert f'unixsocket "{folder}/run/redis-{number}.sock"' in plan.get(f"redis-{number}").private_config


def test_redis_takes_ports_where_a_proxy_is_to_stand_before_them(tmp_path) -> None:
    """For the fault tests; then it has no socket."""
    shape = Shape(has_redis_ports=True)
    plan = plan_in(tmp_path, 1000, shape=shape)
    assert [spec.ports for spec in plan.of_kind(Kind.REDIS)] == [(9151,), (9152,), (9153,)]
    assert sorted(all_ports(1000, shape)) == sorted(port for spec in plan.processes for port in spec.ports)
    assert (
        plan.get("storage-2").environment["TRIVET_REDIS_URL"] == plan.get("redis-2").url == "redis://127.0.0.1:9152/0"
    )
    config = plan.get("redis-2").private_config
    assert "bind 127.0.0.1\nport 9152\n" in config
    assert "unixsocket" not in config


def test_a_cluster_of_another_shape_has_as_many_of_each_as_asked(tmp_path) -> None:
    """Four storage nodes with a Redis each, all admitted from the start, and two gateways."""
    shape = Shape(storage_nodes=4, gateways=2)
    plan = plan_in(tmp_path, 100, shape=shape)
    assert [spec.name for spec in plan.of_kind(Kind.GATEWAY)] == ["gateway-1", "gateway-2"]
    assert len(plan.of_kind(Kind.REDIS)) == 4
    assert plan.admitted_nodes == ("storage-1", "storage-2", "storage-3", "storage-4")
    ports = [port for spec in plan.processes for port in spec.ports]
    assert sorted(all_ports(100, shape)) == sorted(ports)
    assert len(set(ports)) == len(ports)


def test_a_node_that_has_left_leaves_a_gap(tmp_path) -> None:
    """Its number is not used again, and the others keep their ports, folders and Redis."""
    shape = Shape(storage_nodes=4, removed_nodes=frozenset({2}), has_redis_ports=True)
    plan = plan_in(tmp_path, 100, shape=shape)
    assert [spec.name for spec in plan.of_kind(Kind.STORAGE)] == ["storage-1", "storage-3", "storage-4"]
    assert plan.get("storage-4").ports == (8204, 8284)
    assert plan.get("storage-4").environment["TRIVET_REDIS_URL"] == plan.get("redis-4").url
    assert plan.get("redis-4").ports == (8254,)
    assert sorted(all_ports(100, shape)) == sorted(port for spec in plan.processes for port in spec.ports)


def test_later_commands_know_added_and_removed_nodes(tmp_path) -> None:
    """Whatever else of the shape is asked for; without a file it is what is asked for."""
    layout = Layout(tmp_path)
    assert load_shape(layout, Shape(gateways=2)) == Shape(gateways=2)
    save_shape(layout, Shape(storage_nodes=5, removed_nodes=frozenset({2, 4})))
    assert load_shape(layout, Shape(gateways=2)) == Shape(storage_nodes=5, gateways=2, removed_nodes=frozenset({2, 4}))
    assert Cluster(tmp_path).names()[3:5] == ["clock-1", "consensus-1"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "storage_nodes": 4, "removed_nodes": []}', "4"])
def test_a_damaged_list_of_nodes_is_no_list(tmp_path, text: str) -> None:
    """Guessing could start a node that has left."""
    layout = Layout(tmp_path)
    layout.shape_file.write_text(text)
    with pytest.raises(LocalClusterError, match="damaged"):
        load_shape(layout, DEFAULT_SHAPE)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_service_accepts_the_environment_that_it_is_given(tmp_path, monkeypatch, kind) -> None:
    """Read by the service's own settings; every TRIVET_ name is one that it knows."""
    for spec in plan_in(tmp_path, 1000).of_kind(kind):
        for name, value in spec.environment.items():
            monkeypatch.setenv(name, value)
        settings = load_settings(SETTINGS[kind])
        assert settings.node_id == spec.name
        assert settings.port == spec.ports[0]
        for name in spec.environment:
            if name.startswith("TRIVET_"):
                assert name.removeprefix("TRIVET_").lower() in type(settings).model_fields, name


def test_overrides_go_from_wide_to_narrow(tmp_path) -> None:
    """`*`, then the kind, then the process."""
    plan = plan_in(
        tmp_path,
        overrides={"storage-2": {"A": "own"}, "storage": {"A": "kind", "B": "kind"}, "*": {"A": "all", "C": "all"}},
    )
    assert plan.get("storage-2").environment["A"] == "own"
    assert plan.get("storage-1").environment["A"] == "kind"
    assert plan.get("clock-1").environment["A"] == "all"
    assert [plan.get("storage-2").environment[name] for name in "BC"] == ["kind", "all"]


def test_no_secret_stands_on_a_command_line_or_in_an_environment(tmp_path) -> None:
    """Both can be read by every process of the machine, or leak into logs; files cannot."""
    plan = plan_in(tmp_path)
    files = list(Layout(tmp_path).secrets.iterdir())
    values = {path.read_text().strip() for path in files if not path.name.startswith("peer-keys-")} - {plan.cluster_id}
    assert len(values) == 6
    values |= {key for path in files for key in re.findall("[0-9a-f]{64}", path.read_text())}
    assert len(values) == 6 + len(PAIRS)
    for spec in plan.processes:
        visible = " ".join([*spec.command, *spec.environment.values()])
        assert not any(value in visible for value in values), spec.name
        assert not any(value in repr(spec) for value in values), spec.name


def test_secrets_are_private_random_and_kept(tmp_path) -> None:
    """A second start finds the first one's; another cluster has others."""
    layout = Layout(tmp_path / "one")
    layout.make()
    first = load_or_make_secrets(layout, ["redis-1"])
    assert load_or_make_secrets(layout, ["redis-1"]) == first
    drawn = (
        first.cluster_secret_file,
        first.sealing_key_file,
        first.root_key_file,
        *first.redis_password_files.values(),
    )
    for path in (*drawn, layout.curl_config):
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(path.read_text().strip()) >= 60
    assert len({path.read_text() for path in drawn}) == len(drawn)
    assert layout.secrets.stat().st_mode & 0o777 == 0o700
    other = Layout(tmp_path / "two")
    other.make()
    second = load_or_make_secrets(other, ["redis-1"])
    assert second.cluster_id != first.cluster_id
    assert second.cluster_secret_file.read_text() != first.cluster_secret_file.read_text()


def test_each_process_gets_the_keys_of_its_role_and_no_cluster_secret(tmp_path) -> None:
    """One file of keys, which is that of its role."""
    secret_file = str(Layout(tmp_path).secrets / "cluster-secret")
    for spec in plan_in(tmp_path).processes:
        if spec.kind is not Kind.REDIS:
            keys = PeerKeys.parse(Path(spec.environment["TRIVET_PEER_KEYS_FILE"]).read_text())
            assert keys.role == spec.kind
        assert secret_file not in spec.environment.values()


def test_the_keys_follow_the_cluster_secret(tmp_path) -> None:
    """A second line is a second generation; files of keys are private as the secret is."""
    layout = Layout(tmp_path)
    layout.make()
    made = load_or_make_secrets(layout, [])
    old = made.cluster_secret_file.read_text()
    write_private(made.cluster_secret_file, old + "n" * 64 + "\n")
    found = load_or_make_secrets(layout, [])
    for role, path in found.peer_keys_files.items():
        assert path.stat().st_mode & 0o777 == 0o600
        assert found.keys(role) == derive_peer_keys(old + "n" * 64, role)


def test_redis_is_durable_at_every_write_bounded_and_closed_to_strangers(tmp_path) -> None:
    """Without that an acknowledgement of it is worth nothing (docs/promises.md, P1)."""
    config = plan_in(tmp_path).get("redis-2").private_config.splitlines()
    for line in (
        "port 0",
        f'unixsocket "{tmp_path}/run/redis-2.sock"',
        "unixsocketperm 600",
        "appendonly yes",
        "appendfsync always",
        "maxmemory 512mb",
        "maxmemory-policy noeviction",
    ):
        assert line in config
    assert "user default off" in config
    assert any(line.startswith("user trivet on ") and len(line.rpartition(">")[2]) == 64 for line in config)
    assert f'dir "{tmp_path}/data/redis-2"' in config


def test_the_root_key_is_one_line_that_fits_the_contract(tmp_path) -> None:
    """Id and secret with a dot between them; the secret is at least as long as the shortest that is taken."""
    layout = Layout(tmp_path)
    layout.make()
    text = load_or_make_secrets(layout, []).root_key_file.read_text()
    key_id, dot, secret = text.removesuffix("\n").partition(".")
    assert TypeAdapter(KeyId).validate_python(key_id) == key_id
    assert (dot, len(secret) >= 32) == (".", True)
    assert "." not in secret
    assert len(text.splitlines()) == 1


def test_curl_shows_the_key_that_is_in_the_file(tmp_path) -> None:
    """Also in a folder from before keys, and after the file was given another key."""
    layout = Layout(tmp_path)
    layout.make()
    old = load_or_make_secrets(layout, ["redis-1"])
    for path in (old.root_key_file, old.sealing_key_file, layout.curl_config):
        path.unlink()
    kept = old.cluster_secret_file.read_text()
    assert load_or_make_secrets(layout, ["redis-1"]) == old
    assert old.cluster_secret_file.read_text() == kept
    for credential in (old.root_key_file.read_text().strip(), draw_credential()):
        old.root_key_file.write_text(credential + "\n")
        load_or_make_secrets(layout, [])
        assert f'header = "Authorization: Bearer {credential}"' in layout.curl_config.read_text().splitlines()


def test_a_root_key_file_without_a_root_key_is_refused_and_not_shown(tmp_path) -> None:
    """Its text would end in an error message about the header that it makes."""
    layout = Layout(tmp_path)
    layout.make()
    load_or_make_secrets(layout, [])
    layout.root_key.write_text("a line of a log\nTVAAAAAAAAAAAAAAAAAA." + "s" * 40 + "\n")
    with pytest.raises(ValueError, match="an access key is one line") as refused:
        load_or_make_secrets(layout, [])
    assert "ssss" not in str(refused.value)
