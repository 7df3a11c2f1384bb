"""What crosses the wire between Trivet's services, and what every process needs.

It promises that two services which agree on this package agree on formats, names, errors and placement. It knows no
service: nothing here imports `services`. The layers, each importing only those below it (import-linter holds this):

    web                              the HTTP server of a service
    consensus_calls, peer_calls      calls to consensus, calls to any other process
    timekeeping                      a process' own copy of the time, and hybrid logical timestamps
    disk                             durable files, and folders that know their owner
    settings                         what every service is told
    background_tasks, byte_budget, reused_buffers, telemetry, private_process, placement, partitions
    contracts                        wire models
    cluster_keys, peer_address, errors
    audit_chain, roles, units
"""
