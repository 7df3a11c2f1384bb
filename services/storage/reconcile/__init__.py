"""Reconcile: makes a node hold what it should hold, and no more, without anybody telling it to.

The log says which chunks files refer to, placement which of them are this node's. `follower` keeps that set
(`expected_chunks`, in `database`) in step with the log and deletes what was condemned; `comparison` finds by sums what
is missing and what is extra; `pulls` fetches the one from other nodes; `extra_chunks` drops or reports the other.
`reconciler` runs them side by side, `verify` a pass over everything when an operator asks.

`rules`: when a replica may be deleted. `references`: what is asked of consensus. `pace`: how fast. `signals`: who wakes whom.

It never deletes because a page did not list a chunk, never stores what does not have the digest, and decides nothing while
the node map does not count on this node.
"""
