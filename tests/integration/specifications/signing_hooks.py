"""Signs what schemathesis sends to an internal service, as other services do; it is loaded by that program, not by pytest.

Which service, and with what key, stands in `peer.json` in the working folder, when it is an internal one. How often each
status was answered is written down at the end, so that a run in which every signature was refused cannot pass for a good one.
"""

from __future__ import annotations

import atexit
import json
from collections import Counter
from pathlib import Path
from typing import Any

import requests
import schemathesis
from blake3 import blake3

from shared.cluster_keys import ClusterKeys
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, RequestSigner, parse_challenge

PEER_FILE = Path("peer.json")
STATUSES_FILE = Path("statuses.json")


class _Signature(requests.auth.AuthBase):
    """Signs a request at the last moment, when its target and body are what will be sent."""

    def __init__(self, peer_id: str, keys: ClusterKeys) -> None:
        self._peer_id = peer_id
        self._signer = RequestSigner(keys)

    def learn_boot(self, url: str) -> None:
        """The service's challenge, which every signature answers."""
        challenge = requests.get(url, timeout=10).headers.get("www-authenticate")
        boot_id = parse_challenge(challenge)
        assert boot_id is not None
        self._signer.learn_boot(self._peer_id, boot_id)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        digest = blake3(body.encode() if isinstance(body, str) else body).hexdigest()
        assert request.method is not None
        request.headers[BODY_DIGEST_HEADER] = digest
        request.headers["authorization"] = self._signer.authorization(
            request.method, request.path_url, self._peer_id, digest
        )
        return request


_signature: list[_Signature] = []
_statuses: Counter[int] = Counter()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Have this request signed, when it goes to an internal service."""
    if not PEER_FILE.exists():
        return
    if not _signature:
        peer = json.loads(PEER_FILE.read_text())
        _signature.append(_Signature(peer["id"], ClusterKeys.parse(peer["secret"])))
        _signature[0].learn_boot(peer["url"] + "/v1/status")
    kwargs["auth"] = _signature[0]


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Count its answer."""
    _statuses[response.status_code] += 1


@atexit.register
def write_statuses() -> None:
    """For the test to look at."""
    STATUSES_FILE.write_text(json.dumps(_statuses))
