#!/usr/bin/env python3
"""Checks the container files as far as this machine can: manifests against Kubernetes' schemas, compose by compose itself.

There is no kubectl in a checkout, so the small part of kustomize that k8s/kustomization.yaml uses is done here. A field
that this renderer does not know is an error, so that it cannot pass something that kustomize would change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

PROJECT_ROOT: Final = Path(__file__).resolve().parent.parent
MANIFESTS: Final = PROJECT_ROOT / "k8s"
KUBERNETES_VERSIONS: Final = ("1.29", "1.37")
"""The oldest with sidecar containers by default, and the newest that the schemas know."""

KNOWN_FIELDS: Final = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "secretGenerator",
    "generatorOptions",
    "images",
}
CLUSTER_SCOPED: Final = {"Namespace"}


def render(folder: Path) -> list[dict[str, Any]]:
    """The resources that `kubectl apply -k` would send. Raises ValueError for what this renderer does not know."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(kustomization) - KNOWN_FIELDS:
        raise ValueError(f"kustomization.yaml uses {sorted(unknown)}, which this check cannot render")
    listed = set(kustomization["resources"])
    present = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    if listed != present:
        raise ValueError(f"kustomization.yaml and the folder disagree about {sorted(listed ^ present)}")
    resources = [
        document for name in kustomization["resources"] for document in yaml.safe_load_all((folder / name).read_text())
    ]
    resources += [_secret(folder, entry) for entry in kustomization["secretGenerator"]]
    tags = {entry["name"]: entry["newTag"] for entry in kustomization["images"]}
    for resource in resources:
        if resource["kind"] not in CLUSTER_SCOPED:
            resource["metadata"]["namespace"] = kustomization["namespace"]
        for container in _containers(resource):
            if container["image"] in tags:
                container["image"] += ":" + tags[container["image"]]
    return resources


def check_manifests() -> list[str]:
    """What is wrong with the rendered manifests."""
    problems: list[str] = []
    try:
        resources = render(MANIFESTS)
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        return [f"k8s: {error}"]
    for resource in resources:
        name = f"{resource['kind']} {resource['metadata']['name']}"
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                problems.append(f"k8s: {name} in Kubernetes {version}: {error.message}")
        problems += [f"k8s: {name}: image {image} has no tag" for image in _untagged(resource)]
    sys.stdout.write(f"k8s: {len(resources)} resources checked against Kubernetes {', '.join(KUBERNETES_VERSIONS)}\n")
    return problems


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


def _secret(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    # The values are made by `make secrets` and are not in the repository; for the schema any bytes do.
    names = [Path(path).name for path in entry["files"]]
    files = {name: folder / "secrets" / name for name in names}
    data = {name: b64encode(path.read_bytes() if path.exists() else b"-").decode() for name, path in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": entry["name"]}, "data": data}


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
