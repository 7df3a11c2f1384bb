"""S3 on a port of its own: a second front door over the same transfers, budgets and metadata.

`app` takes a request through the same steps in the same order: decide what it names and which operation it is (`targets`,
`operation_table`), prove who asks, decide what that principal may do, call the handler (`buckets`, `bucket_documents` and those
of objects), answer errors as XML (`xml_errors`). Nothing of `/v1` is reachable here, and nothing of S3 there.
"""
