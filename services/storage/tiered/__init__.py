"""The default tier: write-behind through Redis, a read cache in Redis, the disk tier below both.

A small put: `tier` -> `redis_node` (fsynced in its AOF: acknowledged) and `write_behind` (memory) -> a second later, `disk`.
A get: `write_behind`, then the copy in Redis if `read_cache` lists one (`redis_copies`), then `disk`.
`recovery` reconciles Redis and disk at start and after an outage; `keyed_locks` keeps changes of one chunk apart.
It refuses nothing because Redis is away; it never calls a chunk absent before the record of Redis was read.
"""
