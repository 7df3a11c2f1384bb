"""Redis takes the write, disk takes the weight: the default tier.

A small chunk: `tier` -> Redis (acknowledged) -> `write_behind` -> disk. `read_cache` keeps hot chunks in Redis by LRU; `recovery`
reconciles Redis and disk after an outage of either.
"""
