"""`benchmarks.cluster.rows`, `rounds` and `budgets`: what is chosen, how much room it takes, what is over budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cluster.__main__ import make_plan
from benchmarks.cluster.bodies import PIECE_BYTES, BodyMaker, restamp, write_body
from benchmarks.cluster.budgets import BUDGETS_FILE, Budget, read_budgets
from benchmarks.cluster.credentials import authorization
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.floors import floors_of
from benchmarks.cluster.profiler import lengthened
from benchmarks.cluster.rounds import Plan
from benchmarks.cluster.rows import ROW_NAMES, ROWS, choose, counterpart_of
from benchmarks.cluster.running_cluster import parse_leader, read_pids
from benchmarks.cluster.workload import Stock, StoredFile
from shared.units import KIB, MIB


def test_no_name_is_every_row_and_idle() -> None:
    """What `make bench` does."""
    assert choose([]) == (list(ROWS), True)


def test_names_are_chosen_in_the_order_of_running() -> None:
    """A row that reads comes behind the row that writes what it reads."""
    rows, is_idle_wanted = choose(["get-4k-x16", "put-4k-x16"])
    assert ([row.name for row in rows], is_idle_wanted) == (["put-4k-x16", "get-4k-x16"], False)


def test_rows_of_s3_run_by_name_each_behind_its_counterpart() -> None:
    """Alone, or all of them by one word with the rows that they are compared with."""
    assert not any(row.is_s3 for row in choose([])[0])
    rows, is_idle_wanted = choose(["s3"])
    names = [row.name for row in rows]
    assert names[::2] == [counterpart_of(row) for row in rows[1::2]]
    assert (names[:2], len(names), is_idle_wanted) == (["put-256m", "s3-put-256m"], 18, False)
    assert [row.name for row in choose(["s3-get-4k-x16"])[0]] == ["s3-get-4k-x16"]


def test_an_unknown_name_is_refused_with_all_names() -> None:
    """So that a person need not look them up."""
    with pytest.raises(BenchmarkError, match="get-4k-x17") as error:
        choose(["get-4k-x17"])
    assert all(name in str(error.value) for name in ROW_NAMES)


def test_no_round_is_refused() -> None:
    """A result of nothing has no median."""
    with pytest.raises(BenchmarkError, match="ROUNDS"):
        make_plan([], 0)


def test_operations_of_one_file_are_its_mebibytes() -> None:
    """And those of other rows are their requests."""
    by_name = {row.name: row for row in ROWS}
    assert by_name["get-256m"].count_operations(1) == 256
    assert by_name["get-4k-x16"].count_operations(7) == 7


def test_rows_that_share_a_floor_measure_it_once() -> None:
    """With the first of them."""
    small = [row for row in ROWS if row.floor == "disk-4k"]
    assert len(small) == 2
    assert floors_of(ROWS).count(small[0]) == 1
    assert small[1] not in floors_of(ROWS)
    assert len(floors_of(ROWS)) == len({row.floor for row in ROWS if row.floor})


def test_the_progress_counts_every_step() -> None:
    """Warm-ups, seconds of idling, rows of every tree and floors."""
    plan = Plan(list(ROWS), rounds=2, idle_s=60)
    assert plan.steps(trees=2) == 2 + 60 + 2 * (len(ROWS) * 2 + len(floors_of(ROWS)))
    assert replace(plan, idle_s=None).steps(trees=1) == 1 + 2 * (len(ROWS) + len(floors_of(ROWS)))


def test_a_run_says_how_much_disk_it_needs() -> None:
    """Three replicas of what every round and the warm-up put, for each tree."""
    plan = Plan([row for row in ROWS if row.name == "put-256m"], rounds=4)
    assert plan.needed_bytes(trees=2) >= 3 * 2 * 5 * 256 * MIB
    assert plan.needed_bytes(trees=2) < 3 * 2 * 6 * 512 * MIB


def test_a_longer_profile_is_allowed_more_requests() -> None:
    """Or a row that bounds them would end long before its time."""
    bounded = next(row for row in ROWS if row.name == "put-1m-x8")
    longer = lengthened(bounded, bounded.duration_s * 4)
    assert (longer.duration_s, longer.at_most) == (bounded.duration_s * 4, bounded.at_most * 4)
    assert lengthened(ROWS[0], 10.0) is ROWS[0]


def test_every_piece_of_every_body_is_new(tmp_path) -> None:
    """No chunk of a piece or more is ever stored twice, after a file was stamped anew neither."""
    maker = BodyMaker(4 * PIECE_BYTES)
    file = tmp_path / "body"
    contents = [b"".join(maker.make()), b"".join(maker.make())]
    write_body(file, maker.make())
    contents.append(file.read_bytes())
    restamp(file)
    contents.append(file.read_bytes())
    pieces = [content[at : at + PIECE_BYTES] for content in contents for at in range(0, len(content), PIECE_BYTES)]
    assert {len(content) for content in contents} == {4 * PIECE_BYTES}
    assert len(set(pieces)) == 16


def test_a_small_body_has_its_size_and_begins_with_its_first_buffer() -> None:
    """That buffer is what an answer is compared with."""
    body = BodyMaker(4 * KIB).make()
    assert sum(map(len, body)) == 4 * KIB
    assert len(body[0]) == 16


BUDGET = Budget(at_most_ms=2.0, aim_ms=1.0, state="kept")


def test_a_row_at_its_budget_is_within_and_one_past_it_is_over() -> None:
    """A goal that is not reached yet says so instead."""
    assert [BUDGET.mark(cpu_ms) for cpu_ms in (2.0, 2.001)] == ["within", "OVER"]
    goal = BUDGET.model_copy(update={"state": "not yet"})
    assert [goal.mark(cpu_ms) for cpu_ms in (2.0, 2.001)] == ["within", "not yet"]


def test_every_row_has_a_budget() -> None:
    """The file in the repository can be read."""
    assert set(read_budgets(BUDGETS_FILE.read_text())) == {row.name for row in ROWS}


@pytest.mark.parametrize(
    "text",
    [
        "[get-4k-x16]\nat_most_ms = 1\naim_ms = 1\nstate = 'soon'",
        "[get-4k-x16]\nat_most_ms = 0\naim_ms = 1\nstate = 'kept'",
        "[get-5k]\nat_most_ms = 1\naim_ms = 1\nstate = 'kept'",
        "[get-4k-x16",
    ],
)
def test_a_budget_that_would_never_be_compared_is_refused(text) -> None:
    """An unknown state, row or form."""
    with pytest.raises(BenchmarkError, match=r"budgets\.toml"):
        read_budgets(text)


def test_the_leader_is_read_from_the_cluster_document() -> None:
    """There may be none during an election."""
    assert parse_leader(b'{"leader": "consensus-3", "members": []}') == "consensus-3"
    assert parse_leader(b'{"leader": null}') is None


def test_processes_are_read_from_their_pid_files(tmp_path) -> None:
    """Other files beside them are none."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "storage-1.pid").write_text("41\n")
    (tmp_path / "run" / "storage-1.identity.json").write_text("{}")
    (tmp_path / "run" / "lock").write_text("")
    assert read_pids(tmp_path) == {"storage-1": 41}


def test_requests_carry_the_root_key_where_the_cluster_has_one(tmp_path) -> None:
    """And nothing where it has none."""
    assert authorization(tmp_path) == ""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "root-key").write_text("TV1.secret\n")
    assert authorization(tmp_path) == "Bearer TV1.secret"


def test_a_row_that_reads_once_takes_no_file_twice() -> None:
    """Nor one that another such row has had: nothing that it asks for is in a cache."""
    stock = Stock("round-1")
    stored = stock.of_size(4096)
    stored += [StoredFile(f"key-{number}", b"x") for number in range(6)]
    first = [stock.take_unread(4096).key for _ in range(4)]
    stored.append(StoredFile("key-6", b"x"))
    second = [stock.take_unread(4096).key for _ in range(3)]
    assert sorted(first + second) == [f"key-{number}" for number in range(7)]
    read_once = [row for row in ROWS if row.is_read_once]
    assert {row.name for row in read_once} == {"get-4k-x16", "get-4k-x1"}
    assert all(row.at_most <= 10_000 for row in read_once), "as many files are put before it"
