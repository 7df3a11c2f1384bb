#!/usr/bin/env python3
"""Checks the container files as far as this machine can: manifests against Kubernetes' schemas, compose by compose itself.

There is no kubectl in a checkout, so the small part of kustomize that k8s/ uses is done here. A field that this renderer does
not know is an error, so that it cannot pass something that kustomize would change; and where there is a kubectl, both must
render the same.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
MANIFESTS: Final = PROJECT_ROOT / "k8s"
KUBERNETES_VERSIONS: Final = ("1.30", "1.37")
"""The oldest with `preStop.sleep` and sidecar containers by default, and the newest that the schemas know."""

GATEWAY_API: Final = "gateway.networking.k8s.io"
NO_SECRET: Final = b"not a secret"

OVERLAYS: Final = ("single-node", "production")
COMPONENTS: Final = ("operator", "prometheus-operator", "zones-of-nodes")
KINDS_OF_OTHERS: Final = {"PodMonitor", "PrometheusRule"}
"""Kubernetes has no schema of them."""

KNOWN_FIELDS: Final = {
    "apiVersion",
    "components",
    "configMapGenerator",
    "configurations",
    "images",
    "kind",
    "labels",
    "namespace",
    "patches",
    "resources",
    "secretGenerator",
}
CLUSTER_SCOPED: Final = {"PriorityClass"}
Resource = dict[str, Any]


def render(folder: Path, components: Iterable[str] = ()) -> list[Resource]:
    """The resources that `kubectl apply -k` would send, without the hashes in names; with `components` besides.

    Raises:
        ValueError: a field, or a file beside it, of which this renderer does not know what kustomize would do.
    """
    path = folder / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    if unknown := set(kustomization) - KNOWN_FIELDS:
        raise ValueError(f"{path} uses {sorted(unknown)}, which this check cannot render")
    listed = {*kustomization.get("resources", []), *kustomization.get("configurations", [])}
    present = {each.name for each in folder.glob("*.yaml")} - {"kustomization.yaml"}
    if forgotten := present - listed:
        raise ValueError(f"{path} does not list {sorted(forgotten)}")
    resources: list[Resource] = []
    for name in kustomization.get("resources", []):
        if (folder / name).is_dir():
            resources += render(folder / name)
        else:
            resources += yaml.safe_load_all((folder / name).read_text())
    resources += [_config_map(folder, entry) for entry in kustomization.get("configMapGenerator", [])]
    resources += [_secret(entry) for entry in kustomization.get("secretGenerator", [])]
    for component in (*kustomization.get("components", []), *(f"../../components/{name}" for name in components)):
        resources = _with_component(resources, folder / component)
    _patch(resources, kustomization.get("patches", []))
    for resource in resources:
        metadata = resource["metadata"]
        if resource["kind"] not in CLUSTER_SCOPED and "namespace" in kustomization:
            metadata["namespace"] = kustomization["namespace"]
        for entry in kustomization.get("labels", []):
            metadata["labels"] = metadata.get("labels", {}) | entry["pairs"]
        for container in _containers(resource):
            for entry in kustomization.get("images", []):
                if container["image"] == entry["name"]:
                    container["image"] += ":" + entry["newTag"]
    return resources


def _with_component(resources: list[Resource], folder: Path) -> list[Resource]:
    """A component adds its own, and patches everything."""
    resources = [*resources, *render(folder)]
    _patch(resources, yaml.safe_load((folder / "kustomization.yaml").read_text()).get("patches", []))
    return resources


def _patch(resources: list[Resource], patches: list[dict[str, Any]]) -> None:
    """Apply JSON patches. Raises ValueError for other operations than add, replace, remove and test."""
    for patch in patches:
        target = patch["target"]
        for resource in resources:
            is_meant = re.fullmatch(target["kind"], resource["kind"]) and (
                target.get("name", resource["metadata"]["name"]) == resource["metadata"]["name"]
            )
            for operation in yaml.safe_load(patch["patch"]) if is_meant else []:
                _change(resource, **operation)


def _change(resource: Resource, op: str, path: str, value: Any = None) -> None:
    *parents, last = (
        int(word) if word.isdigit() else word.replace("~1", "/").replace("~0", "~") for word in path[1:].split("/")
    )
    place: Any = resource
    for word in parents:
        place = place[word]
    if op == "test" and place[last] != value:
        raise ValueError(f"{path} of {resource['metadata']['name']} is not {value}")
    if op == "remove":
        del place[last]
    elif op in {"add", "replace"} and not (op == "add" and isinstance(place, list)):
        if op == "replace":
            place[last]  # KeyError or IndexError: there is nothing to replace
        place[last] = value
    elif op != "test":
        raise ValueError(f"{op} of {path} is not rendered by this check")


def check_manifests() -> list[str]:
    """What is wrong with the rendered manifests, of every overlay without and with the components, and the examples."""
    problems: list[str] = []
    for overlay, components in itertools.product(OVERLAYS, ((), COMPONENTS)):
        problems += check_overlay(overlay, components)
    for example in sorted((MANIFESTS / "examples").glob("*.yaml")):
        ours = [
            each
            for each in yaml.safe_load_all(example.read_text())
            if each["apiVersion"].partition("/")[0] != GATEWAY_API
        ]
        problems += _check_resources(f"k8s/examples/{example.name}", ours)
    for once in sorted(MANIFESTS.glob("*.yaml")):
        problems += _check_resources(f"k8s/{once.name}", list(yaml.safe_load_all(once.read_text())))
    return problems


def check_overlay(overlay: str, components: Iterable[str]) -> list[str]:
    """What is wrong with one overlay, with those components."""
    try:
        resources = render(MANIFESTS / "overlays" / overlay, components)
    except (OSError, ValueError, LookupError, yaml.YAMLError) as error:
        return [f"k8s/overlays/{overlay}: {error!r}"]
    found = _check_resources(f"k8s/overlays/{overlay}", resources)
    return found + _compare_with_kubectl(overlay, components, resources)


def _check_resources(where: str, resources: list[Resource]) -> list[str]:
    problems: list[str] = []
    for resource in resources:
        name = f"{where}: {resource['kind']} {resource['metadata']['name']}"
        for version in KUBERNETES_VERSIONS if resource["kind"] not in KINDS_OF_OTHERS else ():
            try:
                _validate(json.dumps(resource), version)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                problems.append(f"{name} in Kubernetes {version}: {error.message}")
        problems += [f"{name}: image {image} has no tag" for image in _untagged(resource)]
    sys.stdout.write(
        f"{where}: {len(resources)} resources checked against Kubernetes {', '.join(KUBERNETES_VERSIONS)}\n"
    )
    return problems


@cache
def _validate(resource: str, version: str) -> None:
    """Once for each: the overlays have most in common."""
    kubernetes_validate.validate(json.loads(resource), version, strict=True)


def _compare_with_kubectl(overlay: str, components: Iterable[str], resources: list[Resource]) -> list[str]:
    """Where there is a kubectl, it renders the same: so the checks are of what is deployed."""
    if not shutil.which("kubectl"):
        sys.stdout.write(f"SKIPPED: `kubectl kustomize {overlay}`, because kubectl is not installed here\n")
        return []
    # A copy: kustomize wants the secrets to be there.
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "k8s"
        shutil.copytree(MANIFESTS, copy, ignore=shutil.ignore_patterns("secrets"))
        (copy / "secrets").mkdir()
        kustomization = (MANIFESTS / "secrets" / "kustomization.yaml").read_text()
        (copy / "secrets" / "kustomization.yaml").write_text(kustomization)
        for secret in yaml.safe_load(kustomization)["secretGenerator"][0]["files"]:
            (copy / "secrets" / secret).write_bytes(NO_SECRET)
        with (copy / "overlays" / overlay / "kustomization.yaml").open("a") as file:
            yaml.safe_dump({"components": [f"../../components/{name}" for name in components]}, file)
        answer = subprocess.run(  # noqa: S603 - a fixed command
            ["kubectl", "kustomize", str(copy / "overlays" / overlay)],  # noqa: S607 - the one on PATH
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if answer.returncode:
        return [f"k8s/overlays/{overlay}: kubectl kustomize: {answer.stderr.strip()}"]
    # What it generates has a hash at the end of its name, wherever it is named.
    generated = {each["metadata"]["name"] for each in resources if each["kind"] in {"ConfigMap", "Secret"}}
    text = re.sub(rf"\b({'|'.join(generated)})-[a-z0-9]{{10}}\b", r"\1", answer.stdout)
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    ours = {(each["kind"], each["metadata"]["name"]): each for each in resources}
    return [
        f"k8s/overlays/{overlay}: kubectl renders another {' '.join(key)}"
        for key in sorted(rendered.keys() | ours.keys())
        if rendered.get(key, {}) | {"type": None} != ours.get(key, {}) | {"type": None}
    ]


def check_compose() -> list[str]:
    """What compose itself says about docker-compose.yml."""
    command = _compose_command()
    if command is None:
        yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text())
        sys.stdout.write("SKIPPED: `docker compose config`, because docker compose is not installed here\n")
        return []
    answer = subprocess.run(  # noqa: S603 - a fixed command
        [*command, "-f", "docker-compose.yml", "--profile", "*", "config", "--quiet"],
        cwd=PROJECT_ROOT,
        # With what `make secrets` writes to .env.
        env={**os.environ, "TRIVET_SECRETS_GROUP": "0"},  # noqa: TID251 - handed on
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if answer.returncode:
        return [f"docker-compose.yml: {answer.stderr.strip()}"]
    sys.stdout.write("docker-compose.yml: accepted by compose\n")
    return []


def _config_map(folder: Path, entry: dict[str, Any]) -> Resource:
    data = dict(literal.split("=", 1) for literal in entry.get("literals", []))
    data |= {name: (folder / name).read_text() for name in entry.get("files", [])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data}


def _secret(entry: dict[str, Any]) -> Resource:
    # The values are made by `make secrets` and are not in the repository; for the schema any bytes do.
    data = {Path(path).name: b64encode(NO_SECRET).decode() for path in entry["files"]}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": entry["name"]}, "type": "Opaque", "data": data}


def _containers(resource: dict[str, Any]) -> list[dict[str, Any]]:
    pod = resource.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("containers", []), *pod.get("initContainers", [])]


def _untagged(resource: dict[str, Any]) -> list[str]:
    return [container["image"] for container in _containers(resource) if ":" not in container["image"]]


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            answer = subprocess.run(  # noqa: S603 - a fixed command
                [*command, "version"], capture_output=True, timeout=30, check=False
            )
            if answer.returncode == 0:
                return command
    return None


def main() -> int:
    """Print what is wrong; the exit status."""
    problems = check_manifests() + check_compose()
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
