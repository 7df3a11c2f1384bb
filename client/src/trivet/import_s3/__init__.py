"""Moves buckets from another S3 server: `trivet import --help`, and docs/migrate.md.

Versions and delete markers go over in their order, with what each carries: headers, metadata, tags. A key is one unit of work:
what the target has of it must be the beginning of what the source has, and the rest follows. So whatever interrupts a run, the
next one goes on where it was, with no state but the two stores; a further run brings over what has changed meanwhile.

`walk` goes over the keys of a bucket with several workers and compares at the end; `histories` says what is missing; `transfer`
moves one version; `store` asks either server, signed by `trivet.import_s3.signing`.

It refuses to guess: where the target has anything else under a key than the source had, the key is left alone and named.
"""
