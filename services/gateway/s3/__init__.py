"""S3 on a port of its own: a second front door over the same transfers, budgets and metadata.

`app` takes a request through the same steps in the same order: decide what it names and which operation it is (`targets`,
`operation_table`), prove who asks and what the form of the body promises (`authentication`, `bodies`), decide what that principal
may do, refuse headers that are not understood (`header_rules`), call the handler, answer errors as XML (`xml_errors`). Handlers:
`buckets`, `bucket_documents` and `acls`; `objects` and `object_tags`; `lists`; `multipart` and `copies`. What never becomes a
request is refused by `edge`. Nothing of `/v1` is reachable here, and nothing of S3 there.
"""
