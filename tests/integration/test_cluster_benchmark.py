"""The benchmark and the profiler of the whole cluster, with rows so small that they only show that all of it works."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.cluster.commands import clean_environment
from benchmarks.cluster.output import LATEST, RESULT, read_result
from benchmarks.cluster.process_groups import GROUPS
from benchmarks.cluster.rows import ALL_ROWS, ROWS
from benchmarks.cluster.samples import FORMAT_VERSION
from benchmarks.cluster.trees import BASE, THIS, WITHOUT_KEYS, WORK_DIR
from local_cluster.settings import PROJECT_ROOT
from tests.waiting import block_until

TIMEOUT_S = 110


def run(module: str, *arguments: str) -> str:
    """What a command of the benchmark prints; it must succeed, and nothing of this test's environment reaches it."""
    command = [sys.executable, "-m", module, "--tiny", *arguments]
    done = subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def folders_of_clusters(benchmark_pid: int) -> list[Path]:
    """Those of the clusters of one benchmark; others may run beside it."""
    return list(WORK_DIR.glob(f"cluster-*-of-{benchmark_pid}"))


def test_every_row_is_measured_on_a_real_cluster(tmp_path: Path) -> None:
    """Every row has figures of every process group, floors and no failed request; the report and the plots are there."""
    printed = run("benchmarks.cluster", "--rounds", "1", "--out", str(tmp_path))
    folder = tmp_path / LATEST
    result = read_result(folder)
    assert {sample.row for sample in result.rows} == {row.name for row in ROWS}
    assert {floor.floor for floor in result.floors} == {row.floor for row in ROWS if row.floor}
    for sample in result.rows:
        assert (sample.failed, sample.first_failure) == (0, ""), sample
        assert set(sample.cpu_ms) == set(GROUPS), sample
        assert sample.cpu_ms["gateway"] > 0, sample
        assert 0 < sample.p50_ms <= sample.p99_ms, sample
        assert sample.per_second > 0, sample
        assert sample.duration_s < 0.1 or sample.gauge_us, sample
    assert [set(idle.cores) for idle in result.idle] == [set(GROUPS)]
    assert {memory.group for memory in result.memory} == set(GROUPS)
    assert all(memory.rss_mib > 1 for memory in result.memory)
    assert (folder / "report.md").read_text().count("**") >= 8
    assert {file.stem for file in (folder / "plots").iterdir()} == {row.name for row in ROWS}
    assert json.loads((folder / RESULT).read_text())["version"] == FORMAT_VERSION
    assert "Speed of" in printed


def test_rows_of_s3_are_measured_beside_one_of_v1(tmp_path: Path) -> None:
    """By name, with the ratio of the one that has its counterpart."""
    names = ["get-4k-x16", *(row.name for row in ALL_ROWS if row.is_s3)]
    printed = run("benchmarks.cluster", "--rounds", "1", "--rows", " ".join(names), "--out", str(tmp_path))
    result = read_result(tmp_path / LATEST)
    assert {sample.row for sample in result.rows} == set(names)
    assert [(sample.row, sample.first_failure) for sample in result.rows if sample.failed] == []
    assert "Ratios of S3 to /v1" in printed


def test_a_tree_is_measured_with_keys_and_without(tmp_path: Path) -> None:
    """Clients that show no key are let in, and do the same."""
    rows = "put-4k-x16 head-4k-x16"
    printed = run("benchmarks.cluster", "--rounds", "1", "--rows", rows, "--base", WITHOUT_KEYS, "--out", str(tmp_path))
    result = read_result(tmp_path / LATEST)
    assert sorted((sample.row, sample.tree) for sample in result.rows) == [
        (row, tree) for row in sorted(rows.split()) for tree in (BASE, THIS)
    ]
    assert [(sample.row, sample.first_failure) for sample in result.rows if sample.failed] == []
    assert WITHOUT_KEYS in printed


def test_a_row_is_profiled(tmp_path: Path) -> None:
    """Gateway, one storage node and the leader each have samples of our own modules, and a graph."""
    printed = run("benchmarks.cluster.profiler", "--out", str(tmp_path), "put-4k-x16")
    (folder,) = (tmp_path / "profiles").iterdir()
    graphs = sorted(file.stem for file in folder.glob("*.svg"))
    assert [name.rsplit("-", 1)[0] for name in graphs] == ["consensus", "gateway", "storage"]
    for package in ("services.gateway", "services.storage", "services.consensus"):
        assert package in printed


def test_a_benchmark_that_is_told_to_stop_stops_its_cluster(tmp_path: Path) -> None:
    """As a background job of a shell, which is started with SIGINT ignored."""
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.cluster",
            "--tiny",
            "--rows",
            "head-4k-x16",
            "--rounds",
            "20",
            "--out",
            str(tmp_path),
        ],
        cwd=PROJECT_ROOT,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as benchmark:
        block_until(lambda: folders_of_clusters(benchmark.pid), "the cluster has a folder", within_s=60)
        benchmark.send_signal(signal.SIGTERM)
        _, said = benchmark.communicate(timeout=TIMEOUT_S)
    assert benchmark.returncode == 130, said
    assert "Interrupted" in said
    assert folders_of_clusters(benchmark.pid) == []
