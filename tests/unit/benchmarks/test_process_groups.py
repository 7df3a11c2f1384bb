"""`benchmarks.cluster.process_groups` and `machine_load`: /proc as the kernel writes it, and which group a process counts to."""

from __future__ import annotations

import os

import pytest

from benchmarks.cluster import machine_load, process_groups
from benchmarks.cluster.process_groups import Memory, Stat
from benchmarks.cluster.rounds import order_of_round

STAT = (
    "7632 ({name}) S 41 7632 7632 0 -1 4194560 15425 0 0 0 106 13 7 5 20 0 6 0 36400 475000832 18821 18446744073709551615 "
    "94614358478848 94614358479189 140722379464416 0 0 0 0 16781312 16386 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
STATUS = """Name:\tpython
Umask:\t0022
State:\tS (sleeping)
VmPeak:\t  463868 kB
VmHWM:\t   75590 kB
VmRSS:\t   75588 kB
RssAnon:\t   54736 kB
Threads:\t6
"""
PROC_STAT = "cpu  15866 4 2537 54871 467 3 132 25 9 0\ncpu0 1 0 0 1 0 0 0 0 0 0\nintr 1\n"


@pytest.mark.parametrize("name", ["python", "redis server", "a) S 1 2 (b", "((", "tmux: client"])
def test_a_process_may_have_any_name(name) -> None:
    """Spaces and parentheses in the name move no field."""
    assert process_groups.parse_stat(STAT.format(name=name)) == Stat(parent=41, waited_ticks=12)


def test_memory_is_read_in_bytes() -> None:
    """The kernel says kB and means KiB."""
    assert process_groups.parse_memory(STATUS) == Memory(rss_bytes=75588 * 1024, peak_bytes=75590 * 1024)


def test_busy_time_is_neither_idle_nor_guest_time_twice() -> None:
    """Idle and iowait are not busy; guest time stands in user time already; stolen time is busy."""
    assert machine_load.parse_busy_ticks(PROC_STAT) == 15866 + 4 + 2537 + 3 + 132 + 25


@pytest.mark.parametrize(
    ("process", "group"),
    [
        ("gateway-1", "gateway"),
        ("storage-3", "storage"),
        ("consensus-2", "leader"),
        ("consensus-1", "followers"),
        ("redis-1", "redis"),
        ("clock-1", "clock"),
        ("cluster-manager-1", "cluster-manager"),
    ],
)
def test_a_process_counts_to_the_group_of_its_name(process, group) -> None:
    """The leader is apart from its followers; a kind that a later revision adds is a group of its own."""
    assert process_groups.group_of(process, leader="consensus-2") == group


def test_without_a_leader_all_members_are_followers() -> None:
    """Nothing is lost in the sum."""
    sums = process_groups.sum_by_group({"consensus-1": 1, "consensus-2": 2}, leader=None)
    assert sums == {"followers": 3}


def test_groups_come_in_the_order_of_tables() -> None:
    """Whatever the order of the processes; unknown kinds come last."""
    used = {"manager-1": 1, "redis-2": 2, "redis-1": 3, "consensus-1": 4, "consensus-2": 5, "gateway-1": 6}
    assert list(process_groups.sum_by_group(used, "consensus-1").items()) == [
        ("gateway", 6),
        ("leader", 4),
        ("followers", 5),
        ("redis", 5),
        ("manager", 1),
    ]


def test_descendants_are_children_and_theirs() -> None:
    """Not the process itself, and nobody else's children."""
    assert sorted(process_groups.descendants(10, {11: 10, 12: 11, 20: 1, 10: 1})) == [11, 12]


def test_the_cpu_of_this_process_is_read_in_nanoseconds() -> None:
    """It never falls, grows with work, and is no more than all that the process has used since."""
    first = process_groups.read_cpu_ns({"me": os.getpid()})["me"]
    assert sum(range(200_000)) > 0
    second = process_groups.read_cpu_ns({"me": os.getpid()})["me"]
    assert 0 < first < second


def test_a_process_that_has_ended_is_an_error() -> None:
    """A cluster that loses a process must not look cheap."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match=r"\[Errno"):
        process_groups.read_cpu_ns({"gone": pid})


def test_trees_take_turns_in_being_first() -> None:
    """What the first leaves behind for the second changes sides every round."""
    assert [order_of_round(["this", "base"], number) for number in (1, 2, 3)] == [
        ["this", "base"],
        ["base", "this"],
        ["this", "base"],
    ]
