"""Gives what schemathesis sends the credentials that it needs; it is loaded by that program, not by pytest.

They stand in `credentials.json` in the working folder: a service and the keys with which operators sign what they send to
it, or the bearer that a gateway asks for. How often each status was answered is written down at the end, so
that a run in which every request was refused cannot pass for a good one.
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

from shared.cluster_keys import PeerKeys
from shared.peer_address import PeerAddress
from shared.peer_calls.request_signing import BODY_DIGEST_HEADER, RequestSigner, parse_challenge
from shared.roles import Role

CREDENTIALS_FILE = Path("credentials.json")
STATUSES_FILE = Path("statuses.json")


class _Signature(requests.auth.AuthBase):
    """Signs a request at the last moment, when its target and body are what will be sent."""

    def __init__(self, peer: PeerAddress, keys: PeerKeys) -> None:
        self._peer = peer
        self._signer = RequestSigner(keys)

    def learn_boot(self, url: str) -> None:
        """The service's challenge, which every signature answers."""
        challenge = requests.get(url, timeout=10).headers.get("www-authenticate")
        parsed = parse_challenge(challenge)
        assert parsed is not None
        self._signer.learn(self._peer.id, parsed)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        digest = blake3(body.encode() if isinstance(body, str) else body).hexdigest()
        assert request.method is not None
        request.headers[BODY_DIGEST_HEADER] = digest
        signed = self._signer.sign(request.method, request.path_url, self._peer, digest)
        request.headers["authorization"] = signed.authorization
        return request


class _Bearer(requests.auth.AuthBase):
    """The root key; one that schemathesis made up is left in its place, because what a wrong one gets is described, too."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.setdefault("authorization", self._authorization)
        return request

    def own_ids(self, url: str) -> set[str]:
        """Of the key and of the identities that may do everything: another root key may be made, and this one be deleted then."""
        key = self._authorization.removeprefix("Bearer ").partition(".")[0]
        answer = requests.get(f"{url}/v1/identities", headers={"authorization": self._authorization}, timeout=20)
        identities = answer.json()["identities"] if answer.ok else []
        return {key, *(each["id"] for each in identities if each["is_root"])}


_auth: list[requests.auth.AuthBase] = []
_own: set[str] = set()
_statuses: Counter[int] = Counter()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Have this request carry what the credentials say, and spare those: ids that an answer named are asked for again."""
    if not _auth and CREDENTIALS_FILE.exists():
        _auth.append(_auth_of(json.loads(CREDENTIALS_FILE.read_text())))
        if isinstance(_auth[0], _Bearer):
            _own.update(_auth[0].own_ids(case.operation.base_url))
    if _auth:
        kwargs["auth"] = _auth[0]
    for name, value in (case.path_parameters or {}).items():
        if value in _own:
            case.path_parameters[name] = f"{value[:2]}{'0' * len(value[2:])}"


def _auth_of(credentials: dict[str, str]) -> requests.auth.AuthBase:
    if "authorization" in credentials:
        return _Bearer(credentials["authorization"])
    signature = _Signature(
        PeerAddress(credentials["id"], credentials["url"], Role(credentials["role"])),
        PeerKeys.parse(credentials["keys"]),
    )
    signature.learn_boot(credentials["url"] + "/v1/status")
    return signature


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Count its answer."""
    _statuses[response.status_code] += 1


@atexit.register
def write_statuses() -> None:
    """For the test to look at."""
    STATUSES_FILE.write_text(json.dumps(_statuses))
