"""One upload or download from its first to its last byte, within the memory budget.

One upload: `uploads` -> `admission` (a slot) -> `chunking` (cut, hash) -> `chunk_sender` -> `replicas.writer` ->
`publishing`. One download: `downloads` -> `admission` -> `chunk_lists` -> `replicas.check` and `replicas.reader`, with
read-ahead. `idempotency` gives duplicate requests the stored result.
"""
