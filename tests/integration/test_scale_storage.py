"""`k8s/scale-storage`: a pod is taken away when the cluster says that its node is out, and not when nobody says anything."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local_cluster.settings import PROJECT_ROOT

KUBECTL = """\
#!/bin/bash
case "$*" in
*" get statefulset storage "*) cat {folder}/replicas ;;
*" patch statefulset storage "*) curl --silent --data-binary "$*" {url}/patched ;;
esac
"""


class Gateway(BaseHTTPRequestHandler):
    """Its operations port, with an answer to each question about the cluster in turn."""

    answers: list[int]
    seen: list[str]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        status, nodes = 200, ["storage-0", "storage-1", "storage-2"]
        if self.command == "GET" and self.path == "/v1/cluster":
            status = self.answers.pop(0)
            nodes += ["storage-3"] if self.answers else []
        self.seen.append(f"{self.command} {self.path} {status} {body}".strip())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"nodes": [{"id": name, "state": "draining"} for name in nodes]}).encode())

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - as the base class calls them

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_gateway_that_does_not_answer_ends_no_drain(gateway, tmp_path) -> None:
    """Its pod may be replaced meanwhile, and the node still holds the only replicas of something."""
    Gateway.answers, Gateway.seen = [200, 503, 200], []
    url = f"http://127.0.0.1:{gateway.server_port}"
    (tmp_path / "replicas").write_text("4")
    (tmp_path / "curl.conf").write_text("")
    (tmp_path / "kubectl").write_text(KUBECTL.format(folder=tmp_path, url=url))
    (tmp_path / "kubectl").chmod(0o755)
    variables = {"TRIVET_OPERATIONS_URL": url, "TRIVET_CURL_CONFIG": f"{tmp_path}/curl.conf"}
    subprocess.run(
        [PROJECT_ROOT / "k8s" / "scale-storage", "3"],
        env=variables | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    asked = [line.partition(" 200")[0].partition(" 503")[0] for line in Gateway.seen]
    assert asked == ["GET /readyz", "DELETE /v1/cluster/nodes/storage-3", *["GET /v1/cluster"] * 3, "POST /patched"]
