"""Starts a whole cluster on this machine: `make run`, the tests and the benchmarks all use it.

One start: `plan` (which processes, ports, folders) -> `local_secrets` (made once) -> `redis_server` (found or unpacked) ->
`processes` (started, recorded under `run/`) -> `readiness` -> `cluster_init` -> `first_file`. `cluster.Cluster` is that
sequence as an API, `__main__` is it as commands. It promises to touch only processes that it started itself, and it
refuses to guess: what it cannot do it says in one sentence.
"""
