"""What answers say of themselves in headers: which request it was, and of an error its code."""

from __future__ import annotations

import httpx
import pytest

from tests.unit.gateway.api.local_gateway import make_app

_REQUEST_ID = "x-trivet-request-id"
_CODE = "x-trivet-error-code"


@pytest.mark.parametrize("has_fast_path", [True, False], ids=["fast path", "routes"])
def test_every_answer_names_its_request(serve_app, tmp_path, has_fast_path) -> None:
    """Whether it is of the fast path, a route, the door or a defect; each another one."""
    app, gateway = make_app(tmp_path, has_fast_path=has_fast_path)
    with httpx.Client(base_url=serve_app(app)) as client:
        answers = [
            client.put("/v1/files/default/a", content=b"x"),
            client.get("/v1/files/default/a"),
            client.get("/v1/files/default/a", headers={"range": "bytes=9-"}),
            client.get("/v1/files/default"),
            client.get("/v1/buckets"),
            client.get("/v1/nothing"),
            client.get("/v1/time", headers={"authorization": "Bearer nobody"}),
            client.patch("/v1/files/default/a"),
        ]
        gateway.metadata.read = None  # type: ignore[method-assign] # so that whatever asks the log is a defect
        answers.append(client.get("/v1/buckets"))
    statuses = [answer.status_code for answer in answers]
    assert statuses == [201, 200, 416, 200, 200, 404, 401, 405, 500], [answer.text for answer in answers]
    assert len({answer.headers[_REQUEST_ID] for answer in answers}) == len(answers)
    assert [answer.headers.get(_CODE) for answer in answers] == [
        answer.json()["code"] if answer.is_error else None for answer in answers
    ]


@pytest.mark.parametrize("has_fast_path", [True, False], ids=["fast path", "routes"])
def test_an_answer_to_head_says_in_a_header_what_is_wrong(serve_app, tmp_path, has_fast_path) -> None:
    """It has no document that could."""
    app, _ = make_app(tmp_path, has_fast_path=has_fast_path)
    with httpx.Client(base_url=serve_app(app)) as client:
        codes = [
            client.head(target).headers[_CODE]
            for target in ("/v1/files/default/a", "/v1/files/nowhere/a", "/v1/files/default/a?b", "/v1/nothing")
        ]
    assert codes == ["file_not_found", "bucket_not_found", "invalid_request", "not_found"]


def test_the_operations_listener_marks_its_answers_too(serve_app, tmp_path) -> None:
    """They are asked for by people who look for what went wrong."""
    app, _ = make_app(tmp_path)
    serve_app(app)
    assert app.operations is not None
    with httpx.Client(base_url=serve_app(app.operations)) as client:
        refused = client.get("/v1/identities", headers={"authorization": "Bearer nobody"})
    assert (refused.status_code, refused.headers[_CODE]) == (401, refused.json()["code"])
    assert refused.headers[_REQUEST_ID]
