"""What must hold of every manifest that is deployed: pods are confined, observed, and movable one at a time."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import yaml

from local_cluster.settings import PROJECT_ROOT
from tests.tidy.conftest import script

MANIFESTS = PROJECT_ROOT / "k8s"
OVERLAYS = ("single-node", "production")
KEEPERS_OF_DATA = {"storage", "consensus"}
Resource = dict[str, Any]


@pytest.fixture(params=OVERLAYS)
def resources(checker, request) -> list[Resource]:
    """Everything that an overlay deploys, with the components."""
    return checker.render(MANIFESTS / "overlays" / request.param, checker.COMPONENTS)


def workloads(resources: list[Resource]) -> dict[str, Resource]:
    return {each["metadata"]["name"]: each for each in resources if "template" in each.get("spec", {})}


def services(resources: list[Resource]) -> dict[str, Resource]:
    """What serves: all but the pod for operators."""
    return {name: workload for name, workload in workloads(resources).items() if name != "operator"}


def containers(workload: Resource) -> list[Resource]:
    pod = workload["spec"]["template"]["spec"]
    return pod["containers"] + pod.get("initContainers", [])


def of_kind(resources: list[Resource], kind: str) -> dict[str, Resource]:
    return {each["metadata"]["name"]: each for each in resources if each["kind"] == kind}


def test_every_pod_meets_the_restricted_standard(resources) -> None:
    """No root, no capability, no token, a read-only root; secrets are files."""
    for workload in workloads(resources).values():
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "secretKeyRef" not in json.dumps(container)


def test_every_container_has_what_it_needs_and_no_more(resources) -> None:
    """Memory is asked for as it is limited, so that no neighbour's memory is promised twice."""
    for workload in workloads(resources).values():
        for container in containers(workload):
            asked, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert asked["memory"] == limits["memory"]
            assert "cpu" in asked
            assert "cpu" not in limits, "a service that is slowed down looks dead to the others"
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"]


def test_every_service_is_probed_on_its_operations_port(resources) -> None:
    """So that a crowd on the data port does not look like a dead process."""
    for workload in services(resources).values():
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
            assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "operations"}
        assert "operations" in {port["name"] for port in container["ports"]}


def test_everything_has_the_labels_that_tools_show(resources) -> None:
    """`app.kubernetes.io/…`, and what the policies and the PodMonitor select by."""
    for resource in resources:
        if resource["kind"] not in {"ConfigMap", "Secret", "NetworkPolicy"}:
            assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "trivet", resource["metadata"]["name"]
    for name, workload in workloads(resources).items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels["app"] == labels["app.kubernetes.io/component"] == name
        assert labels["app.kubernetes.io/name"] == f"trivet-{name}"
        assert (labels.get("trivet") == "member") == (name in services(resources))
        assert workload["spec"]["selector"]["matchLabels"] == {"app": name}, "a selector can never be changed"


def test_what_is_there_more_than_once_may_be_disrupted_one_at_a_time(resources) -> None:
    """A PodDisruptionBudget for each, and hosts are spread over."""
    budgets = of_kind(resources, "PodDisruptionBudget")
    assert set(budgets) == {"gateway", "storage", "consensus"}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"] == {"app": name}
        assert workloads(resources)[name]["spec"]["minReadySeconds"] > 0
    for name in KEEPERS_OF_DATA:
        spec = workloads(resources)[name]["spec"]
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_data_is_spread_over_hosts_but_where_there_is_one_host(checker) -> None:
    """With a rule that is hard on one node there would never be a quorum."""
    for overlay, is_hard in (("single-node", False), ("production", True)):
        found = workloads(checker.render(MANIFESTS / "overlays" / overlay))
        for name in KEEPERS_OF_DATA:
            affinity = found[name]["spec"]["template"]["spec"].get("affinity", {})
            rules = affinity.get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
            assert [rule["topologyKey"] for rule in rules] == (["kubernetes.io/hostname"] if is_hard else [])


