"""Changes that name files and move no bytes: one module per subject, each change one entry in the log.

A copy: `api.copies` -> `copies` -> `transfers.idempotency` (propose) -> receipt. Likewise `batch_deletes`, `tags` and
`bucket_settings`. Nothing is decided here: whether a source exists and a precondition holds, the log says at the instant of
the change. Lists of versions are in `listings`.
"""
