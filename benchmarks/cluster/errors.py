"""What stops a benchmark, in one sentence for the person who started it."""

from __future__ import annotations


class BenchmarkError(Exception):
    """The run cannot start, or its figures would mean nothing."""
