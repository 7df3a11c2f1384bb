"""What a member keeps on disk, and how committed entries reach the state machine.

`log_store` and `hard_state` are durable before anybody hears of them. `adapter` applies committed entries to `metadata` and makes
checkpoints; `compaction` cuts the log below them. `state_files` says which file holds the state machine, `state_damage` finds
damage in it, `backup_source` copies it for backups, `file_digest` hashes such files. `runner` is a thread for blocking work.

The path of an entry: `log_store.SqliteLogStore.write` (fsync) -> commit in `raft` -> `adapter.StateMachineAdapter.apply` ->
`compaction.LogCompaction` (checkpoint, then cut).
"""
