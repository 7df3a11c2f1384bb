"""A download goes on where it broke, and gives no wrong bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from blake3 import blake3

from tests.chance import random_bytes
from tests.unit.client.scripted import ScriptedAnswer, ScriptedTransport, caller_over, problem
from trivet import errors
from trivet.caller import Request
from trivet.download import AsyncDownload

_BROKEN = errors.BrokenDownload("cut")
_LARGE_BYTES = 3 << 20


def _whole_headers(data: bytes, digest: str | None = None) -> dict[str, str]:
    return {"Content-Length": str(len(data)), "ETag": '"one"', "X-Trivet-Digest": digest or blake3(data).hexdigest()}


def _rest_of(data: bytes, *, cut: int | None = None):
    """Answers a range, at most `cut` bytes of it before it breaks."""

    def respond(_method: str, _target: str, headers: Mapping[str, str], _body: bytes | None) -> ScriptedAnswer:
        start, end = headers["Range"].removeprefix("bytes=").split("-")
        piece = data[int(start) : int(end) + 1]
        said = {"Content-Range": f"bytes {start}-{end}/{len(data)}", "ETag": '"one"'}
        return ScriptedAnswer(206, [piece] if cut is None else [piece[:cut], _BROKEN], said)

    return respond


async def _download(transport: ScriptedTransport, headers: Mapping[str, str] | None = None) -> AsyncDownload:
    caller = caller_over(transport)
    request = Request("GET", "/v1/files/photos/cat", headers or {})
    return AsyncDownload(caller, request, await caller.open(request), "photos", "cat")


@pytest.mark.parametrize("size_bytes", [100, _LARGE_BYTES])
async def test_a_broken_download_goes_on_where_it_was(size_bytes) -> None:
    """With a range of the same version, several times over; the digest is that of everything."""
    data = random_bytes(size_bytes)
    first = ScriptedAnswer(200, [data[:30], _BROKEN], _whole_headers(data))
    transport = ScriptedTransport(first, _rest_of(data, cut=20), _rest_of(data))

    assert await (await _download(transport)).read() == data

    # A small body is tried as a whole, and then again by chunks.
    ranges = [(headers["Range"], headers["If-Match"]) for _, _, headers, _ in transport.requests[1:]]
    end = size_bytes - 1
    assert ranges == [(f"bytes=30-{end}", '"one"'), (f"bytes=50-{end}", '"one"')]


async def test_a_file_that_was_replaced_meanwhile_is_not_mixed() -> None:
    """The error says so."""
    data = random_bytes(_LARGE_BYTES)
    transport = ScriptedTransport(
        ScriptedAnswer(200, [data[:30], _BROKEN], _whole_headers(data)), problem(412, "precondition_failed")
    )
    with pytest.raises(errors.BrokenDownload, match="replaced"):
        await (await _download(transport)).read()


async def test_a_download_that_breaks_again_and_again_is_given_up() -> None:
    """After as many attempts without a byte as the policy says."""
    data = random_bytes(_LARGE_BYTES)
    transport = ScriptedTransport(
        ScriptedAnswer(200, [data[:30], _BROKEN], _whole_headers(data)), _rest_of(data, cut=0)
    )
    with pytest.raises(errors.BrokenDownload, match="byte 30"):
        await (await _download(transport)).read()
    assert len(transport.requests) < 10


async def test_an_answer_that_ends_early_without_an_error_is_broken_too() -> None:
    """As by a proxy that closes cleanly."""
    data = random_bytes(_LARGE_BYTES)
    transport = ScriptedTransport(ScriptedAnswer(200, data[:100], _whole_headers(data)), _rest_of(data))
    assert await (await _download(transport)).read() == data


@pytest.mark.parametrize("size_bytes", [100, _LARGE_BYTES])
async def test_bytes_of_another_digest_are_an_error(size_bytes) -> None:
    """Whichever way they are read."""
    data = random_bytes(size_bytes)
    answer = ScriptedAnswer(200, data, _whole_headers(data, "0" * 64))
    with pytest.raises(errors.DigestMismatch):
        await (await _download(ScriptedTransport(answer))).read()


async def test_a_range_is_not_compared_with_the_digest_of_the_whole() -> None:
    """And knows where it begins and ends."""
    data = random_bytes(1000)
    said = {"Content-Range": "bytes 10-19/1000", "ETag": '"one"', "X-Trivet-Digest": blake3(data).hexdigest()}
    download = await _download(ScriptedTransport(ScriptedAnswer(206, data[10:20], said)), {"Range": "bytes=10-19"})
    assert (download.start, download.end, download.info.size_bytes) == (10, 20, 1000)
    assert await download.read() == data[10:20]


_ONE = {"ETag": '"one"'}


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"Range": "bytes=10-19"}, 200, {"Content-Length": "1000"}),
        ({"Range": "bytes=-10"}, 200, {"Content-Length": "1000"}),
        ({"Range": "bytes=10-"}, 206, {"Content-Range": "bytes 0-999/1000"}),
        ({"Range": "bytes=10-19"}, 206, {"Content-Range": "bytes 10-20/1000"}),
        ({"Range": "bytes=10-19"}, 206, {"Content-Type": "multipart/byteranges"}),
        ({}, 206, {"Content-Range": "bytes 0-9/1000"}),
        ({"Range": "bytes=0-9", "If-Match": '"two"'}, 206, {"Content-Range": "bytes 0-9/1000"}),
    ],
)
async def test_bytes_that_were_not_asked_for_are_an_error(asked, status, said) -> None:
    """As of a cache that knows no ranges, or mixes versions up."""
    with pytest.raises(errors.BrokenDownload, match="on the way"):
        await _download(ScriptedTransport(ScriptedAnswer(status, b"", _ONE | said)), asked)


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=0-9", "bytes=0-5000", "bytes=-10", "bytes=-11"])
async def test_a_range_of_everything_may_be_answered_by_everything(wanted) -> None:
    """Which is what was asked for."""
    for answer in (
        ScriptedAnswer(200, b"0123456789", _ONE | {"Content-Length": "10"}),
        ScriptedAnswer(206, b"0123456789", _ONE | {"Content-Range": "bytes 0-9/10"}),
    ):
        assert await (await _download(ScriptedTransport(answer), {"Range": wanted})).read() == b"0123456789"


@pytest.mark.parametrize("etag", ['"one"', '"two"'])
async def test_a_download_does_not_go_on_with_other_bytes(etag) -> None:
    """A cache that gives everything again, from its start, or another version, ends it."""
    data = random_bytes(_LARGE_BYTES)
    end = _LARGE_BYTES - 1
    second = (
        ScriptedAnswer(200, data, _whole_headers(data))
        if etag == '"one"'
        else ScriptedAnswer(206, data[30:], {"Content-Range": f"bytes 30-{end}/{_LARGE_BYTES}", "ETag": etag})
    )
    transport = ScriptedTransport(ScriptedAnswer(200, [data[:30], _BROKEN], _whole_headers(data)), second)
    with pytest.raises(errors.BrokenDownload, match="on the way"):
        await (await _download(transport)).read()
    assert len(transport.requests) == 2


async def test_a_body_that_is_longer_than_announced_ends_the_download() -> None:
    """At its announced end, not at that of the disk."""
    data = random_bytes(_LARGE_BYTES)
    taken = 0

    class Endless(ScriptedAnswer):
        async def chunks(self):
            nonlocal taken
            while taken < 100:
                taken += 1
                yield data

    transport = ScriptedTransport(Endless(200, b"", _whole_headers(data)))
    with pytest.raises(errors.BrokenDownload, match="more bytes"):
        async for _ in await _download(transport):
            pass
    assert (taken, len(transport.requests)) == (2, 1)
