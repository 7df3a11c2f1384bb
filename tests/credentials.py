"""How tests show a cluster's root key where no client does it for them."""

from __future__ import annotations

from local_cluster.cluster import Cluster


def bearer_line(cluster: Cluster) -> str:
    """The field of a head that is written by hand, with its CRLF."""
    return f"authorization: {cluster.bearer['authorization']}\r\n"
