"""Proposals to consensus and linearizable reads from it, in batches, at whatever member leads."""
