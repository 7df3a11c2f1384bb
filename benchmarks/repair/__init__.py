"""`make bench-repair`: how long a cluster is short of replicas, what repair costs its clients, and when space comes back.

One run starts four storage nodes with all that belongs to them (`repair_cluster`), fills them, breaks one and watches, while
clients ask at a third of the rate that the cluster can serve (`foreground`); `scenarios` says what is done, `report` shows it.
Refuses to judge: budgets stand in benchmarks/RESULTS.md beside the figures.
"""
