"""When a disk is called slow, with the clock in the test's hand."""

import pytest
from prometheus_client import CollectorRegistry

from services.storage.disk.commit_latency import MIN_COMMITS, WINDOW_S, CommitLatency
from services.storage.metrics import StorageMetrics


class Bench:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.registry = CollectorRegistry()
        self.latency = CommitLatency(0.1, StorageMetrics(self.registry), lambda: self.now_s)

    def commits(self, count: int, duration_s: float) -> None:
        for _ in range(count):
            self.now_s += 0.1
            self.latency.observe(duration_s)

    @property
    def gauge(self) -> float | None:
        return self.registry.get_sample_value("trivet_storage_disk_slow")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_few_slow_commits_say_nothing(bench):
    bench.commits(MIN_COMMITS - 1, 2.0)
    assert bench.latency.slow_median_s() is None
    assert bench.gauge == 0.0


def test_most_commits_slow_is_a_slow_disk_and_the_metric_says_so(bench):
    bench.commits(4, 0.01)
    bench.commits(5, 0.2)
    assert bench.latency.slow_median_s() == 0.2
    assert bench.gauge == 1.0


def test_single_slow_commits_are_no_slow_disk(bench):
    bench.commits(6, 0.01)
    bench.commits(5, 3.0)
    assert bench.latency.slow_median_s() is None


def test_it_is_forgotten_when_the_disk_recovers(bench):
    bench.commits(20, 0.5)
    bench.commits(21, 0.01)
    assert bench.latency.slow_median_s() is None
    assert bench.gauge == 0.0


def test_what_is_long_ago_is_not_said_of_now(bench):
    """A node that nobody writes to any more says nothing about its disk."""
    bench.commits(20, 0.5)
    bench.now_s += WINDOW_S + 1
    assert bench.latency.slow_median_s() is None
    assert bench.gauge == 0.0


def test_a_disk_too_slow_for_five_commits_is_slow(bench):
    bench.now_s += 8.0
    bench.commits(2, 8.0)
    assert bench.latency.slow_median_s() == 8.0
