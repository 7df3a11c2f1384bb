"""What exists, as the log says it: buckets, files, storage nodes and the results of requests, in SQLite.

Promises: the same entries give the same tables, results and hash on every member, however they are cut into batches. One
batch is one transaction, `last_applied` included, so a crash leaves a prefix of the log applied and never half an entry.

The path of an entry: `store.MetadataStore.apply_batch` -> `entries.decode_proposal` -> `requesters` (whether its principal still
may) -> `commands` -> the module of its subject (`buckets`, `files`, `copies`, `batch_deletes`, `uploads`, `nodes`, `access`, ...:
what changes) with `decisions` (whether it may) and `versions` (what is current and what is kept) -> `tables` and its kin (SQL)
-> `audit` (who changed it).
The path of a query: `store.MetadataStore.answer` -> `queries` -> `listing` -> `tables`, on a connection of its own, so
that reading never waits for applying.

Refuses to: know a clock, a random number, the network or Raft's roles; keep a file's bytes; decide by timestamp.
"""
