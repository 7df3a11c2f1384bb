"""One call: its attempts, its deadline, what it raises."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.simulation.virtual_loop import VirtualLoop
from tests.unit.client.scripted import AT_ONCE, ScriptedAnswer, ScriptedTransport, caller_over, problem
from trivet import caller as caller_module
from trivet import errors
from trivet.bodies import BytesBody, StreamBody
from trivet.bucket_calls import BucketCalls
from trivet.caller import Request, decoded, whole
from trivet.calls import pages_of
from trivet.config import Endpoint
from trivet.file_calls import FileCalls
from trivet.headers import file_info, retry_after_s
from trivet.models import TimeNow
from trivet.retry import RetryPolicy
from trivet.transport import Answer

_LOST = errors.ConnectionFailed("lost", definite=False)


async def test_a_call_is_repeated_until_it_is_answered() -> None:
    """Through a lost connection, a broken answer and an overloaded gateway; each answer is released."""
    broken = ScriptedAnswer(200, [b"o", errors.BrokenDownload("cut")])
    overloaded = problem(503, "overloaded")
    transport = ScriptedTransport(_LOST, broken, overloaded, ScriptedAnswer(200, b"ok"))

    assert await caller_over(transport).call(Request("GET", "/x"), whole) == b"ok"

    assert len(transport.requests) == 4
    assert broken.releases == overloaded.releases == 1


async def test_a_repeat_sends_the_same_key_and_the_same_body() -> None:
    """So that the change happens once."""
    transport = ScriptedTransport(_LOST, problem(503, "outcome_unknown", definite=False), ScriptedAnswer(200, b""))
    request = Request("PUT", "/x", {"Idempotency-Key": "k"}, BytesBody(b"data"))

    await caller_over(transport).call(request, whole)

    assert transport.requests == [("PUT", "/x", {"Idempotency-Key": "k"}, b"data")] * 3


async def test_a_stream_is_sent_once() -> None:
    """What was taken of it cannot be taken again."""
    transport = ScriptedTransport(_LOST)
    with pytest.raises(errors.ConnectionFailed):
        await caller_over(transport).call(Request("PUT", "/x", {}, StreamBody(iter([b"data"]))), whole)
    assert len(transport.requests) == 1


async def test_what_may_have_happened_is_not_repeated_without_a_key() -> None:
    """One attempt, and the error says so."""
    transport = ScriptedTransport(problem(503, "outcome_unknown", definite=False))
    with pytest.raises(errors.Unavailable) as caught:
        await caller_over(transport).call(Request("POST", "/x", is_repeatable=False), whole)
    assert (len(transport.requests), caught.value.definite) == (1, False)


async def test_the_last_error_is_raised_when_attempts_are_used_up() -> None:
    """As many as the policy says, or the request."""
    transport = ScriptedTransport(_LOST)
    with pytest.raises(errors.ConnectionFailed):
        await caller_over(transport).call(Request("GET", "/x"), whole)
    assert len(transport.requests) == AT_ONCE.attempts
    with pytest.raises(errors.ConnectionFailed):
        await caller_over(transport).call(Request("GET", "/x", attempts=1), whole)
    assert len(transport.requests) == AT_ONCE.attempts + 1


async def test_a_call_without_an_answer_ends_at_its_deadline() -> None:
    """With an error of ours, which is not definite."""

    class Silent(ScriptedTransport):
        async def send(self, *_):
            await asyncio.Event().wait()

    with pytest.raises(errors.ConnectionFailed, match=r"within 0\.02 s") as caught:
        await caller_over(Silent(_LOST), timeout_s=0.02).call(Request("GET", "/x"), whole)
    assert not caught.value.definite


async def test_pauses_do_not_go_past_the_deadline() -> None:
    """A Retry-After that is too far away is not waited for."""
    late = ScriptedAnswer(503, b"", {"Retry-After": "3600"})
    with pytest.raises(errors.Unavailable):
        await caller_over(ScriptedTransport(late)).call(Request("GET", "/x"), whole)


def test_the_deadline_moves_on_with_the_body() -> None:
    """An upload may take as long as it moves."""

    async def pieces():
        for number in range(10):
            await asyncio.sleep(4)  # each within the deadline, all of them far beyond it
            yield b"%d" % number

    class Slow(ScriptedTransport):
        async def send(self, method, target, headers, body, limit):
            async for _ in body.pieces():
                limit.progressed()
            return ScriptedAnswer(200, b"all")

    from trivet.bodies import AsyncStreamBody

    request = Request("PUT", "/x", {}, AsyncStreamBody(pieces()))

    async def send() -> bytes:
        return await caller_over(Slow(_LOST), timeout_s=5).call(request, whole)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(send()) == b"all"


async def test_a_stranger_s_answer_is_one_of_our_errors() -> None:
    """Of something that is no gateway at that address."""
    caller = caller_over(ScriptedTransport(ScriptedAnswer(200, b"<html>Welcome</html>")))
    with pytest.raises(errors.ProblemError, match="address"):
        await caller.model(TimeNow, "GET", "/v1/time")
    caller = caller_over(ScriptedTransport(ScriptedAnswer(301, b"", {"Location": "https://elsewhere"})))
    with pytest.raises(errors.ServerError):
        await caller.model(TimeNow, "GET", "/v1/time")


async def test_a_head_is_told_what_is_wrong_in_one_request() -> None:
    """Its answer has no body: the code stands in a header. A read that failed has changed nothing."""
    said = {"Content-Type": "application/problem+json", "X-Trivet-Error-Code": "file_not_found"}
    transport = ScriptedTransport(ScriptedAnswer(404, b"", said | {"X-Trivet-Request-Id": "8a1f-2c"}))
    files = FileCalls(Endpoint("http://store.test", None, None), caller_over(transport))
    with pytest.raises(errors.FileNotFound) as caught:
        await files.head("photos", "a b", version=7)
    assert [request[0] for request in transport.requests] == ["HEAD"]
    assert (caught.value.code, caught.value.problem["instance"]) == ("file_not_found", "/v1/files/photos/a%20b")
    assert caught.value.problem["request_id"] == "8a1f-2c"
    transport = ScriptedTransport(ScriptedAnswer(503, b"", {"X-Trivet-Error-Code": "quorum_not_reached"}))
    with pytest.raises(errors.Unavailable, match="quorum_not_reached") as caught:
        await caller_over(transport).call(Request("HEAD", "/x", attempts=1), whole)
    assert caught.value.definite


async def test_an_error_names_its_request() -> None:
    """Beside what the document says; an answer of something in between has no document, and may have no name."""
    answer = problem(503, "overloaded")
    answer.headers = httpx.Headers({**answer.headers, "X-Trivet-Request-Id": "8a1f-2d"})
    for said, expected in ((answer, "8a1f-2d"), (ScriptedAnswer(502, b"<html>"), None)):
        with pytest.raises(errors.Unavailable) as caught:
            await caller_over(ScriptedTransport(said)).call(Request("GET", "/x", attempts=1), whole)
        assert caught.value.problem.get("request_id") == expected


async def test_settings_are_changed_in_one_request() -> None:
    """Which names what is to change: what somebody else changes at that moment is not written over."""
    answered = {"bucket": "photos", "log_index": 7, "quota_bytes": 9}
    transport = ScriptedTransport(ScriptedAnswer(200, json.dumps(answered).encode()))
    buckets = BucketCalls(Endpoint("http://store.test", None, None), caller_over(transport))
    assert (await buckets.set_bucket_settings("photos", quota_bytes=9, quota_files=None)).quota_bytes == 9
    [(method, target, _, body)] = transport.requests
    assert (method, target) == ("PATCH", "/v1/buckets/photos/settings")
    assert json.loads(body or b"") == {"quota_bytes": 9, "quota_files": None}


async def test_a_long_wait_for_the_store_is_said_once(monkeypatch, caplog) -> None:
    """However many calls wait; once more after the store was well meanwhile."""
    refused = errors.ConnectionFailed("http://store.test cannot be reached: refused. Is it running?", definite=True)
    script = [refused, refused, ScriptedAnswer(200, b"ok"), problem(503, "overloaded"), ScriptedAnswer(200, b"ok")]
    caller = caller_over(ScriptedTransport(*script))
    monkeypatch.setattr(caller_module, "SILENCE_S", 0.0)
    for _ in range(2):
        await caller.call(Request("GET", "/x"), whole)
    assert caplog.messages == [
        "http://store.test cannot be reached: refused; trying again.",
        "http://store.test: So it is; trying again.",
    ]


async def test_a_short_wait_for_the_store_is_not_said(caplog) -> None:
    """Most are over before anybody wonders."""
    await caller_over(ScriptedTransport(_LOST, _LOST, ScriptedAnswer(200, b"ok"))).call(Request("GET", "/x"), whole)
    assert not caplog.messages


async def test_a_cancelled_call_ends_at_once() -> None:
    """And is not taken for a deadline."""

    class Silent(ScriptedTransport):
        async def send(self, *_):
            await asyncio.Event().wait()

    call = asyncio.ensure_future(caller_over(Silent(_LOST)).call(Request("GET", "/x"), whole))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_pauses_are_drawn_anew() -> None:
    """Two clients do not come back together."""
    caller = caller_over(ScriptedTransport(_LOST), retry=RetryPolicy())
    assert len({caller.pause_s(5, _LOST) for _ in itertools.repeat(None, 10)}) > 1


@pytest.mark.parametrize(("status", "most_bytes"), [(200, "ANSWER_BYTES_MAX"), (400, "PROBLEM_BYTES_MAX")])
async def test_an_answer_without_an_end_is_not_kept(monkeypatch, status, most_bytes) -> None:
    """Reading stops where no answer of the store is as long."""
    monkeypatch.setattr(caller_module, most_bytes, 1000)
    read = []
    answer = ScriptedAnswer(status, b"", {"Content-Type": "application/json"})

    async def endless(bytes_max: int) -> bytes:
        read.append(bytes_max)
        return bytes(bytes_max + 1)

    answer.read = endless  # type: ignore[method-assign]
    with pytest.raises(errors.ProblemError) as caught:
        await caller_over(ScriptedTransport(answer)).model(TimeNow, "GET", "/v1/time")
    assert read == [1000]
    assert caught.value.code == ("answer_invalid" if status == 200 else "http_400")


@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_that_is_nested_too_deep_is_one_of_our_errors(status) -> None:
    """Not a RecursionError."""
    answer = ScriptedAnswer(status, b"[" * 100_000 + b"]" * 100_000, {"Content-Type": "application/json"})
    with pytest.raises(errors.ProblemError):
        await caller_over(ScriptedTransport(answer)).call(Request("GET", "/x"), _as_any)


async def test_a_list_whose_cursor_comes_again_ends() -> None:
    """Else it never would."""
    cursors = iter(["one", "two", "one", "two"])

    class Page:
        def __init__(self, cursor: str | None) -> None:
            self.cursor = cursor

    async def read(_cursor: str | None) -> Page:
        return Page(next(cursors))

    with pytest.raises(errors.ProblemError, match="came again"):
        async for _ in pages_of(read):
            pass


@pytest.mark.parametrize(
    "said",
    [
        {"X-Trivet-Version": "abc"},
        {"X-Trivet-Version-Id": "9" * 5000},
        {"X-Trivet-Modified": "never"},
        {"Last-Modified": "never"},
        {"Content-Length": "long"},
    ],
)
def test_headers_that_no_store_sends_are_one_of_our_errors(said) -> None:
    """Not a ValueError."""
    with pytest.raises(errors.ProblemError, match="address"):
        file_info("b", "k", httpx.Headers(said))


def test_dates_without_a_zone_are_of_utc() -> None:
    """`-0000` is one that Python takes for none."""
    date = "Wed, 21 Oct 2035 07:28:00 -0000"
    now = datetime(2035, 10, 21, 7, 27, tzinfo=UTC)
    assert retry_after_s(date, now) == 60.0
    assert file_info("b", "k", httpx.Headers({"Last-Modified": date})).modified == now + timedelta(minutes=1)


async def _as_any(answer: Answer) -> object:
    return decoded(list[Any], await whole(answer))
