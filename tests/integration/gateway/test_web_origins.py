"""The public port as a browser's pages meet it: Host, Origin, Sec-Fetch-Site, embedding and CORS."""

from __future__ import annotations

import httpx
import pytest

from local_cluster.cluster import Cluster
from services.gateway.main import build_app
from tests.credentials import bearer_line
from tests.integration.gateway.test_bad_input import send_raw, status
from tests.unit.gateway.conftest import make_settings

pytestmark = pytest.mark.cluster

APP = "https://app.example.org"


def send(cluster: Cluster, method: str, path: str, *fields: str, body: str = "") -> bytes:
    head = [f"{method} {path} HTTP/1.1", *fields, f"{bearer_line(cluster)}content-length: {len(body)}"]
    return send_raw(cluster.gateway_url, "\r\n".join([*head, "connection: close", "", body]).encode())


@pytest.fixture
def cors_url(serve_app) -> str:
    """A gateway without a cluster, whose operator let one origin in."""
    return str(serve_app(build_app(make_settings(cors_origins=APP))))


def test_a_foreign_host_is_421_for_every_method_and_changes_nothing(cluster, gateway, bucket) -> None:
    """DNS rebinding: the page's own name resolves to us, and the browser takes us for its origin."""
    foreign = "host: attacker.example:8080"
    for method, path in [
        ("GET", "/v1/buckets"),
        ("PUT", f"/v1/files/{bucket}/k"),
        ("DELETE", f"/v1/buckets/{bucket}"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/v1/buckets"),
    ]:
        answer = send(cluster, method, path, foreign)
        assert status(answer) == 421, (method, path)
        assert b'"code":"misdirected_request"' in answer
        assert b'"definite":true' in answer
        assert b"cache-control: no-cache" in answer or not path.startswith("/v1/")
    assert gateway.get(f"/v1/files/{bucket}").json()["files"] == []


def test_probes_may_name_anybody(cluster) -> None:
    """They send the pod's address, and learn one word."""
    for path in ("/healthz", "/readyz"):
        assert status(send(cluster, "GET", path, "host: 10.9.8.7:8080")) == 200


def test_loopback_names_are_ours_by_default(cluster) -> None:
    """With whatever port a forward or a proxy has."""
    for host in ("localhost", "localhost:1234", "127.0.0.1:1", "[::1]:8080"):
        assert status(send(cluster, "GET", "/v1/time", f"host: {host}")) == 200


def test_a_form_of_a_foreign_page_stores_nothing(cluster, gateway, bucket) -> None:
    """A browser sends it without asking; 403 by either of the headers that it adds."""
    body = '--b\r\nContent-Disposition: form-data; name="file"; filename="k"\r\n\r\nx\r\n--b--\r\n'
    form = ("host: 127.0.0.1:8080", "content-type: multipart/form-data; boundary=b")
    for mark in ("origin: https://attacker.example", "origin: null", "sec-fetch-site: cross-site"):
        answer = send(cluster, "POST", f"/v1/files/{bucket}", *form, mark, body=body)
        assert status(answer) == 403, mark
        assert b'"code":"foreign_origin"' in answer
    assert gateway.get(f"/v1/files/{bucket}").json()["files"] == []
    own = ("origin: http://127.0.0.1:8080", "sec-fetch-site: same-origin")
    assert status(send(cluster, "POST", f"/v1/files/{bucket}", *form, *own, body=body)) == 201


def test_a_large_upload_of_a_foreign_page_gets_its_refusal_whole(cluster, bucket) -> None:
    """As every early refusal: the connection ends after the answer, and is not reset before it."""
    answer = send(
        cluster,
        "PUT",
        f"/v1/files/{bucket}/k",
        "host: 127.0.0.1",
        "origin: https://attacker.example",
        body="x" * (10 << 20),
    )
    assert status(answer) == 403
    assert b"connection: close" in answer


def test_every_answer_says_that_no_foreign_page_may_embed_it(gateway, bucket) -> None:
    """Files, lists, problems and pages; and nobody may read it, while no origin is named."""
    gateway.put(f"/v1/files/{bucket}/k", content=b"x")
    for path in (
        f"/v1/files/{bucket}/k",
        f"/v1/files/{bucket}",
        "/v1/files/no-such-bucket/k",
        "/docs",
        "/openapi.json",
    ):
        answer = gateway.get(path, headers={"origin": APP})
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
        assert not [name for name in answer.headers if name.startswith("access-control-")], path
    preflight = {"origin": APP, "access-control-request-method": "PUT"}
    assert gateway.options(f"/v1/files/{bucket}/k", headers=preflight).status_code == 405


def test_a_preflight_of_a_named_origin_is_answered(cors_url) -> None:
    """204 with what may be sent; user metadata by its prefix, and no header that is not ours to take."""
    asked = "content-type, X-Trivet-Meta-Place, idempotency-key, x-evil"
    answer = httpx.options(
        f"{cors_url}/v1/files/default/k",
        headers={"origin": APP, "access-control-request-method": "PUT", "access-control-request-headers": asked},
        trust_env=False,
        timeout=30,
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert "PUT" in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == "content-type, x-trivet-meta-place, idempotency-key"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in answer.headers
    assert {"Origin", "Access-Control-Request-Headers"} <= set(", ".join(answer.headers.get_list("vary")).split(", "))


def test_a_preflight_of_another_origin_is_refused(cors_url) -> None:
    """403, and no header that a browser would take for leave."""
    for origin in ("https://attacker.example", "http://app.example.org", "null"):
        asked = {"origin": origin, "access-control-request-method": "PUT"}
        answer = httpx.options(f"{cors_url}/v1/files/default/k", headers=asked, trust_env=False, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin"


def test_answers_can_be_read_by_the_named_origin_alone(cors_url) -> None:
    """Problems included: this gateway has no cluster, and a page must be told. Caches must keep the answers apart."""
    read = httpx.get(f"{cors_url}/v1/time", headers={"origin": APP}, trust_env=False, timeout=30)
    assert read.headers["access-control-allow-origin"] == APP
    assert read.headers["access-control-expose-headers"] == "*"
    change = httpx.put(
        f"{cors_url}/v1/buckets/Bad",
        headers={"origin": APP, "sec-fetch-site": "cross-site"},
        trust_env=False,
        timeout=30,
    )
    assert change.status_code not in {403, 421}
    assert change.headers["access-control-allow-origin"] == APP
    for headers in ({"origin": "https://attacker.example"}, {}):
        other = httpx.get(f"{cors_url}/v1/time", headers=headers, trust_env=False, timeout=30)
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "Origin"
