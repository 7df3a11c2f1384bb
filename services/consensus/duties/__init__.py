"""Background work of a member, mostly of the leader: one module for each loop that `main` starts.

`storage_nodes` with `failure_detector`: heartbeats, inactive nodes. `membership`: adding, promoting and removing members.
`log_clock`: logs the passing of time, so that old state expires. `upgrades`: which entries all members can apply.
`slow_leader` and `disk_watch`: give leadership away. `state_comparison`: finds members whose state differs.
"""
