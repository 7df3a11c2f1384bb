"""Compose, Kubernetes and Dockerfiles say what the services really read; a renamed setting fails here, not in a cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster.container_secrets import NAMES, make_container_secrets
from local_cluster.plan import ALLOCATOR_ENVIRONMENT
from local_cluster.settings import PROJECT_ROOT
from services.clock.settings import ClockSettings
from services.consensus.settings import ConsensusSettings
from services.consensus.tools.initialise import InitialiseSettings
from services.gateway.origin_rules import OriginRules
from services.gateway.settings import GatewaySettings
from services.storage.settings import StorageSettings
from shared.access_keys import PlainKey, draw_credential
from shared.cluster_keys import key_file
from shared.errors import MisdirectedRequestError
from shared.roles import Role
from shared.settings import load_settings
from shared.web.service_app import VERSION

OVERLAY_FOLDER = PROJECT_ROOT / "k8s" / "overlays"
OVERLAYS = ("single-node", "production")
SETTINGS = {
    "clock": ClockSettings,
    "consensus": ConsensusSettings,
    "gateway": GatewaySettings,
    "storage": StorageSettings,
    "initialise": InitialiseSettings,
}
Environment = dict[str, str]


def image_environment(service: str) -> Environment:
    """What the Dockerfile sets."""
    text = (PROJECT_ROOT / "services" / service / "Dockerfile").read_text().replace("\\\n", " ")
    line = re.search(r"^ENV (.*)$", text, re.MULTILINE)
    assert line is not None
    return dict(pair.split("=", 1) for pair in line[1].split())


def compose_processes() -> list[tuple[str, str, Environment]]:
    """(name, kind, environment) of everything of ours in docker-compose.yml."""
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    return [
        (
            name,
            name.rpartition("-")[0] or name,
            _with_image(name.rpartition("-")[0] or "consensus", _with_defaults(service["environment"])),
        )
        for name, service in compose["services"].items()
        if service["image"].startswith("${TRIVET_IMAGES")
    ]


def _with_defaults(environment: Environment) -> Environment:
    """As compose reads it when no variable is set."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environment.items()}


def kubernetes_processes(resources: list[dict[str, Any]]) -> list[tuple[str, str, Environment]]:
    """(name, kind, environment) of every container of ours, for the first pod of its kind."""
    maps = {each["metadata"]["name"]: each["data"] for each in resources if each["kind"] == "ConfigMap"}
    found = []
    for pod in pods(resources).values():
        for container in pod["containers"] + pod.get("initContainers", []):
            name, image = container["name"], container["image"].partition(":")[0]
            if image.startswith("trivet-") and name != "operator":
                environment: Environment = {}
                for source in container.get("envFrom", []):
                    environment |= maps[source["configMapRef"]["name"]]
                for entry in container["env"]:
                    environment[entry["name"]] = _value(entry, f"{name}-0", environment, maps)
                found.append((name, name, _with_image(image.removeprefix("trivet-"), _with_file(environment, maps))))
    return found


def pods(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pod specification of every workload."""
    workloads = [each for each in resources if "template" in each.get("spec", {})]
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in workloads}


def _value(entry: dict[str, Any], pod: str, environment: Environment, maps: dict[str, Environment]) -> str:
    source = entry.get("valueFrom", {})
    if "configMapKeyRef" in source:
        return maps[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
    if "fieldRef" in source:
        return pod if source["fieldRef"]["fieldPath"] == "metadata.name" else "zone-a"
    return re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], entry["value"])


def _with_file(environment: Environment, maps: dict[str, Environment]) -> Environment:
    """With what stands in the file that TRIVET_ENV_FILE names, which lies in a volume of a ConfigMap."""
    file = environment.pop("TRIVET_ENV_FILE", None)
    return environment if file is None else environment | _assignment(maps["trivet-members"][Path(file).name])


def _assignment(line: str) -> Environment:
    name, _, value = line.partition("=")
    return {name: value}


def _with_image(service: str, environment: Environment) -> Environment:
    return image_environment(service) | {name: str(value) for name, value in environment.items()}


def check(processes: list[tuple[str, str, Environment]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each process' own settings take its environment, and know every name in it."""
    for name, kind, environment in processes:
        with monkeypatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, secret_file(key, tmp_path, SETTINGS[kind].ROLE) if key.endswith("_FILE") else value)
            settings = load_settings(SETTINGS[kind])
        known = set(type(settings).model_fields) | (
            {"host", "port", "data_dir", "clock_urls"} if kind == "initialise" else set()
        )
        ours = {key.removeprefix("TRIVET_").lower() for key in environment if key.startswith("TRIVET_")}
        assert ours - known <= ({"consensus_urls", "clock_urls"}), name
        if kind != "initialise":
            assert settings.node_id == environment["TRIVET_NODE_ID"]


