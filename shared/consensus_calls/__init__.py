"""Proposals to consensus and linearizable reads from it.

One call: `client` takes a command or a query, `batching` joins concurrent ones into one request, `leader_tracker` (pure)
names the member to ask, `majority_watch` ends a wait that has no hope. Requests go out through `peer_requester`, a port
that `shared.peer_calls.http_client` fills.
"""
