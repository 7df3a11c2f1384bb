"""A process' own disciplined copy of the time, and the hybrid logical clock that stamps from it.

One stamp: `time_client` reads `followed_clock`, which extrapolates the last answer of a clock service by a
`software_clock` and a learnt `frequency`, and asks `durable_hybrid_clock` for the next timestamp of
`hybrid_logical_clock`. `host_clock` is the only module that reads the operating system's clocks; `time_metrics` shows
what stamping costs.
"""
