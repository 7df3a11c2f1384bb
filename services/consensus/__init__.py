"""Orders all metadata in one replicated log, and finds failed storage nodes.

One proposal: `fast_path` -> `service` -> `member` -> `raft.leader` (append) -> `peering` (to the other members) and
`persistence.log_store` (fsync, on a majority) -> `persistence.adapter` -> `metadata.store` (apply) -> answer.

`api` declares what `fast_path` answers, and all other routes.

`raft` decides and knows no socket or disk; `peering` carries its messages; `persistence` is a member's disk; `metadata` is a
deterministic state machine; `duties` are the background loops of a member; `rescue`, `backup` and `tools` are commands for
operators. `main` puts a member together.
"""
