"""S3 on a port of its own: a second front door over the same transfers, budgets and metadata.

`app` takes a request through the same steps in the same order: decide the operation (`operation_table`), prove who asks
(`authentication`), decide what that principal may do, call the handler, answer errors as XML (`errors`). Nothing of `/v1` is
reachable here, and nothing of S3 there.
"""
