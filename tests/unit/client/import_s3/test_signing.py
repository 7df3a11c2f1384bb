"""What a client signs is what botocore signs for the same request."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trivet.import_s3.signing import ClientRequest, Signer

SIGNER = Signer("TV" + "A" * 18, "s" * 40, "us-east-1", "127.0.0.1:9000")
NOW = datetime(2026, 11, 29, 12, 30, 5, tzinfo=UTC)
REQUESTS = [
    ClientRequest("GET", "/"),
    ClientRequest("GET", "/bucket", [("versions", ""), ("prefix", "a b+c/ü=&"), ("max-keys", "5")]),
    ClientRequest(
        "PUT", "/bucket/a//b/../c d+e=%ü~", [("partNumber", "1")], {"x-amz-meta-a": "b  c", "content-length": "3"}
    ),
    ClientRequest("DELETE", "/bucket/key", [("versionId", "null")]),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.path)
def test_headers_are_signed_as_botocore_does(request_, monkeypatch) -> None:
    """The same signature over the same headers."""
    ours = SIGNER.headers(request_, "UNSIGNED-PAYLOAD", NOW)
    theirs = AWSRequest(
        request_.method,
        f"http://{SIGNER.host}{request_.target}",
        headers={name: value for name, value in ours.items() if name not in {"authorization", "x-amz-date", "host"}},
    )
    theirs.context["timestamp"] = ours["x-amz-date"]
    signer = S3SigV4Auth(Credentials(SIGNER.key, SIGNER.secret), "s3", SIGNER.region)
    theirs.headers["X-Amz-Date"] = ours["x-amz-date"]
    names = ours["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    monkeypatch.setattr(
        signer, "headers_to_sign", lambda request: _only(names, {**request.headers, "host": SIGNER.host})
    )
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert ours["authorization"].endswith(f"Signature={signer.signature(text, theirs)}")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.path)
def test_links_are_signed_as_botocore_does(request_) -> None:
    """The same signature in the query."""
    link = ClientRequest(request_.method, request_.path, request_.query)
    ours = dict(parse_qsl(urlsplit(SIGNER.presigned(link, 60, NOW)).query, keep_blank_values=True))
    theirs = AWSRequest(link.method, f"http://{SIGNER.host}{link.target}")
    signer = S3SigV4QueryAuth(Credentials(SIGNER.key, SIGNER.secret), "s3", SIGNER.region, expires=60)
    theirs.context["timestamp"] = ours["X-Amz-Date"]
    signer._modify_request_before_signing(theirs)
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    assert signer.signature(text, theirs) == ours["X-Amz-Signature"]


def _only(names, headers):
    from http.client import HTTPMessage

    kept = HTTPMessage()
    lower = {name.lower(): value for name, value in headers.items()}
    for name in names:
        kept[name] = lower[name]
    return kept
