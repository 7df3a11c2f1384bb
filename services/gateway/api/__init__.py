"""The public HTTP surface (docs/api.md): one module per subject, each a thin translation to and from HTTP.

The calls for files and lists are `file_calls`: each decodes names from the raw path, checks headers (`requests`), calls one of
the `services` and shapes the answer (`answers`, `models`, `file_stream`). `fast_path` makes them before FastAPI sees the
request; the routes (`files`, `buckets`) describe them in OpenAPI and make the same ones. The other routes (`buckets`,
`cluster`; `copies`, `batch_deletes`, `tags` and `bucket_settings` with `object_models`; `uploads` with `upload_models`) do all
this themselves. Nothing here decides; errors leave as problem documents (`problems`).
"""
