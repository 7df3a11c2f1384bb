"""What a member keeps on disk, and how committed entries reach the state machine.

`log_store` and `hard_state` are durable before anybody hears of them; `adapter` applies committed entries to `metadata` and makes
checkpoints; `compaction` cuts the log below them; `state_damage` finds a damaged state machine; `state_files` are its folders.
"""
