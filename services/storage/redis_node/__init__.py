"""This node's own Redis. A Redis that is dead, hung, full or not ours costs a caller one deadline at most, then nothing.

A call: `batcher` (shares round trips and fsyncs) -> `link` (deadline, circuit breaker) -> `chunk_keys` (commands and layout).
What small puts and reads make all the time goes over connections of their own (`direct`).
`inspection` checks whether a server may be trusted; `server_config` says which settings, rights and versions it needs.
`tier` implements `ports.Tier` on Redis alone (the mode of that name), with `record_sums` for the comparison; the tiered tier
uses the rest.
"""
