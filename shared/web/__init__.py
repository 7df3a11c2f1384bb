"""The HTTP server side of every service.

One request: uvicorn with the protocol of `http_edge` bounds headers, time and open `descriptors`; `service_app` checks
`raw_paths`, `http_methods` and the signature, calls the route, and answers errors as problem documents; `answer_writer` sends
what comes back. What a route may ask of its connection beyond ASGI is `http_exchange`, which fills buffers through
`body_receiver`. `problem_schema` and `contract_examples` describe both in OpenAPI. `request_metrics` counts, and `listeners`
runs it all.
"""
