"""Signed HTTP calls between the processes of a cluster.

One call: `http_client` signs it for one destination (`request_signing`), `connection_pool` finds or makes a connection to it
(`loopback` makes the socket), `http_connection` sends and receives. The receiving side is `shared.web.service_app`, which
verifies with `request_signing`. A peer's error comes back as its typed error.
"""
