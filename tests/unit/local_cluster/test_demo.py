"""What `make demo` counts and shows; that it plays to its end is a slow test of a whole cluster."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from local_cluster import demo
from local_cluster.demo_traffic import StoredFile, Tally, Traffic
from local_cluster.errors import LocalClusterError
from tests.waiting import block_until


class Gateway(BaseHTTPRequestHandler):
    """Gives `good` to every reader but those of `absent`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(404 if self.path.endswith("absent") else 200, b"good")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(201, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def stored(key: str, body: bytes = b"good") -> StoredFile:
    return StoredFile(key, hashlib.sha256(body).hexdigest())


def test_readers_and_writers_go_on_until_the_block_ends(gateway_url) -> None:
    """Each request is counted."""
    traffic = Traffic(gateway_url, {}, [stored("a"), stored("b")])
    with traffic.running():
        block_until(lambda: traffic.reads.done > 10 and traffic.writes.done > 5, "requests were made")
    done = traffic.reads.done, traffic.writes.done
    assert traffic.failures == []
    assert sum(traffic.reads.per_second) == done[0]
    assert 0 < traffic.reads.slowest_s < 15


@pytest.mark.parametrize(("file", "said"), [(stored("a", b"other"), "other bytes"), (stored("absent"), "404")])
def test_a_wrong_byte_and_an_error_end_the_demo(gateway_url, file, said) -> None:
    """It would say that all is well."""
    traffic = Traffic(gateway_url, {}, [file])
    with traffic.running():
        block_until(lambda: traffic.failures, "a failure was seen")
    with pytest.raises(LocalClusterError, match=said):
        demo._show_result(traffic)


def test_a_second_is_a_bar() -> None:
    """The one under way is left out."""
    tally = Tally()
    tally.per_second.clear()
    tally.per_second.extend([0, 5, 10, 3])
    assert demo._sparkline(tally) == "▁▄█"
    assert demo._sparkline(Tally()) == ""


def test_the_picture_shows_what_is_missing_and_who_is_gone() -> None:
    """And a question mark for what is not known."""
    console = Console(width=100, record=True)
    for missing in (None, 1234):
        console.print(
            demo._picture(Traffic("http://x", {}, []), {"storage-1": "active", "storage-2": "inactive"}, missing)
        )
    shown = console.export_text()
    assert "● storage-2 inactive" in shown
    assert "replicas missing  ?" in shown
    assert "replicas missing  1,234" in shown
