"""A storage node: keeps chunks by digest, proves that they are whole, and reports what it holds.

A put: `fast_path` -> `chunk_store` (memory, digest check) -> a tier (`tiered`, `disk` or `redis_node`; fsync) -> answer.
Several small calls in one request: `fast_path` -> `batch_calls` -> `chunk_store`.
Other calls: `query_admission` (memory) -> `api` (FastAPI routes) -> `chunk_store`.

    main, settings, metrics, node      start; what is configured; what is measured; the parts of one node, opened and closed
    adopt                              command line: gives a node's folder and Redis to another cluster
    scrub, refetch, peers, heartbeat   background loops: re-read all chunks, fetch lost ones from peers, report to consensus
    incarnation                        whose disk and Redis an acknowledgement rests on
    ports, digests, verified_chunks    what a tier promises; does a body have its digest; which replicas are verified
    asgi_bodies, body_buffers          bodies in and out before FastAPI; buffers from the socket to the disk
    outcomes                           results of which each may be an error
    tiered/, disk/, redis_node/        the tiers

It never learns of buckets or keys, and no name from a client becomes a path. It never serves a chunk that is not whole.
"""
