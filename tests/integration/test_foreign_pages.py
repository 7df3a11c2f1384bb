"""The origin rules in a real browser: pages of the gateway do what they like, a foreign one reads and changes nothing.

Tests of the headers alone would not show whether browsers send them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.browser import Browser, chromium
from tests.integration.second_gateway import SecondGateway

pytestmark = pytest.mark.cluster

ATTACKER = "attacker.example"
"""A name that the browser is told to find on this machine, as a name that was rebound is."""

BLOCKED = "TypeError"
"""What `fetch` gives a page that may not read the answer, or may not even ask."""

FETCH = "return fetch(arguments[0], arguments[1]).then(answer => answer.status, error => error.name)"


class _Page(BaseHTTPRequestHandler):
    """A page with a form that can be pointed anywhere."""

    def do_GET(self) -> None:
        body = b"<form method=post enctype=multipart/form-data><input type=file name=file></form>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path, f"--host-resolver-rules=MAP {ATTACKER} 127.0.0.1") as started:
        yield started


def send_form(browser: Browser, url: str, chosen: Path) -> str:
    """Send the form of the page as a click does; the page that comes back."""
    browser.choose_file("input[type=file]", chosen)
    browser.run("document.forms[0].action = arguments[0]; document.forms[0].submit()", url)
    return browser.text("body pre")


def test_a_page_of_the_gateway_reads_and_changes_files(browser, cluster, gateway, bucket) -> None:
    """Under every name that is its own; so what a foreign page fails to do below can be done."""
    port = urlsplit(cluster.gateway_url).port
    for host in ("127.0.0.1", "localhost"):
        own = f"http://{host}:{port}"
        file = f"{own}/v1/files/{bucket}/{host}"
        browser.open(f"{own}/docs")
        assert browser.run(FETCH, file, {"method": "PUT", "body": "from our page", "headers": cluster.bearer}) == 201
        assert browser.run(FETCH, file, {"headers": cluster.bearer}) == 200
        assert gateway.get(f"/v1/files/{bucket}/{host}").text == "from our page"
        assert browser.run(FETCH, file, {"method": "DELETE", "headers": cluster.bearer}) == 204


@pytest.mark.parametrize("host", [ATTACKER, "localhost", "127.0.0.1"])
def test_a_foreign_page_reads_and_changes_nothing(
    browser, cluster, gateway, bucket, foreign_port, tmp_path, host
) -> None:
    """Another site, another name of this machine, another port of the same name; the key itself does not help it."""
    assert gateway.put(f"/v1/files/{bucket}/kept", content=b"kept").status_code == 201
    chosen = tmp_path / "planted"
    chosen.write_bytes(b"planted")
    files = f"{cluster.gateway_url}/v1/files/{bucket}"
    browser.open(f"http://{host}:{foreign_port}/")
    for asked in (
        {"method": "PUT", "body": "planted"},
        {"method": "DELETE"},
        {"method": "GET"},
        {"method": "GET", "mode": "no-cors"},
        {"method": "DELETE", "headers": cluster.bearer},
        {"method": "GET", "headers": cluster.bearer},
    ):
        assert browser.run(FETCH, f"{files}/kept", asked) == BLOCKED, asked
    refusal = send_form(browser, files, chosen)
    assert '"code":"foreign_origin"' in refusal.replace(" ", "")
    assert [file["key"] for file in gateway.get(f"/v1/files/{bucket}").json()["files"]] == ["kept"]
    assert gateway.get(f"/v1/files/{bucket}/kept").content == b"kept"


def test_a_name_that_was_rebound_to_the_gateway_reaches_nothing(browser, cluster) -> None:
    """The page would be of one origin with the gateway, but the browser says the name."""
    browser.open(f"http://{ATTACKER}:{urlsplit(cluster.gateway_url).port}/v1/buckets")
    assert '"code":"misdirected_request"' in browser.text("body pre").replace(" ", "")


def test_a_page_of_an_origin_that_the_operator_named_may(browser, cluster, bucket, foreign_port, tmp_path) -> None:
    """Exactly that one: scheme, name and port."""
    named = f"http://{ATTACKER}:{foreign_port}"
    with SecondGateway(cluster, tmp_path / "log", {"TRIVET_CORS_ORIGINS": named}) as second:
        file = f"{second.url}/v1/files/{bucket}/shared"
        browser.open(f"{named}/")
        assert browser.run(FETCH, file, {"method": "PUT", "body": "by leave", "headers": cluster.bearer}) == 201
        assert browser.run(FETCH, file, {"headers": cluster.bearer}) == 200
        browser.open(f"http://localhost:{foreign_port}/")
        assert browser.run(FETCH, file, {"method": "DELETE", "headers": cluster.bearer}) == BLOCKED
        assert browser.run(FETCH, file, {"headers": cluster.bearer}) == BLOCKED
