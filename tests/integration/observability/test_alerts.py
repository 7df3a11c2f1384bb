"""`observability/alerts.yaml`: every alert fires when it should and rests otherwise, and has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster.settings import PROJECT_ROOT
from tests.integration.observability.alert_cases import CASES, Series

RULES = PROJECT_ROOT / "observability" / "alerts.yaml"
RUNBOOKS = PROJECT_ROOT / "docs" / "runbooks.md"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in ALERTS]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool of Debian's prometheus")


def promtool(*arguments: str) -> str:
    found = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def situation(alert: str, series: Series, after: int, *, fires: bool) -> dict[str, Any]:
    """A test of promtool's."""
    return {
        "name": f"{alert}, {'broken' if fires else 'well'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'clamp_max(count(ALERTS{{alertname="{alert}", alertstate="firing"}}), 1) or vector(0)',
                "eval_time": f"{after}m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }


@needs_promtool
def test_prometheus_reads_the_files() -> None:
    """The rules, and the configuration that names them."""
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(PROJECT_ROOT / "observability" / "prometheus.yaml"))


@needs_promtool
def test_every_alert_fires_when_it_should_and_rests_otherwise(tmp_path: Path) -> None:
    """The situations of `alert_cases`, in which little else differs."""
    assert {case.alert for case in CASES} == set(NAMES)
    written = []
    for rule in ALERTS:  # each in a file of its own: every rule of a file is evaluated in every step of each situation
        rules, tests = tmp_path / f"{rule['alert']}.yaml", tmp_path / f"{rule['alert']}-situations.yaml"
        rules.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
        situations = [
            situation(case.alert, series, case.after, fires=fires)
            for case in CASES
            for series, fires in ((case.fires, True), (case.rests, False))
            if case.alert == rule["alert"]
        ]
        tests.write_text(yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": situations}))
        written.append(str(tests))
    assert promtool("test", "rules", *written).count("SUCCESS") == len(ALERTS)


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, a sentence, and a heading of the runbooks that the link finds."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
    headings = re.findall(r"^### (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings.count(rule["alert"]) == 1


def test_every_runbook_has_an_alert() -> None:
    """No page for what is never said."""
    assert set(re.findall(r"^### (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)) == set(NAMES)