def test_nothing_may_talk_but_by_a_rule(resources) -> None:
    """Deny everything first; DNS wherever it is; metrics for Prometheus alone."""
    policies = of_kind(resources, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = json.dumps(policies["dns"])
    assert all(word in dns for word in ("kube-system", "169.254.20.10/32", "openshift-dns", "5353"))
    for name, policy in policies.items():
        for rule in policy["spec"].get("ingress", []):
            operations = [port for port in rule["ports"] if port["port"] in {"operations", 8090, 8181, 8281, 8381}]
            assert not operations or name == "metrics"
            assert "from" in rule or name == "gateway"
    for name in workloads(resources):
        assert policies[name]["spec"]["podSelector"]["matchLabels"] == {"app": name}


def test_an_upgrade_is_one_apply(resources) -> None:
    """A Job's template cannot be changed, and the namespace must be there before anything is compared with it."""
    assert not {"Job", "Namespace", "Pod"} & {each["kind"] for each in resources}


def test_the_guard_knows_the_annotation_that_the_script_writes() -> None:
    """Or nothing could be scaled down."""
    guard = (MANIFESTS / "storage-guard.yaml").read_text()
    assert "'trivet/drained-to' in object.metadata.annotations" in guard
    assert '\\"trivet/drained-to\\"' in (MANIFESTS / "scale-storage").read_text()


def test_changed_configuration_and_secrets_roll_the_pods() -> None:
    """All of them are generated, with a hash in the name."""
    for path in MANIFESTS.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert document.get("kind") not in {"ConfigMap", "Secret"}, path
            assert "generatorOptions" not in document, path
            for entry in [*document.get("configMapGenerator", []), *document.get("secretGenerator", [])]:
                assert "options" not in entry, path


def test_the_autoscaler_has_the_number_of_gateways_to_itself(checker) -> None:
    """An apply would set it back."""
    found = checker.render(MANIFESTS / "overlays" / "production")
    (target,) = [each["spec"] for each in of_kind(found, "HorizontalPodAutoscaler").values()]
    assert "replicas" not in workloads(found)[target["scaleTargetRef"]["name"]]["spec"]
    assert target["minReplicas"] >= 2


def test_the_rules_for_the_prometheus_operator_are_the_alerts() -> None:
    """Written by `make reference`."""
    maker = script("prometheus_rule")
    assert maker.MANIFEST.read_text() == maker.manifest()
    alerts = yaml.safe_load(maker.RULES.read_text())["groups"]
    assert yaml.safe_load(maker.manifest())["spec"]["groups"] == alerts


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("base/consensus.yaml", "replicas: 3", "replicas: three"),
        ("base/consensus.yaml", "terminationGracePeriodSeconds", "terminationGraceSeconds"),
        ("base/consensus.yaml", "apps/v1", "apps/v0"),
        ("base/kustomization.yaml", 'newTag: "0.4.0"', 'newNames: "x"'),
        ("overlays/production/kustomization.yaml", "path: /spec/replicas", "path: /spec/replica"),
        ("components/zones-of-nodes/kustomization.yaml", "value: TRIVET_ZONE", "value: TRIVET_ROOM"),
        ("base/kustomization.yaml", "  - clock.yaml\n", ""),
        ("base/kustomization.yaml", "labels:", "commonLabels:"),
    ],
)
def test_the_check_of_the_manifests_can_fail(checker, monkeypatch, tmp_path, file, old, new) -> None:
    """A wrong type, an unknown field, version or patch, and a forgotten file are all found, without kubectl."""
    copy = tmp_path / "k8s"
    shutil.copytree(
        MANIFESTS, copy, ignore=shutil.ignore_patterns("peer-keys-*", "*-key", "*-token", "*-password", "*-secret")
    )
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(checker, "MANIFESTS", copy)
    monkeypatch.setattr(checker, "_compare_with_kubectl", lambda *_: [])
    assert checker.check_overlay("production", checker.COMPONENTS) != []


def test_the_check_of_the_manifests_finds_nothing_in_these(checker, monkeypatch) -> None:
    """Or the test above would prove nothing."""
    monkeypatch.setattr(checker, "_compare_with_kubectl", lambda *_: [])
    assert checker.check_overlay("production", checker.COMPONENTS) == []
