"""Takes the heartbeats of storage nodes that run without a cluster, in tests and benchmarks: a node acknowledges nothing before.

It admits every node under one fence, and knows nothing else.
"""

from __future__ import annotations

import threading
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from blake3 import blake3

from shared.cluster_keys import KeyRing, derive_peer_keys
from shared.contracts.cluster import Heartbeat, HeartbeatResponse
from shared.peer_calls.request_signing import ANSWER_MAC_HEADER, AnswerFacts, VerifiedRequest
from shared.roles import Role

FENCE: Final = 1


@cache
def consensus_url(cluster_secret: str) -> str:
    """The value of TRIVET_CONSENSUS_URLS for a lone node; serves until this process ends.

    Answers are authenticated, or the node would take them for a stranger's; requests are taken unverified.
    """
    handler = partial(_Handler, derive_peer_keys(cluster_secret, Role.CONSENSUS).accepted())
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, name="lone consensus", daemon=True).start()
    return f"consensus-1=http://127.0.0.1:{server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, keys: KeyRing, *args: Any) -> None:
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
        before, _, mac = self.headers.get("authorization", "").rpartition(",mac=")
        key = self._keys.find(before.partition("key=")[2].partition(",")[0]) or self._keys.signing
        self.send_header(
            ANSWER_MAC_HEADER, VerifiedRequest(key, mac).answer_mac(AnswerFacts(status, blake3(body).hexdigest()))
        )
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""
