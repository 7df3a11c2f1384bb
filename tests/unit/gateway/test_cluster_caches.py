"""What a gateway remembers is of one cluster."""

from __future__ import annotations

from functools import partial

import pytest

from services.gateway.cluster_caches import ClusterCaches


@pytest.mark.parametrize(
    ("answers", "emptied"),
    [
        (["a", "a", "a"], [0]),
        (["a", "b", "b"], [0, 1]),
        (["a", "b", "a"], [0, 1, 2]),
        ([None, None, "a", "a", None], [0, 1, 2, 4]),
    ],
)
def test_every_cache_is_emptied_when_another_cluster_answers(answers, emptied) -> None:
    """Before the answer is used; and at every answer of a member that does not say whose log it has."""
    caches = ClusterCaches()
    times = {"first": 0, "second": 0}

    def empty(name: str) -> None:
        times[name] += 1

    for name in times:
        caches.add(partial(empty, name))
    seen = []
    for cluster_id in answers:
        caches.answered(cluster_id)
        seen.append(times["first"])
    assert [number for number in range(len(seen)) if seen[number] > (seen[number - 1] if number else 0)] == emptied
    assert times["first"] == times["second"] == len(emptied)
