"""Quorum reads and writes of single chunks on the storage nodes.

One chunk in: `writer` (N at once, W acknowledged, the rest in the background). One chunk out: `reader` (one replica, a hedged
second one), `check` (which replicas hold it), `repair` (write what was missing or corrupt). `quorum` holds all arithmetic of
N, W and R; `health` and `circuit_breaker` decide which nodes are asked; `node_directory` caches the node map.
"""
