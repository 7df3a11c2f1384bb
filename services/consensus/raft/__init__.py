"""The Raft engine: raftos' roles, timers, configuration, dispatch and message vocabulary, with every decision our own.

What it promises: the invariants of the Raft paper (figure 3) and of `decide`; a vote, a term and an acknowledged entry are
on disk before anybody hears of them; a member that is not current sends nothing.

The path of one proposal: `LeaderRole.propose` -> `RaftLog.append` (queued for the group commit) -> `LeaderRole.replicate`
-> a follower's `FollowerRole.on_receive_append_entries` -> fsync there -> its answer -> `decide.commit_index` ->
`RaftState.commit` -> `member` and `persistence.adapter` outside this package, which apply it.

What it refuses to do: open sockets, read clocks (raftos' timers and `loop.time()` excepted, which a simulator replaces),
or interpret commands. Sources: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm" (the paper), and
Ongaro's thesis.
"""
