"""Conditions in headers, at calls that take none."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.gateway.api.local_gateway import make_app

_UPLOAD = f"/v1/uploads/{1:016x}-{'0' * 32}"
_FILE = {"bucket": "default", "key": "a"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/batch-delete", {"bucket": "default", "files": [{"key": "a"}]}),
        ("PUT", "/v1/tags/default/a", {"tags": {}}),
        ("DELETE", "/v1/tags/default/a", None),
        ("PUT", "/v1/buckets/default/settings", {}),
        ("PATCH", "/v1/buckets/default/settings", {}),
        ("POST", "/v1/uploads", _FILE),
        ("PUT", f"{_UPLOAD}/parts/1", {}),
        ("POST", f"{_UPLOAD}/parts/1/copy", {"source": _FILE}),
        ("DELETE", _UPLOAD, None),
    ],
)
def test_a_condition_that_nothing_would_be_held_against_is_refused(serve_app, tmp_path, method, path, body) -> None:
    """A client that sends one counts on it: it is not left out."""
    app, _ = make_app(tmp_path)
    with httpx.Client(base_url=serve_app(app)) as client:
        for name, value in (("If-Match", '"x"'), ("If-None-Match", "*"), ("If-Unmodified-Since", "x")):
            answer = client.request(method, path, json=body, headers={name: value})
            assert (answer.status_code, answer.json()["header"]) == (400, name.lower()), answer.text
        if method == "PUT" and "/parts/" in path:
            answer = client.put(path, content=b"x", headers={"Content-Range": "bytes 0-0/1"})
            assert (answer.status_code, answer.json()["header"]) == (400, "Content-Range")