def secret_file(setting: str, folder: Path, role: Role) -> str:
    """A file such as `make secrets` would have made for a process of that role."""
    file = folder / f"{setting}-{role}"
    texts = {"TRIVET_PEER_KEYS_FILE": key_file("s" * 64, role), "TRIVET_ROOT_KEY_FILE": draw_credential()}
    file.write_text(texts.get(setting, "s" * 64))
    return str(file)


def test_compose_starts_the_processes_of_make_run_with_settings_that_they_accept(monkeypatch, tmp_path) -> None:
    """A second gateway and a fourth storage node besides, and the one-shot that makes a cluster of them."""
    processes = compose_processes()
    assert sorted(name for name, _, _ in processes) == sorted(
        [f"consensus-{n}" for n in (1, 2, 3)]
        + [f"storage-{n}" for n in (1, 2, 3, 4)]
        + ["clock-1", "gateway-1", "gateway-2", "initialise"]
    )
    check(processes, monkeypatch, tmp_path)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_starts_the_services_with_settings_that_they_accept(checker, monkeypatch, tmp_path, overlay) -> None:
    """Downward API and config maps included, and with the components."""
    for components in ((), checker.COMPONENTS):
        processes = kubernetes_processes(checker.render(OVERLAY_FOLDER / overlay, components))
        assert sorted(name for name, _, _ in processes) == sorted(SETTINGS)
        check(processes, monkeypatch, tmp_path)


def names_taken(environment: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OriginRules:
    """The rules that a gateway with this environment applies."""
    with monkeypatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, secret_file(key, tmp_path, Role.GATEWAY) if key.endswith("_FILE") else value)
        return load_settings(GatewaySettings).origin_rules()


def test_compose_tells_the_gateway_the_names_of_its_port_and_of_its_container(monkeypatch, tmp_path) -> None:
    """The bound address is 0.0.0.0 there, which says nothing."""
    environment = next(environment for name, _, environment in compose_processes() if name == "gateway-1")
    assert "TRIVET_PUBLIC_HOSTS" in environment
    rules = names_taken(environment, monkeypatch, tmp_path)
    for host in ("localhost:8080", "127.0.0.1:8080", "proxy:8080", "gateway-1:8080"):
        rules.check_host(host, "172.17.0.2")
    with pytest.raises(MisdirectedRequestError):
        rules.check_host("attacker.example", "172.17.0.2")


