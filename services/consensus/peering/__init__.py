"""Carries Raft messages between members: `mesh` (all links), `link` (one connection), `disk_identities` (who is who)."""
