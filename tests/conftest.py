"""What tests of several services need: a real HTTP server in this process, on a port that the system chose."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import NoReturn

import hypothesis
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from shared.web.http_edge import GuardedHttpProtocol
from tests.chance import start_from

START_DEADLINE_S = 10.0
GARBAGE_OBJECTS = 10_000
"""How many more objects than at the last collection there may be before the next."""
OLD_COLLECTIONS = 10
"""How many collections of what is young there may be before one of everything."""

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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests and all that they import stay until the end: a full collection takes a second to look through them.

    There were a dozen of those while they were imported, and dozens more in a run of the unit tests, a fifth of its time.
    """
    gc.disable()
    collected = yield
    gc.collect()
    gc.freeze()
    gc.set_threshold(20 * GARBAGE_OBJECTS, 20, 20)
    gc.enable()
    return collected


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Collect between tests rather than in them: a finalizer may fail where a test has come to the end of the stack.

    Now and then all of it: databases that tests leave to the collector are open files, hundreds of them by the end of a run.
    """
    young, _, old = gc.get_count()
    if young > GARBAGE_OBJECTS:
        gc.collect(2 if old >= OLD_COLLECTIONS else 1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Have Ctrl-C do what it does anyhow, but not by Python's own handler, which asyncio would replace around each coroutine.

    Its handler names the task, and Python 3.11 looks every handler up among the numbers of `signal`, in vain and with an error
    that has its `repr`: all that a fixture holds, up to a tenth of a second for each.
    """
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """`--seed=N`, or drawn; what `tests.chance` gives follows from it. Printed, and so shown when the test fails."""
    chosen = start_from(request.config.getoption("--seed"))
    print(f"seed {chosen}")
    return chosen


class PromptServer(uvicorn.Server):
    """Ends when it is told to: uvicorn's own looks ten times a second, and then waits a tenth for what is under way."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_serving = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._is_told_to_stop: asyncio.Event

    async def main_loop(self) -> None:
        """Returns when the server is to stop."""
        self._loop, self._is_told_to_stop = asyncio.get_running_loop(), asyncio.Event()
        await self.on_tick(0)
        self.is_serving.set()
        await self._is_told_to_stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Whatever is still under way is cancelled with the loop."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def stop(self) -> None:
        """From another thread."""
        if self.is_serving.is_set():
            self._loop.call_soon_threadsafe(self._is_told_to_stop.set)


@pytest.fixture
def serve_app() -> Iterator[ServeApp]:
    """Serves an application with the real edge in a thread, and gives its base URL; stopped after the test.

    A thread and not the test's own loop, so that a test that blocks cannot stop the server that it waits for.
    """
    running: list[tuple[PromptServer, threading.Thread, socket.socket]] = []

    def serve(app: FastAPI) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=GuardedHttpProtocol, lifespan="on", ws="none", log_config=None, access_log=False
        )
        server = PromptServer(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, listener))
        deadline = time.monotonic() + START_DEADLINE_S
        while not server.is_serving.wait(0.05):
            assert thread.is_alive(), "the server ended while it started"
            assert time.monotonic() < deadline, "the server did not start"
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for server, thread, listener in running:
        server.stop()
        thread.join()
        listener.close()
