"""Takes the heartbeats of storage nodes that run without a cluster, in tests and benchmarks: a node acknowledges nothing before.

It admits every node under one fence, and knows nothing else.
"""

from __future__ import annotations

import threading
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from shared.cluster_keys import ClusterKeys
from shared.contracts.cluster import Heartbeat, HeartbeatResponse
from shared.peer_calls.request_signing import ANSWER_MAC_HEADER, VerifiedRequest

FENCE: Final = 1


@cache
def consensus_url(cluster_secret: str) -> str:
    """The value of TRIVET_CONSENSUS_URLS for a lone node; serves until this process ends.

    Answers are authenticated with the secret, or the node would take them for a stranger's; requests are taken unverified.
    """
    handler = partial(_Handler, ClusterKeys.parse(cluster_secret))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, name="lone consensus", daemon=True).start()
    return f"consensus-1=http://127.0.0.1:{server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, keys: ClusterKeys, *args: Any) -> None:
        self._keys = keys
        super().__init__(*args)  # answers all requests of the connection

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self.path.endswith("/heartbeat"):
            self._answer(404, b"{}")
            return
        beat = Heartbeat.model_validate_json(body)
        answer = HeartbeatResponse(
            is_admitted=True, cluster_id=beat.cluster_id, epoch=1, fence=FENCE, is_run_recorded=True
        )
        self._answer(200, answer.model_dump_json().encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        mac = self.headers.get("authorization", "").rpartition("mac=")[2]
        self.send_header(ANSWER_MAC_HEADER, VerifiedRequest(self._keys.signing, mac).answer_mac(status))
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""
