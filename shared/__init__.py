"""What crosses the wire between Trivet's services, and what every process needs.

It promises that two services which agree on this package agree on formats, names, errors and placement. It knows no
service: nothing here imports `services`. Reading order: `units`, `errors`, `contracts`, then the parts of a process
(`settings`, `telemetry`, `service_app`, `request_signing`, `http_client`).
"""
