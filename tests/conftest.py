"""What tests of several services need: a real HTTP server in this process, on a port that the system chose."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from shared.web.http_edge import GuardedHttpProtocol
from tests.chance import start_from

START_DEADLINE_S = 10.0

ServeApp = Callable[[FastAPI], str]


def pytest_addoption(parser: pytest.Parser) -> None:
    """How fault tests are repeated and replayed (tests/faults/README.md)."""
    parser.addoption(
        "--repeat-full", action="store_true", help="every fault as often as docs/faults.md asks; takes long"
    )
    parser.addoption("--model-steps", type=int, default=800, help="requests of the model of the API, at least")
    parser.addoption(
        "--s3-server",
        choices=("trivet", "trivet-with-faults", "seaweedfs"),
        default="trivet",
        help="where tests/integration/s3 goes to; with faults a storage node and the leader are killed meanwhile",
    )
    parser.addoption(
        "--seed", default=None, help="the seed of each test; drawn, and printed with a failure, when not given"
    )


def pytest_configure() -> None:
    """Log plainly: structlog's own default prints a defect with all variables of all frames, which takes seconds.

    And let no property fail by the time that one of its examples took.
    """
    *processors, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, renderer])
    # An example has no wall-clock window: on a busy machine any of them may take long.
    hypothesis.settings.register_profile("trivet", deadline=None)
    hypothesis.settings.load_profile("trivet")


def pytest_collection_finish() -> None:
    """Thousands of tests and all that they import stay until the end: a full collection takes a second to look through them.

    There were dozens of those in a run of the unit tests, a fifth of its time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """`--seed=N`, or drawn; what `tests.chance` gives follows from it. Printed, and so shown when the test fails."""
    chosen = start_from(request.config.getoption("--seed"))
    print(f"seed {chosen}")
    return chosen


@pytest.fixture
def serve_app() -> Iterator[ServeApp]:
    """Serves an application with the real edge in a thread, and gives its base URL; stopped after the test.

    A thread and not the test's own loop, so that a test that blocks cannot stop the server that it waits for.
    """
    running: list[tuple[uvicorn.Server, threading.Thread, socket.socket]] = []

    def serve(app: FastAPI) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=GuardedHttpProtocol, lifespan="on", ws="none", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, listener))
        deadline = time.monotonic() + START_DEADLINE_S
        while not server.started:
            assert thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline, "the server did not start"
            threading.Event().wait(0.01)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for server, thread, listener in running:
        server.should_exit = True
        server.force_exit = True
        thread.join()
        listener.close()
