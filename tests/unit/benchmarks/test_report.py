"""`benchmarks.cluster.report`, `plots` and `publish`: what a reader sees of a result."""

from __future__ import annotations

import pytest

from benchmarks.cluster.budgets import Budget
from benchmarks.cluster.errors import BenchmarkError
from benchmarks.cluster.publish import BEGIN, END, replace_between_markers
from benchmarks.cluster.report import digits, make_tables, to_markdown, warnings_of
from benchmarks.cluster.samples import Result
from benchmarks.cluster.speed_gauge import REFERENCE_US

BUDGETS = {"get-4k-x16": Budget(at_most_ms=1.0, aim_ms=0.5, state="kept")}


def table(result, title):
    return next(table for table in make_tables(result, BUDGETS) if table.title.startswith(title))


def cell(found, column, row=0):
    return found.rows[row][found.columns.index(column)]


def test_speed_is_shown_with_its_spread_and_beside_its_floor(make_sample, make_result) -> None:
    """Median, lowest and highest of the rounds; the floor does 1,000 per second."""
    rows = [make_sample(round=number, operations=operations) for number, operations in enumerate((100, 300, 200), 1)]
    speed = table(make_result(rows), "Speed")
    assert cell(speed, "throughput") == "100 (50.0-150) op/s"
    assert (cell(speed, "floor /s"), cell(speed, "of floor")) == ("1,000", "10%")


def test_cost_is_shown_by_group_and_held_to_the_budget(make_sample, make_result) -> None:
    """1.5 ms where 1 ms is allowed."""
    cost = table(make_result([make_sample()]), "CPU")
    assert (cell(cost, "gateway"), cell(cost, "storage")) == ("1.00", "0.50")
    assert (cell(cost, "sum"), cell(cost, "at most"), cell(cost, "budget")) == ("1.50 (1.50-1.50)", "1.00", "OVER")


def test_cost_is_told_at_normal_speed_beside_what_was_measured(make_sample, make_result) -> None:
    """A machine at a quarter of its speed: the budget is held to what it would have cost otherwise."""
    cost = table(make_result([make_sample(cpu_ms={"gateway": 4.0, "storage": 2.0}, gauge_us=4 * REFERENCE_US)]), "CPU")
    assert (cell(cost, "gateway"), cell(cost, "sum"), cell(cost, "budget")) == ("0.50", "0.75 (0.75-0.75)", "within")
    assert (cell(cost, "speed"), cell(cost, "as measured")) == ("25%", "6.00")
    unknown = table(make_result([make_sample(gauge_us=None)]), "CPU")
    assert (cell(unknown, "speed"), cell(unknown, "as measured")) == ("", "1.50")


def test_a_comparison_has_ratios_and_both_trees(make_sample, make_result) -> None:
    """This tree uses 1.5 ms, the base 1.0 ms: half as much again."""
    rows = [make_sample(), make_sample(tree="base", cpu_ms={"gateway": 1.0, "leader": 0.0})]
    ratios = table(make_result(rows), "Ratios of revision-this to revision-base")
    assert cell(ratios, "CPU per operation") == "1.500 (1.50-1.50)"
    assert (cell(ratios, "ms"), cell(ratios, "verdict"), cell(ratios, "throughput")) == (
        "+0.500",
        "more",
        "1.000 (1.00-1.00)",
    )
    assert (cell(ratios, "gateway CPU"), cell(ratios, "leader CPU")) == ("1.00", "")


def test_a_row_of_s3_is_compared_with_its_counterpart(make_sample, make_result) -> None:
    """Where both were measured: half as many in the same time."""
    rows = [make_sample(), make_sample(row="s3-get-4k-x16", operations=50), make_sample(row="s3-head-4k-x16")]
    ratios = table(make_result(rows), "Ratios of S3 to /v1")
    assert [row[0] for row in ratios.rows] == ["s3-get-4k-x16"]
    assert cell(ratios, "throughput") == "0.500 (0.50-0.50)"


def test_without_a_base_there_are_no_ratios(make_sample, make_result) -> None:
    """Nor an empty table."""
    assert not any(found.title.startswith("Ratios") for found in make_tables(make_result([make_sample()]), BUDGETS))


@pytest.mark.parametrize(("other_cores", "warns"), [(0.15, False), (0.151, True)])
def test_other_load_is_warned_of_above_the_limit(make_sample, make_result, other_cores, warns) -> None:
    """In one round of two is enough; the row is marked in the table, too."""
    result = make_result([make_sample(), make_sample(round=2, other_cores=other_cores)])
    assert any("other load was above 0.15 core in 1 of 2 rounds" in text for text in warnings_of(result)) is warns
    assert cell(table(result, "Speed"), "other load, cores").endswith("!") is warns


def test_failures_and_elections_are_warned_of(make_sample, make_result) -> None:
    """With the first reason and the number of rounds."""
    result = make_result(
        [make_sample(failed=3, first_failure="status 503"), make_sample(round=2, is_leader_stable=False)]
    )
    assert warnings_of(result) == [
        "get-4k-x16 (this): 3 requests failed: status 503",
        "get-4k-x16 (this): the leader changed during 1 of 2 rounds.",
    ]


def test_markdown_has_every_table_with_as_many_cells_as_columns(make_sample, make_result) -> None:
    """Or a viewer shows no table."""
    result = make_result([make_sample(), make_sample(tree="base")])
    tables = make_tables(result, BUDGETS)
    lines = to_markdown(result, tables).splitlines()
    assert [line for line in lines if line.startswith("**")] == [f"**{found.title}**" for found in tables]
    for found in tables:
        start = lines.index(f"**{found.title}**") + 2
        block = lines[start : start + 2 + len(found.rows)]
        assert {line.count("|") for line in block} == {len(found.columns) + 1}


def test_a_result_survives_its_file(make_sample, make_result) -> None:
    """`result.json` is what is published from later."""
    result = make_result([make_sample(), make_sample(tree="base")])
    assert Result.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (9.994, "9.99"), (12.34, "12.3"), (1234.5, "1,234")])
def test_figures_have_the_digits_that_matter(value, text) -> None:
    """Three of them, and no more of a large one."""
    assert digits(value) == text


def test_every_row_has_a_picture(make_sample, make_result, tmp_path) -> None:
    """A PNG, with one tree or two and any number of rounds."""
    # Here, or each worker would import matplotlib.
    from benchmarks.cluster.plots import draw_plots

    result = make_result([make_sample(), make_sample(tree="base"), make_sample(row="list-1000")])
    files = draw_plots(result.model_copy(update={"revisions": {"this": "x"}}), BUDGETS, tmp_path)
    assert [file.name for file in files] == ["get-4k-x16.png", "list-1000.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_report_replaces_what_stood_between_the_markers() -> None:
    """And nothing around them."""
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_between_markers(document, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


@pytest.mark.parametrize("document", ["nothing", f"{END} {BEGIN}", BEGIN])
def test_a_document_without_markers_is_left_alone(document) -> None:
    """Rather than appended to."""
    with pytest.raises(BenchmarkError, match="begin"):
        replace_between_markers(document, "new")
