"""Trivet on a Kubernetes of the tests: a checkout whose k8s/ is used by the commands of docs/deploy-kubernetes.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from local_cluster.settings import PROJECT_ROOT
from tests.kubernetes.cluster import Kubernetes
from tests.kubernetes.network import NODES, PODS
from tests.waiting import block_until

PAGE: Final = (PROJECT_ROOT / "docs" / "deploy-kubernetes.md").read_text(encoding="utf-8")
_WORKLOADS: Final = ("deployment/clock", "statefulset/consensus", "statefulset/storage", "deployment/gateway")
_WAIT: Final = "\n".join(f"kubectl -n trivet rollout status {name} --timeout 10m" for name in _WORKLOADS)


def blocks_of(heading: str, language: str = "sh") -> list[str]:
    """The code under a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@dataclass
class Deployment:
    """One overlay, applied.

    Attributes:
        checkout: where `k8s/` lies.
        seconds: how long each command took, to be shown at the end.
    """

    kubernetes: Kubernetes
    checkout: Path
    overlay: str
    seconds: dict[str, float]

    @property
    def kustomization(self) -> Path:
        """Of the overlay, to be changed."""
        return self.checkout / "k8s" / "overlays" / self.overlay / "kustomization.yaml"

    def trust_nodes(self) -> None:
        """Let keys come from the nodes, which say that their clients use TLS: what the overlay has for an ingress."""
        head, mark, rest = self.kustomization.read_text().partition("  # Behind an ingress")
        lines = rest.split("\n# replicas:", 1)[0]
        used = lines.replace("\n  # ", "\n  ").replace("10.20.0.0/16", f"{NODES},{PODS}")
        self.kustomization.write_text(head + mark + rest.replace(lines, used, 1))

    def add(self, text: str) -> None:
        """A part of its own at the end of the overlay."""
        with self.kustomization.open("a") as file:
            file.write(text)

    def run(self, script: str, what: str = "", timeout_s: float = 900.0) -> str:
        """A script of a user in the checkout; what it printed."""
        began_s = time.monotonic()
        printed = self.kubernetes.run("bash", "-euo", "pipefail", "-c", script, cwd=self.checkout, timeout_s=timeout_s)
        took_s = time.monotonic() - began_s
        self.seconds[what or script.strip().splitlines()[0][:70]] = round(took_s, 1)
        print(f"{took_s:6.1f} s  {what or script.strip()}\n{printed}")
        return printed

    def run_block(self, heading: str, start: str, *replace: tuple[str, str], timeout_s: float = 900.0) -> str:
        """The block under that heading that begins so, with other names in it than the page's example has."""
        (block,) = [each for each in blocks_of(heading) if each.startswith(start)]
        for old, new in (("overlays/production", f"overlays/{self.overlay}"), *replace):
            block = block.replace(old, new)
        return self.run(block, timeout_s=timeout_s)

    def apply(self, what: str) -> None:
        """Apply the overlay, and wait until all of it is rolled out."""
        self.run(f"kubectl apply -k k8s/overlays/{self.overlay}\n{_WAIT}", what)

    def roll_out(self, what: str) -> None:
        """Wait until all of what was applied is rolled out."""
        self.run(_WAIT, what)

    def pods(self, app: str | None = None) -> dict[str, Any]:
        """By name; those that are not being deleted."""
        items = self.kubernetes.get("pods", *([] if app is None else ["--selector", f"app={app}"]))["items"]
        return {each["metadata"]["name"]: each for each in items if "deletionTimestamp" not in each["metadata"]}

    def is_ready(self, app: str | None = None) -> bool:
        """Whether every pod is."""
        return all(
            any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in pod["status"].get("conditions", [])
            )
            for pod in self.pods(app).values()
        )

    def until_ready(self, what: str, count: int, app: str | None = None, within_s: float = 300.0) -> None:
        """Wait for `count` pods, all ready."""
        took_s = block_until(
            lambda: len(self.pods(app)) == count and self.is_ready(app), f"{what}: {count} pods ready", within_s
        )
        self.seconds[what] = round(took_s, 1)
        print(f"{took_s:6.1f} s  {what}")

    def curl(self, *words: str) -> str:
        """By way of a port that kubectl forwards: 8080 files, 8090 operations."""
        call = "curl -K k8s/secrets/curl.conf --fail-with-body --silent --show-error"
        script = f"""
            kubectl -n trivet port-forward deployment/gateway 8080:8080 8090:8090 > /dev/null 2>&1 &
            trap 'kill $!' EXIT
            for _ in $(seq 50); do curl --silent http://127.0.0.1:8090/readyz > /dev/null && break; sleep 0.1; done
            {call} {" ".join(words)}
        """
        return self.kubernetes.run("bash", "-euc", script, cwd=self.checkout)

    def cluster(self) -> Any:
        """What Trivet says of itself."""
        return json.loads(self.curl("http://127.0.0.1:8090/v1/cluster"))

    def put(self, key: str, data: bytes) -> None:
        """A file."""
        path = self.checkout / "file"
        path.write_bytes(data)
        self.curl("--output", "/dev/null", "-T", "file", f"http://127.0.0.1:8080/v1/files/default/{key}")

    def get(self, key: str) -> bytes:
        """A file."""
        self.curl("--output", "again", f"http://127.0.0.1:8080/v1/files/default/{key}")
        return (self.checkout / "again").read_bytes()

    def set_replicas(self, number: int) -> None:
        """Write the number of storage nodes into the overlay."""
        text = re.sub(r"(?m)^replicas:\n.*\n", "", self.kustomization.read_text())
        self.kustomization.write_text(f"{text}replicas:\n  - {{ name: storage, count: {number} }}\n")

    def set_version(self, version: str) -> None:
        """Name another tag for the four images."""
        names = yaml.safe_load((self.checkout / "k8s" / "base" / "kustomization.yaml").read_text())["images"]
        ours = [each["name"] for each in names if each["name"].startswith("trivet-")]
        self.add("images:\n" + "".join(f'  - {{ name: {name}, newTag: "{version}" }}\n' for name in ours))

    @contextmanager
    def load(self, what: str, node: int = 1) -> Iterator[dict[str, Any]]:
        """Requests from a node meanwhile; afterwards the dictionary has what became of them."""
        address = self.kubernetes.get("service", "gateway")["spec"]["clusterIP"]
        script = str(Path(__file__).with_name("load.py"))
        words = [sys.executable, script, f"{address}:80", str(self.checkout / "k8s" / "secrets" / "curl.conf")]
        counts: dict[str, Any] = {}
        process = subprocess.Popen(
            self.kubernetes.on_node(node, words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield counts
        finally:
            printed, _ = process.communicate()
            counts.update(json.loads(printed))
            print(f"{what}: {json.dumps(counts, indent=1)}")
