"""Every path under every method, and paths written in other ways than they are documented."""

from __future__ import annotations

import httpx
import pytest

from tests.credentials import bearer_line
from tests.integration.gateway.test_bad_input import send_raw, status

pytestmark = pytest.mark.cluster

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
OTHERS = {"/docs": {"get"}, "/redoc": {"get"}, "/openapi.json": {"get"}}
NAMES = {"{bucket}": "default", "{key}": "no-such-key", "{node_id}": "storage-99"}


def described_paths(gateway: httpx.Client) -> dict[str, set[str]]:
    described = gateway.get("/openapi.json").json()["paths"]
    paths = {path: set(operations) for path, operations in described.items()} | OTHERS
    for name, value in NAMES.items():
        paths = {path.replace(name, value): methods for path, methods in paths.items()}
    return {path: {method.upper() for method in methods} for path, methods in paths.items()}


def test_a_method_that_does_not_fit_is_405_and_allow_names_all_that_do(gateway) -> None:
    """Whichever route of a path comes first (RFC 9110 section 15.5.6)."""
    for path, methods in described_paths(gateway).items():
        allowed = methods | {"HEAD"} if "GET" in methods else methods
        for method in METHODS:
            if method in allowed:
                continue
            answer = gateway.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert answer.headers["allow"] == ", ".join(sorted(allowed)), (method, path)
            assert method == "HEAD" or answer.json()["code"] == "method_not_allowed"


def test_head_answers_wherever_get_does(gateway) -> None:
    """The same status and type, and no body (RFC 9110 section 9.3.2)."""
    for path, methods in described_paths(gateway).items():
        if "GET" in methods:
            read, head = gateway.get(path), gateway.head(path)
            assert (head.status_code, head.content) == (read.status_code, b""), path
            assert head.headers["content-type"] == read.headers["content-type"], path
    favicon = gateway.head("/docs-assets/favicon.png")
    assert (favicon.status_code, favicon.content) == (200, b"")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v1/%63luster", 404),
        ("/%76%31/time", 404),
        ("/v1%2Ftime", 404),
        ("/v1/time%2F", 404),
        ("/v1/time/", 404),
        ("//v1/time", 404),
        ("/v1//time", 404),
        ("/v1/./time", 404),
        ("/v1/files/../time", 400),
        ("/v1/files%2Fdefault/k", 404),
        ("/v1/%66iles/default/k", 404),
        ("/V1/time", 404),
        ("/docs-assets/..%2F..%2Fetc%2Fpasswd", 404),
        ("/docs-assets/../v1/time", 404),
        ("/v1/time?", 200),
        ("/v1/time?x", 400),
        ("/v1/cluster?x=1", 400),
        ("/v1/buckets?x=1", 400),
        ("/v1/files/default?limit=1&limit=2", 400),
        ("/v1/files/default?limit=0", 400),
        ("/v1/files/default?limit=1001", 400),
        ("/v1/files/default?limit=%31", 200),
        ("/v1/files/default?delimiter=", 400),
        ("/v1/files/default?prefix=%FF", 400),
        ("/v1/files/default?cursor=AAAA", 400),
        ("/v1/files/default/", 400),
        ("/v1/files/default/no-such-key?", 400),
        ("/v1/files/default/no-such-key??", 400),
        ("/v1/files/default/no-such-key%3F", 404),
        ("/v1/files/default%2Fno-such-key", 404),
        ("/v1/files/%64efault/no-such-key", 404),
        ("http://elsewhere/v1/time", 200),
    ],
)
def test_a_path_is_taken_as_it_is_written(cluster, gateway, target, expected) -> None:
    """What a proxy sees is what is served; only names are decoded, once."""
    fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}connection: close"
    answer = send_raw(cluster.gateway_url, f"GET {target} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
    assert status(answer) == expected, answer
    if expected >= 400:
        assert b"application/problem+json" in answer


def test_admin_calls_cannot_be_reached_by_another_spelling(cluster, gateway) -> None:
    """A proxy that guards the documented path guards it."""
    for target in (
        "/v1/%63luster/nodes/storage-98",
        "/v1/cluster%2Fnodes/storage-98",
        "/v1/cluster/nodes%2Fstorage-98",
    ):
        request = f"DELETE {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n{bearer_line(cluster)}connection: close\r\n\r\n"
        answer = send_raw(cluster.operations_url("gateway-1"), request.encode())
        assert status(answer) == 404, answer
        assert b'"not_found"' in answer


def test_a_question_mark_that_ends_a_key_stores_nothing(cluster, gateway, bucket) -> None:
    """`really?` would be stored as `really`; every method of a file refuses an empty query."""
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        fields = f"host: 127.0.0.1\r\n{bearer_line(cluster)}connection: close"
        head = f"{method} /v1/files/{bucket}/really? HTTP/1.1\r\n{fields}\r\n\r\n"
        assert status(send_raw(cluster.gateway_url, head.encode())) == 400, method
    assert gateway.get(f"/v1/files/{bucket}").json()["files"] == []
