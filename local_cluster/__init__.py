"""Starts a whole cluster on this machine: `make run`, the tests and the benchmarks all use it."""
