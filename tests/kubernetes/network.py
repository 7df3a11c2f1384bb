"""The network of a Kubernetes on this machine: a namespace for the control plane and for each node. Nothing leads out of it."""

from __future__ import annotations

import subprocess
from typing import Final

CONTROL_PLANE: Final = "192.168.77.1"
NODES: Final = "192.168.77.0/24"
PODS: Final = "10.244.0.0/16"
SERVICES: Final = "10.96.0.0/16"
NODES_MAX: Final = 9


def node_address(number: int) -> str:
    """Of node `number`, from 1."""
    return f"192.168.77.{10 + number}"


def pod_subnet(number: int) -> str:
    """Of the pods on node `number`."""
    return f"10.244.{number}.0/24"


class Network:
    """A bridge in the control plane's namespace; every node is plugged in there and routes to the pods of the others.

    Attributes:
        name: of the namespace of the control plane; those of the nodes follow from it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._made: list[str] = []

    def open(self) -> None:
        """Make the control plane's namespace."""
        self._add(self.name)
        self._inside(
            self.name,
            f"""
            ip link add nodes type bridge
            ip address add {CONTROL_PLANE}/24 dev nodes
            ip link set nodes up
            """
            + "".join(f"ip route add {pod_subnet(each)} via {node_address(each)}\n" for each in self._numbers()),
        )

    def add_node(self, number: int) -> str:
        """Make the namespace of node `number`, and give its name."""
        name = f"{self.name}-{number}"
        self._add(name)
        self._inside(
            self.name,
            f"""
            ip link add node{number} type veth peer name eth0 netns {name}
            ip link set node{number} master nodes up
            """,
        )
        others = [each for each in self._numbers() if each != number]
        self._inside(
            name,
            f"""
            ip address add {node_address(number)}/24 dev eth0
            ip link set eth0 up
            ip route add default via {CONTROL_PLANE}
            """
            + "".join(f"ip route add {pod_subnet(each)} via {node_address(each)}\n" for each in others),
        )
        return name

    def close(self) -> None:
        """Take all of them away."""
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False)
        self._made.clear()

    def _add(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._made.append(name)
        # Service addresses work between pods of one node, too, when what a bridge passes on meets iptables.
        self._inside(
            name,
            """
            ip link set lo up
            echo 1 > /proc/sys/net/ipv4/ip_forward
            echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
            """,
        )

    @staticmethod
    def _numbers() -> range:
        return range(1, NODES_MAX + 1)

    @staticmethod
    def _inside(name: str, script: str) -> None:
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", "sh", "-ec", script], check=True)
