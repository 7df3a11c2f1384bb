"""A Kubernetes on this machine: control plane and nodes as real programs, each node a machine of its own (`machine.py`).

Everything in it is real but the registry (images are imported) and the provisioner of volumes (folders of nodes are offered as
local volumes before they are asked for). Nobody enforces network policies, as with many a network plugin. Programs are known by
tokens: certificates are not what is tested, and the network is closed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.kubernetes.machine import Machine
from tests.kubernetes.network import CONTROL_PLANE, NODES_MAX, PODS, SERVICES, Network, node_address, pod_subnet
from tests.kubernetes.programs import ETCD, PLUGINS, PROGRAMS
from tests.waiting import block_until

PAUSE_IMAGE: Final = "docker.io/library/pause:of-the-tests"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_KERNEL: Final = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom")
"""What a kubelet sets, for the whole machine."""

_CONTAINERD: Final = """\
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A machine that is a container itself may not go below its own.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/cni"
"""

_COREFILE: Final = """\
. {{
    bind {address}
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
        ttl 30
    }}
    cache 30 {{
        disable success cluster.local
        disable denial cluster.local
    }}
}}
"""


class Kubernetes:
    """Open it with `with`; when the block ends nothing of it runs, is mounted or has a cgroup.

    Attributes:
        nodes: those that were added, by number.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder = folder
        self.nodes: dict[int, Machine] = {}
        self._images = images
        self._network = Network(f"kube-{os.getpid()}")
        self._control = Machine(folder / "control", self._network.name)
        self._kernel = {name: Path("/proc/sys", name).read_text() for name in _KERNEL}

    def __enter__(self) -> Self:
        try:
            self._network.open()
            self._start_control_plane()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self.folder / "control" / "admin.kubeconfig"

    def inside(self, words: Iterable[str]) -> list[str]:
        """`words`, where the control plane's network is and so every pod can be reached."""
        return ["nsenter", f"--net=/run/netns/{self._network.name}", *words]

    def on_node(self, number: int, words: Iterable[str]) -> list[str]:
        """`words` in the network of a node, which is in this machine's folders: it can use services."""
        return ["nsenter", f"--net=/run/netns/{self._network.name}-{number}", *words]

    def run(self, *words: str, cwd: Path | None = None, timeout_s: float = 300.0) -> str:
        """What the command printed; `kubectl` in it is an administrator's. Raises AssertionError with all of it when it fails."""
        environment = dict(os.environ)  # noqa: TID251 - the environment itself is handed on
        done = subprocess.run(
            self.inside(words),
            cwd=cwd,
            env=environment | {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{PROGRAMS}:{environment['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def kubectl(self, *words: str, timeout_s: float = 300.0) -> str:
        """In the namespace of Trivet."""
        return self.run("kubectl", "--namespace", "trivet", *words, timeout_s=timeout_s)

    def get(self, *words: str) -> Any:
        """What `kubectl get` says, as JSON."""
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def apply(self, *resources: Mapping[str, Any]) -> None:
        """Send resources as they are."""
        path = self.folder / "resources.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))
        self.run("kubectl", "apply", "--filename", str(path))

    def add_node(self, number: int, volumes_gi: Iterable[int] = ()) -> None:
        """Start node `number` with its images, and offer a local volume of each size on it."""
        folder = self.folder / f"node-{number}"
        self.nodes[number] = Machine(folder, self._network.add_node(number))
        self._write_node(number, folder)
        self.start_node(number)
        self.nodes[number].run("ctr", "-n", "k8s.io", "images", "import", str(self._images), timeout_s=600)
        for position, size_gi in enumerate(volumes_gi):
            self.add_volume(number, f"{size_gi}gi-{position}", size_gi)
        block_until(lambda: self.is_ready(number), f"node-{number} is ready", within_s=120)

    def start_node(self, number: int) -> None:
        """Switch it on; it finds the disk that it had."""
        machine, folder = self.nodes[number], self.folder / f"node-{number}"
        self._remove_groups(number)
        for controller in _CGROUPS.iterdir():
            if (controller / "cgroup.procs").exists():
                (controller / f"{self._network.name}-{number}").mkdir()
        machine.start()
        machine.spawn("containerd", "--config", str(folder / "containerd.toml"))
        machine.spawn(
            f"{PROGRAMS}/kubelet",
            f"--config={folder}/kubelet.json",
            f"--kubeconfig={folder}/kubeconfig",
            f"--hostname-override=node-{number}",
            f"--node-ip={node_address(number)}",
        )
        machine.spawn(
            f"{PROGRAMS}/kube-proxy",
            f"--kubeconfig={folder}/proxy.kubeconfig",
            f"--hostname-override=node-{number}",
            f"--cluster-cidr={PODS}",
            "--proxy-mode=iptables",
            # What is this machine's and not the node's stays as it is.
            *(f"--conntrack-{name}=0" for name in ("max-per-core", "min")),
        )
        block_until(lambda: self._has_containerd(machine), f"containerd of node-{number} answers", within_s=60)

    def is_ready(self, number: int) -> bool:
        """Whether the control plane says so of a node."""
        nodes = json.loads(self.run("kubectl", "get", "nodes", "--output", "json"))["items"]
        conditions = [
            condition
            for node in nodes
            if node["metadata"]["name"] == f"node-{number}"
            for condition in node["status"]["conditions"]
        ]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def add_volume(self, number: int, name: str, size_gi: int) -> None:
        """Offer an empty folder of node `number`."""
        path = self.folder / f"node-{number}" / "volumes" / name
        path.mkdir(parents=True)
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"node-{number}-{name}"},
                "spec": {
                    "capacity": {"storage": f"{size_gi}Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "local",
                    "local": {"path": str(path)},
                    "nodeAffinity": {
                        "required": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "kubernetes.io/hostname",
                                            "operator": "In",
                                            "values": [f"node-{number}"],
                                        }
                                    ]
                                }
                            ]
                        }
                    },
                },
            }
        )

    def close(self) -> None:
        """Cut the power of everything, and put back what kubelets changed of this machine."""
        for machine in [*self.nodes.values(), self._control]:
            machine.kill()
        self._network.close()
        for machine in self.nodes.values():
            # Logs are kept.
            for each in ("containerd", "lib", "volumes"):
                shutil.rmtree(machine.folder / each, ignore_errors=True)
        for name, text in self._kernel.items():
            Path("/proc/sys", name).write_text(text)
        self._remove_groups("*")

    def _remove_groups(self, number: int | str) -> None:
        """Those of a node that is off: a machine that starts has none of the containers that it had."""
        for group in _CGROUPS.glob(f"*/{self._network.name}-{number}"):
            for each in sorted([group, *(path for path in group.rglob("*") if path.is_dir())], reverse=True):
                each.rmdir()

    def _start_control_plane(self) -> None:
        folder = self._control.folder
        shutil.rmtree(self.folder, ignore_errors=True)
        self._control.start()
        self._write_control_plane(folder)
        spawn = self._control.spawn
        # On a file system in memory: its fsyncs are not what is measured here.
        spawn(str(ETCD), "--data-dir", "/run/etcd", "--log-level", "warn")
        spawn(
            f"{PROGRAMS}/kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={CONTROL_PLANE}",
            f"--cert-dir={folder}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            f"--token-auth-file={folder}/tokens.csv",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/accounts.key",
            f"--service-account-signing-key-file={folder}/accounts.key",
        )
        block_until(self._answers, "the API answers", within_s=120)
        spawn(
            f"{PROGRAMS}/kube-controller-manager",
            f"--kubeconfig={folder}/admin.kubeconfig",
            f"--service-account-private-key-file={folder}/accounts.key",
            "--use-service-account-credentials",
            "--leader-elect=false",
        )
        spawn(f"{PROGRAMS}/kube-scheduler", f"--kubeconfig={folder}/admin.kubeconfig", "--leader-elect=false")
        spawn(f"{PROGRAMS}/coredns", "-conf", f"{folder}/Corefile")
        self.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": "local",
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }
        )

    def _write_control_plane(self, folder: Path) -> None:
        subprocess.run(["openssl", "genrsa", "-out", f"{folder}/accounts.key"], check=True, capture_output=True)
        who = {"admin": ("admin", "system:masters"), "proxy": ("system:kube-proxy", "")}
        who |= {f"node-{each}": (f"system:node:node-{each}", "system:nodes") for each in range(1, NODES_MAX + 1)}
        (folder / "tokens.csv").write_text("".join(f'{t},{user},{t},"{group}"\n' for t, (user, group) in who.items()))
        self._write_kubeconfig(self.kubeconfig, "admin")
        (folder / "Corefile").write_text(_COREFILE.format(address=CONTROL_PLANE, kubeconfig=self.kubeconfig))

    def _write_node(self, number: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "cni").mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pod_subnet(number)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/pods",
            },
        }
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
        (folder / "cni" / "pods.conflist").write_text(json.dumps(network))
        (folder / "containerd.toml").write_text(_CONTAINERD.format(folder=folder, pause=PAUSE_IMAGE, plugins=PLUGINS))
        (folder / "resolv.conf").write_text("")
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # The network is closed, and only the API goes to its port.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._network.name}-{number}",
            "clusterDNS": [CONTROL_PLANE],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            # This machine's disk and memory are shared with much else.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "failSwapOn": False,
            "resolvConf": f"{folder}/resolv.conf",
            "volumePluginDir": f"{folder}/volume-plugins",
        }
        (folder / "kubelet.json").write_text(json.dumps(kubelet))
        self._write_kubeconfig(folder / "kubeconfig", f"node-{number}")
        self._write_kubeconfig(folder / "proxy.kubeconfig", "proxy")

    @staticmethod
    def _write_kubeconfig(path: Path, token: str) -> None:
        server = {"server": f"https://{CONTROL_PLANE}:6443", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": token, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": token}}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(config))

    def _answers(self) -> bool:
        try:
            return self.run("kubectl", "get", "--raw", "/readyz") == "ok"
        except AssertionError:
            return False

    @staticmethod
    def _has_containerd(machine: Machine) -> bool:
        return subprocess.run(machine.command(["ctr", "version"]), capture_output=True, check=False).returncode == 0
