"""The public API: cuts files into chunks, fans out quorum reads and writes, answers with receipts.

One PUT: `api` -> `files` (chunk, hash, place, write to N, wait for W per chunk) -> consensus (publish) -> receipt.
One GET: `api` -> consensus (linearizable read) -> `files` (fetch, confirm, verify) -> bytes.
It keeps nothing on disk, and it never orders anything itself: the Raft log does.
"""
