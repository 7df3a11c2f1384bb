"""One upload or download from its first to its last byte, within the memory budget.

One upload: `uploads` -> `admission` (a slot) -> `chunking` (cut, hash) -> `chunk_sender` -> `replicas.writer` ->
`publishing`; a long body becomes parts on its way (`large_uploads`), and clients send parts themselves (`multipart`). One
download: `downloads` -> `admission` -> `chunk_lists`, or `piece_pages` of a long content -> `replicas.check`, and
`read_ahead` -> `download_source` -> `chunk_cache` or `replicas.reader`. `idempotency` gives duplicate requests the stored result.
"""
