"""What a request means by RFC 9110: names, ranges, conditions, digests, dates and headers of a file, as pure functions.

`raw_names`, `byte_ranges`, `conditions`, `body_digests`, `http_dates`, `file_headers`; beside each reader stands what OpenAPI
says of it (`parameters`). No clock, socket or framework.
"""
