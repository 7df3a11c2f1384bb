"""The commands of docs/deploy-kubernetes.md name what there is; there is no Kubernetes here to run them on."""

from __future__ import annotations

import re

import pytest
import yaml

from local_cluster.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "deploy-kubernetes.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
(YAML,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def resources(checker) -> list[dict]:
    return checker.render(PROJECT_ROOT / "k8s" / "overlays" / "production", checker.COMPONENTS)


def test_files_and_workloads_that_are_named_exist(resources) -> None:
    """Of every command of the page."""
    for path in re.findall(r"-[kf] (k8s\S+)|^(k8s/\S+)", SHELL, re.MULTILINE):
        assert (PROJECT_ROOT / "".join(path)).exists(), path
    there = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in resources}
    named = set(re.findall(r"\b(?:deployment|statefulset|service)/\w+", SHELL))
    assert named
    assert named <= there
    claims = {
        f"{claim['metadata']['name']}-{each['metadata']['name']}"
        for each in resources
        for claim in each.get("spec", {}).get("volumeClaimTemplates", [])
    }
    assert set(re.findall(r"\b(?:data|redis)-(?:storage|consensus)\b", SHELL)) <= claims


def test_a_member_with_a_new_id_is_named_by_it_wherever_the_old_one_was(resources) -> None:
    """The example replaces every value that names consensus-2, and nothing else in them."""
    maps = {each["metadata"]["name"]: each["data"] for each in resources if each["kind"] == "ConfigMap"}
    changed = {
        (entry["name"], *literal.split("=", 1))
        for entry in yaml.safe_load(YAML)["configMapGenerator"]
        for literal in entry["literals"]
    }
    expected = {
        (name, key, re.sub(r"\bconsensus-2(?=$|=http)", "consensus-2b", value))
        for name, data in maps.items()
        for key, value in data.items()
        if "consensus-2" in value
    }
    assert changed == expected