def test_kubernetes_tells_the_gateway_every_name_of_its_service(checker, monkeypatch, tmp_path) -> None:
    """As the cluster's DNS makes them of service and namespace; a renamed one fails here."""
    resources = checker.render(OVERLAY_FOLDER / "production")
    environment = next(environment for name, _, environment in kubernetes_processes(resources) if name == "gateway")
    assert "TRIVET_PUBLIC_HOSTS" in environment
    rules = names_taken(environment, monkeypatch, tmp_path)
    namespace = yaml.safe_load((PROJECT_ROOT / "k8s" / "namespace.yaml").read_text())["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in resources if each["kind"] != "PriorityClass"} == {namespace}
    services = [
        each["metadata"]["name"]
        for each in resources
        if each["kind"] == "Service" and each["spec"]["selector"] == {"app": "gateway"}
    ]
    assert services
    for service in services:
        for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local"):
            rules.check_host(service + suffix, "10.1.2.3")
    rules.check_host("localhost:8080", "10.1.2.3")
    with pytest.raises(MisdirectedRequestError):
        rules.check_host("attacker.example", "10.1.2.3")


def test_every_container_of_compose_has_limits_and_a_health_check() -> None:
    """Of memory, processes and logs; images of others may bring a health check of their own."""
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        assert {"mem_limit", "pids_limit", "logging", "group_add"} <= service.keys(), name
        assert service["read_only"] is True, name
        if name.startswith("redis-") or name == "proxy":
            assert service["healthcheck"]["interval"] == "10s", name
    built = [service["build"]["dockerfile"] for service in compose["services"].values() if "build" in service]
    assert len(built) == len(set(built)) == 4


@pytest.mark.parametrize("service", ["clock", "consensus", "gateway", "storage"])
def test_images_probe_the_operations_port_that_they_expose(service) -> None:
    """The cheap way, with the port of this service."""
    text = (PROJECT_ROOT / "services" / service / "Dockerfile").read_text()
    probe = re.search(r'CMD \["/bin/bash", "/app/services/probe.sh", "(\d+)"\]', text)
    assert probe is not None
    port = int(image_environment(service)["TRIVET_PORT"])
    assert int(probe[1]) == port + (10 if service == "gateway" else 80)
    assert probe[1] in text[text.index("EXPOSE") :].split("\n")[0]
    version = re.search(r"^ARG VERSION=(.*)$", text, re.MULTILINE)
    assert version is not None
    assert version[1] == VERSION


@pytest.mark.parametrize("service", ["clock", "consensus", "gateway", "storage"])
def test_images_set_the_same_allocator_as_the_launcher(service) -> None:
    """Otherwise a container would be measured and another process shipped."""
    environment = image_environment(service)
    assert {name: environment[name] for name in ALLOCATOR_ENVIRONMENT} == ALLOCATOR_ENVIRONMENT


def test_container_secrets_are_made_once_behind_a_private_folder(tmp_path) -> None:
    """Readable for the containers' group and nobody else, behind a folder that keeps other users out."""
    folder = tmp_path / "secrets"
    derived = [f"peer-keys-{role}" for role in Role]
    variables = tmp_path / "variables"
    variables.write_text("TRIVET_FILES_PORT=8088\n")
    assert make_container_secrets(folder, variables) == [*NAMES, *derived]
    assert variables.read_text() == f"TRIVET_FILES_PORT=8088\nTRIVET_SECRETS_GROUP={folder.stat().st_gid}\n"
    first = {name: (folder / name).read_text() for name in NAMES}
    assert make_container_secrets(folder, variables) == []
    assert {name: (folder / name).read_text() for name in NAMES} == first
    assert len(set(first.values())) == len(NAMES)
    assert PlainKey.parse(first["root-key"]).line() in (folder / "curl.conf").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == (
        dict.fromkeys([*NAMES, *derived], 0o440) | {"cluster-secret": 0o600, "curl.conf": 0o600}
    )
    (folder / "cluster-secret").unlink()
    assert make_container_secrets(folder, variables) == ["cluster-secret", *derived], "keys follow a new secret"


def test_making_secrets_needs_one_package() -> None:
    """So that `make secrets` need not install what the services need."""
    code = "import sys; before = set(sys.modules); import local_cluster.container_secrets; print(*(set(sys.modules) - before))"
    words = [sys.executable, "-c", code]
    shown = subprocess.run(words, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    imported = {name.partition(".")[0] for name in shown.split()}
    assert imported - sys.stdlib_module_names == {"blake3", "local_cluster", "shared"}
    assert imported & {"blake3"}


def test_no_container_has_the_cluster_secret_or_keys_of_another_role(checker) -> None:
    """Compose and Kubernetes mount one file of keys each, that of the process' own role."""
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    for name, service in compose["services"].items():
        sources = [entry["source"] for entry in service.get("secrets", []) if isinstance(entry, dict)]
        role = "operator" if name == "initialise" else name.partition("-")[0]
        assert sources == ([f"peer-keys-{role}"] if role in list(Role) else []), name
        assert "cluster-secret" not in json.dumps(service)
    resources = checker.render(OVERLAY_FOLDER / "production")
    assert "cluster-secret" not in json.dumps(resources)
    for pod in pods(resources).values():
        for container in pod["containers"] + pod.get("initContainers", []):
            role = {"initialise": "operator", "redis": "storage"}.get(container["name"], container["name"])
            keys = [key for key in secrets_of(pod, container) if key.startswith("peer-keys")]
            assert keys == [f"peer-keys-{role}"], container["name"]


def secrets_of(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """The secrets whose files this container sees."""
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    volumes = [volume for volume in pod["volumes"] if volume["name"] in mounted]
    return [item["key"] for volume in volumes for item in volume.get("secret", {}).get("items", [])]


def test_only_gateways_are_given_the_sealing_key_and_the_root_key(checker) -> None:
    """In compose and in Kubernetes; whoever has the sealing key reads every secret."""
    compose = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
    mounted = {
        name: {entry for entry in service.get("secrets", []) if isinstance(entry, str)}
        for name, service in compose["services"].items()
    }
    for pod in pods(checker.render(OVERLAY_FOLDER / "production")).values():
        for container in pod["containers"] + pod.get("initContainers", []):
            mounted[container["name"]] = set(secrets_of(pod, container))
    for secret in ("sealing-key", "root-key"):
        assert {name for name, names in mounted.items() if secret in names} == {"gateway-1", "gateway-2", "gateway"}
