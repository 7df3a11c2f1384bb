"""A storage node: keeps chunks, proves that they are whole, and says what it holds.

One chunk in: `api` -> `chunk_store` (digest check) -> a tier under `tiers/` (fsync) -> answer.
It knows chunks by digest only. It never learns of buckets or keys, and no name from a client becomes a path.
"""
