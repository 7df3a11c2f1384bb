"""A real headless Chromium, driven over the W3C WebDriver protocol by the HTTP client that the tests have anyway.

The protocol is JSON over HTTP, and a page needs six of its calls, so no driver library is installed for them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""How the protocol spells a reference to an element."""

DEADLINE_S = 60
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1800",
)


def require_chromium() -> tuple[str, str]:
    """The browser and its driver; skips the test, saying how to get them, where they are missing."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(
            "NO BROWSER: install chromium and chromedriver (Debian: chromium, chromium-driver) to run this test"
        )
    return browser, driver


class Browser:
    """One page. Every wait is bounded by `DEADLINE_S`."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def find(self, css: str) -> str:
        """The first element that fits and is shown, waiting for it; scrolled into view."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            found = self.run(
                "return [...document.querySelectorAll(arguments[0])].find(e => e.getClientRects().length)", css
            )
            if found is not None:
                self.run("arguments[0].scrollIntoView({block: 'center'})", found)
                return found[ELEMENT]
            select.select([], [], [], 0.05)
        raise AssertionError(f"not on the page within {DEADLINE_S} s: {css}")

    def click(self, css: str) -> None:
        element = self.find(css)
        self._call("POST", f"/element/{element}/click", {})

    def replace_text(self, css: str, text: str) -> None:
        element = self.find(css)
        self._call("POST", f"/element/{element}/clear", {})
        self._call("POST", f"/element/{element}/value", {"text": text})

    def choose_file(self, css: str, path: Path) -> None:
        self._call("POST", f"/element/{self.find(css)}/value", {"text": str(path)})

    def text(self, css: str) -> str:
        return self._call("GET", f"/element/{self.find(css)}/text")

    def run(self, script: str, *arguments: Any) -> Any:
        """What the script returns; of a promise what becomes of it."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def requested_origins(self) -> set[str]:
        """Scheme and host of everything that pages have asked the network for since the last call.

        What the page's own policy stopped never reached the network, and is left out.
        """
        asked: dict[str, str] = {}
        for row in self._call("POST", "/se/log", {"type": "performance"}):
            event = json.loads(row["message"])["message"]
            method, facts = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                url = urlsplit(facts["request"]["url"])
                # The browser's own first page, and bytes that a page holds itself, do not touch the network.
                if url.scheme not in {"chrome", "data", "blob"}:
                    asked[facts["requestId"]] = f"{url.scheme}://{url.netloc}"
            elif method == "Network.loadingFailed" and facts.get("blockedReason") == "csp":
                asked.pop(facts["requestId"], None)
        return set(asked.values())

    def save_screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._session.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`; what it downloads lies in `folder/downloads`."""
    browser, driver = require_chromium()
    process = subprocess.Popen(
        [driver, "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        with httpx.Client(timeout=DEADLINE_S, trust_env=False) as client:
            base = f"http://127.0.0.1:{_port_of(process)}"
            answer = client.post(
                f"{base}/session", json={"capabilities": {"alwaysMatch": _capabilities(browser, folder, flags)}}
            )
            assert answer.status_code == 200, answer.text
            session = f"{base}/session/{answer.json()['value']['sessionId']}"
            client.base_url = session
            try:
                yield Browser(client)
            finally:
                # By its whole address: httpx would add a slash, and the driver would not know that path.
                assert client.delete(session).status_code == 200
    finally:
        # The browser is in the driver's group, whatever became of the session.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def _port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if (match := re.search(r"started successfully on port (\d+)", line)) is not None:
            return int(match[1])
    raise AssertionError("chromedriver ended before it listened")


def _capabilities(browser: str, folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    return {
        "browserName": "chrome",
        "goog:chromeOptions": {
            "binary": browser,
            "args": [*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"],
            "prefs": {"download.default_directory": str(folder / "downloads")},
        },
        "goog:loggingPrefs": {"performance": "ALL"},
    }
