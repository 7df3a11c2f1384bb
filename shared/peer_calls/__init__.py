"""Signed HTTP calls between the processes of a cluster.

One call: `http_client` sends, `request_signing` signs it for one destination, `loopback` makes the socket. The receiving
side is `shared.web.service_app`, which verifies with `request_signing`. A peer's error comes back as its typed error.
"""
