"""The one benchmark of a whole cluster: what a user feels, and what it costs in CPU.

One run: `trees` (this tree, and another revision beside it) -> `running_cluster` (each started by its own
`local_cluster`) -> `rounds` (every row on every tree in turn, with the `floors`) -> `report`, `plots` and `budgets`.
One row: `workload` sends the requests of a `rows.Row` through `connection` or curl, while `process_groups` and
`machine_load` are read before and after. `profiler` runs one row under py-spy.

It promises to touch a cluster by its command line, its pid files and its public port only, so that revisions of any
structure can be compared, and to run the load in a process that nothing measured shares. It refuses to judge: a
figure is printed with its spread and with what else ran.
"""
