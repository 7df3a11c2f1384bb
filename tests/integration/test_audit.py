"""`make audit` against a vulnerability database of the test's own, and without one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from fastapi import FastAPI, Request

from local_cluster.settings import PROJECT_ROOT
from tests.conftest import ServeApp

VULNERABILITY = "OSV-2026-1"


def audit(service_url: str) -> subprocess.CompletedProcess[str]:
    """Run the script as make does."""
    return subprocess.run(
        [sys.executable, ".ci/audit.py", "--service-url", service_url],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def database(vulnerable: str | None) -> FastAPI:
    """As much of OSV's API as uv asks; knows one vulnerability of one distribution."""
    app = FastAPI()

    @app.post("/v1/querybatch")
    async def ask(request: Request) -> dict[str, Any]:
        queries = (await request.json())["queries"]
        known = {"vulns": [{"id": VULNERABILITY, "modified": "2026-01-01T00:00:00Z"}]}
        return {"results": [known if query["package"]["name"] == vulnerable else {} for query in queries]}

    @app.get("/v1/vulns/{name}")
    async def describe(name: str) -> dict[str, Any]:
        return {"id": name, "modified": "2026-01-01T00:00:00Z", "summary": "planted", "affected": []}

    return app


def test_a_known_vulnerability_of_a_locked_distribution_is_named(serve_app: ServeApp) -> None:
    """The exit status says so, too."""
    answer = audit(serve_app(database("starlette")))
    assert VULNERABILITY in answer.stdout
    assert "starlette" in answer.stdout
    assert answer.returncode == 1


def test_without_a_known_vulnerability_the_audit_passes(serve_app: ServeApp) -> None:
    """And is not called skipped."""
    answer = audit(serve_app(database(None)))
    assert answer.returncode == 0, answer.stdout
    assert "SKIPPED" not in answer.stdout


def test_a_database_that_cannot_be_reached_is_a_skip_with_a_word() -> None:
    """Port 1 of this machine: nobody listens."""
    answer = audit("http://127.0.0.1:1/")
    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.startswith("SKIPPED: the audit of uv.lock")


def test_a_database_that_answers_with_an_error_is_no_skip(serve_app: ServeApp) -> None:
    """Who was asked and did not answer the question must be looked at."""
    answer = audit(serve_app(FastAPI()))
    assert answer.returncode not in {0, 1}
    assert "SKIPPED" not in answer.stdout
