"""A real Prometheus for a test: scrapes every process of a cluster once a second, by `observability/prometheus.yaml`."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import yaml

from local_cluster.settings import PROJECT_ROOT
from tests.free_ports import free_port
from tests.waiting import block_until

FOLDER = PROJECT_ROOT / "observability"
READY_WITHIN_S = 40.0


class Answer(NamedTuple):
    """What a query over a range gave: by labels the (time, value) pairs that are numbers."""

    series: dict[str, list[tuple[float, float]]]


class QueryFailedError(Exception):
    """Prometheus does not take the query."""


class Prometheus:
    """Use it as a context manager: inside, it answers."""

    def __init__(self, folder: Path, port_offset: int) -> None:
        self._folder = folder
        self._config = folder / "prometheus.yaml"
        folder.mkdir()
        self._port = free_port()
        self._config.write_text(yaml.safe_dump(_moved(port_offset)))
        self.targets = [
            target
            for scrape in yaml.safe_load(self._config.read_text())["scrape_configs"]
            for static in scrape["static_configs"]
            for target in static["targets"]
        ]

    def __enter__(self) -> Self:
        self._log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self._port}/api/v1", trust_env=False, timeout=30)
        try:
            block_until(self._is_ready, "Prometheus is ready", READY_WITHIN_S)
            block_until(
                lambda: len(self.now('up{job="trivet"} == 1')) == len(self.targets), "all are scraped", READY_WITHIN_S
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/-/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def now(self, query: str) -> dict[str, float]:
        """By labels the value of each sample, NaN included. Raises QueryFailedError."""
        result = self._ask("/query", {"query": query})["result"]
        return {_labels(one["metric"]): float(one["value"][1]) for one in result}

    def over(self, query: str, seconds: int) -> Answer:
        """The last `seconds`, a value a second. Raises QueryFailedError."""
        end = float(self._ask("/query", {"query": "time()"})["result"][1])
        asked = {"query": query, "start": str(end - seconds), "end": str(end), "step": "1"}
        series = {
            _labels(one["metric"]): [(at - end, float(value)) for at, value in one["values"]]
            for one in self._ask("/query_range", asked)["result"]
        }
        return Answer({name: [pair for pair in pairs if not math.isnan(pair[1])] for name, pairs in series.items()})

    def _ask(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._client.get(path, params=dict(parameters)).json()
        if answer["status"] != "success":
            raise QueryFailedError(f"{parameters['query']}: {answer['error']}")
        return answer["data"]


def _labels(metric: Mapping[str, str]) -> str:
    shown = {name: value for name, value in metric.items() if name not in {"__name__", "job"}}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))


def _moved(port_offset: int) -> dict[str, Any]:
    """The configuration as it is in the repository, for a cluster on other ports, and impatient."""
    text = re.sub(
        r"(?<=127\.0\.0\.1:)\d+",
        lambda port: str(int(port[0]) + port_offset),
        (FOLDER / "prometheus.yaml").read_text(encoding="utf-8"),
    )
    config: dict[str, Any] = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    return config
