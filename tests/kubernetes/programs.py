"""The programs of a Kubernetes, from what registries of packages have: its Go modules are built, the rest is Debian's.

The build takes the better part of an hour of two processors and 4 GB, once: it is kept in `.local/kubernetes`. So this is for
one run per change of the manifests, and `make test-kubernetes` alone starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from local_cluster.settings import PROJECT_ROOT

CACHE: Final = PROJECT_ROOT / ".local" / "kubernetes"
PROGRAMS: Final = CACHE / "bin"
PLUGINS: Final = CACHE / "debian" / "usr" / "lib" / "cni"
ETCD: Final = CACHE / "debian" / "usr" / "bin" / "etcd"

# The newest that runs on control groups of version 1 without a word.
KUBERNETES: Final = "v1.34.4"
COREDNS: Final = "v1.12.4"
BUILT: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

# All that the DNS of a cluster needs of CoreDNS; its own program has the clients of every cloud.
_COREDNS_MAIN: Final = """\
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }
"""


def require_programs() -> None:
    """Have all of them, or skip and say why not."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: Kubernetes: machines of its own need root")
    if not all((PROGRAMS / name).exists() for name in (*BUILT, "coredns")) and _go() is None:
        pytest.skip("NOT TESTED: Kubernetes: it is built from its Go modules, and there is no go here")
    CACHE.mkdir(parents=True, exist_ok=True)
    _unpack_debian()
    build()


def build() -> None:
    """Build what is not there. The packages that programs share are compiled once."""
    missing = [name for name in BUILT if not (PROGRAMS / name).exists()]
    if missing:
        _build_kubernetes(missing)
    if not (PROGRAMS / "coredns").exists():
        _build_coredns()


def _build_kubernetes(names: list[str]) -> None:
    """A module of our own requires Kubernetes' and, as Kubernetes' own does by folder, names the modules of its staging area."""
    module = CACHE / "module"
    module.mkdir(parents=True, exist_ok=True)
    (module / "go.mod").write_text(f"module kubernetes\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes {KUBERNETES}\n")
    downloaded = json.loads(_run_go(module, "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"))
    staging = [
        line.split()[0] for line in Path(downloaded["GoMod"]).read_text().splitlines() if "=> ./staging/src/" in line
    ]
    version = KUBERNETES.replace("v1.", "v0.")
    with (module / "go.mod").open("a") as file:
        file.writelines(f"replace {name} => {name} {version}\n" for name in staging)
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    facts = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={text}" for name, text in facts.items())])
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in names]
    _run_go(module, "build", "-trimpath", "-ldflags", flags, "-o", f"{PROGRAMS}/", *packages)


def _build_coredns() -> None:
    module = CACHE / "coredns"
    module.mkdir(parents=True, exist_ok=True)
    (module / "main.go").write_text(_COREDNS_MAIN)
    (module / "go.mod").write_text(f"module coredns\n\ngo 1.24.0\n\nrequire github.com/coredns/coredns {COREDNS}\n")
    _run_go(module, "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{PROGRAMS}/coredns", ".")


def _go() -> str | None:
    return shutil.which("go", path=f"{os.defpath}:/usr/local/go/bin:/usr/local/bin")


def _run_go(folder: Path, *words: str) -> str:
    """With modules and compiled packages in our cache, and the flag by which go completes go.mod and go.sum itself."""
    go = _go()
    assert go is not None
    extra: Mapping[str, str] = {
        "CGO_ENABLED": "0",
        "GOCACHE": str(CACHE / "go-build"),
        "GOFLAGS": "-mod=mod -modcacherw",
        "GOPATH": str(CACHE / "go"),
        "GOTOOLCHAIN": "local",
    }
    environment = dict(os.environ) | extra  # noqa: TID251 - the environment itself is handed on
    done = subprocess.run(
        ["nice", "-n", "10", go, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"go {' '.join(words)}:\n{done.stderr[-5000:]}"
    return done.stdout


def _unpack_debian() -> None:
    """etcd and the plugins of the pods' network, unpacked and not installed: this machine stays as it is."""
    if ETCD.exists() and PLUGINS.exists():
        return
    folder = CACHE / "packages"
    folder.mkdir(exist_ok=True)
    names = ("etcd-server", "containernetworking-plugins")
    subprocess.run(["apt-get", "-q", "download", *names], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(CACHE / "debian")], check=True)
