"""The public HTTP surface (DESIGN.md section 3): one module per subject, each a thin translation to and from HTTP.

A route (`files`, `buckets`, `cluster`) decodes names from the raw path, checks headers (`requests`), calls one of the
`services` and shapes the answer (`models`, `file_stream`). It decides nothing itself; errors leave as problem documents
(`problems`).
"""
