"""Orders all metadata in one replicated log, and finds failed storage nodes.

One proposal: `api` -> `node` -> `raft` (decide, append) -> `log` (fsync on a majority) -> `metadata` (apply) -> answer.
`raft` decides and knows no socket or disk; `peers` carries its messages; `metadata` is a deterministic state machine.
"""
