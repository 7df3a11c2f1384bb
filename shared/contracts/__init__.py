"""The wire formats between services: frozen pydantic models, one module per subject.

Unknown fields are refused, so that a typing error in a caller is found by the first test and not in production. Sizes
are bytes, indexes are Raft log indexes, digests are lower-case hex BLAKE3-256 unless a field says otherwise.
"""
