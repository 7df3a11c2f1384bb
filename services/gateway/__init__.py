"""The public API: cuts files into chunks, fans out quorum reads and writes, answers with receipts.

One PUT: `api.fast_path` -> `api.file_calls` -> `transfers.uploads` (read the bucket) -> `transfers.chunking` ->
`replicas.writer` (N nodes, W durable) -> `transfers.idempotency` (publish one log entry) -> receipt. One GET: likewise ->
`transfers.downloads` (linearizable read) -> `replicas.check` and `replicas.reader` -> `api.file_stream` -> bytes. A list:
likewise -> `listings`, with `cursors`. Copies, batch deletions, tags and settings of buckets: `api` -> `objects`. Cluster
changes: `api.cluster` -> `cluster_admin`.
S3 is spoken on a port of its own (`s3`), over the same transfers and lists.
Before all of them `api.door` finds out who asks, and `access` decides what that principal may do; `api.web_origins` applies
`origin_rules`, and `api.early_refusal` ends what was answered too soon.
Beside them: `main` wires everything, `ports` says what is needed of other services, `semantics` holds the pure rules of
HTTP, `readiness` and `metrics` report, `audit_trail` reads what the log says of changes, `access_log` writes what was refused
and read, and `tools` are commands for operators. It keeps nothing on disk and orders nothing itself: the Raft log does.
"""
