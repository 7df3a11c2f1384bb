"""Quorum reads and writes of single chunks on the storage nodes.

One chunk in, called by `transfers.chunk_sender`: `writer` (N at once, W acknowledged, the rest in the background). One chunk
out: `reader` (one replica, a hedged second one), `check` (which replicas hold it), `repair` (write what was missing or
corrupt). `quorum` holds all arithmetic of N, W and R; `health`, `circuit_breaker` and `latency` decide which nodes are asked
and when; `node_directory` caches the node map; `storage_client` is the adapter that speaks HTTP, `chunk_batcher` joins small
calls into one request; `attempts` ends calls that nobody waits for.
"""
