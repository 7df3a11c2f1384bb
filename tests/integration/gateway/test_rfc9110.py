"""Ranges and conditions of reads, every combination of them, over a real gateway (RFC 9110 sections 13.2.2, 14 and 15.3.7)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import httpx
import pytest

from shared.units import MIB

pytestmark = pytest.mark.cluster

EARLIER, LATER = "Sat, 01 Jan 2000 00:00:00 GMT", "Tue, 01 Jan 2030 00:00:00 GMT"

# What a header says, by what it means for a file of which the current tag is {etag}.
RANGES = {"absent": None, "one": "bytes=2-5", "several": "bytes=0-0,-2", "behind": "bytes=999-", "broken": "bytes=5-2"}
IF_MATCH = {"absent": None, "holds": '"x", "{etag}"', "fails": '"x"', "weak": 'W/"{etag}"'}
IF_NONE_MATCH = {"absent": None, "any": "*", "same": 'W/"{etag}"', "other": '"x"'}
IF_MODIFIED_SINCE = {"absent": None, "earlier": EARLIER, "later": LATER}
IF_RANGE = {"absent": None, "same": '"{etag}"', "weak": 'W/"{etag}"', "date": LATER}


def expected_status(wanted: str, match: str, none_match: str, since: str, if_range: str) -> int:
    """The steps of section 13.2.2, in their order."""
    if match in {"fails", "weak"}:
        return 412
    if none_match in {"any", "same"}:
        return 304
    if none_match == "absent" and since == "later":
        return 304
    if wanted in {"absent", "broken"} or if_range in {"weak", "date"}:
        return 200
    return 416 if wanted == "behind" else 206


def test_b15_every_combination_of_conditions_and_ranges_ends_as_the_rfc_says(gateway, bucket) -> None:
    """960 requests: the status of each, and the bytes of those that carry some."""
    body = b"0123456789"
    url = f"/v1/files/{bucket}/k"
    etag = gateway.put(url, content=body, headers={"content-type": "text/plain"}).json()["etag"]
    tables = {
        "range": RANGES,
        "if-match": IF_MATCH,
        "if-none-match": IF_NONE_MATCH,
        "if-modified-since": IF_MODIFIED_SINCE,
        "if-range": IF_RANGE,
    }
    for meanings in itertools.product(*tables.values()):
        values = {name: tables[name][meaning] for name, meaning in zip(tables, meanings, strict=True)}
        headers = {name: value.replace("{etag}", etag) for name, value in values.items() if value is not None}
        answer = gateway.get(url, headers=headers)
        assert answer.status_code == expected_status(*meanings), (headers, answer.text)
        if answer.status_code == 200:
            assert answer.content == body, headers
        elif answer.status_code == 206 and meanings[0] == "one":
            assert (answer.content, answer.headers["content-range"]) == (b"2345", "bytes 2-5/10"), headers
        elif answer.status_code == 416:
            assert answer.headers["content-range"] == "bytes */10", headers
        elif answer.status_code == 304:
            assert answer.headers["etag"] == f'"{etag}"', headers
            assert not answer.content, headers


def parts_of(answer: httpx.Response) -> Iterator[tuple[dict[str, str], bytes]]:
    """The parts of a multipart answer, cut by hand: a parser of mail would change line ends in binary data."""
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    delimiter = b"\r\n--" + boundary.encode()
    pieces = (b"\r\n" + answer.content).split(delimiter)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    for piece in pieces[1:-1]:
        head, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        yield dict(line.split(": ", 1) for line in head.decode().split("\r\n")), content


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-9, 2000000-2000009,-1", [(0, 10), (2_000_000, 2_000_010), (2 * MIB + 2, 2 * MIB + 3)]),
        ("bytes=1048570-1048580,1048576-1048576", [(MIB - 6, MIB + 5), (MIB, MIB + 1)]),
        ("bytes=1500000-,0-1000000", [(1_500_000, 2 * MIB + 3), (0, 1_000_001)]),
        ("bytes=0-0,9999999-", [(0, 1)]),
    ],
    ids=["apart", "over the edge of a chunk", "backwards and long", "only one exists"],
)
def test_several_ranges_come_in_the_order_asked_for(gateway, bucket, seed, value, spans) -> None:
    """Each with its type and place; one that is left alone comes as a plain 206."""
    body = random.Random(seed).randbytes(2 * MIB + 3)
    url = f"/v1/files/{bucket}/k"
    gateway.put(url, content=body, headers={"content-type": "image/x-test"})
    answer = gateway.get(url, headers={"range": value})
    assert answer.status_code == 206
    assert answer.headers["content-length"] == str(len(answer.content))
    places = [f"bytes {start}-{stop - 1}/{len(body)}" for start, stop in spans]
    if len(spans) == 1:
        assert (answer.headers["content-range"], answer.headers["content-type"]) == (places[0], "image/x-test")
        assert answer.content == body[slice(*spans[0])]
        return
    assert "content-range" not in answer.headers
    found = list(parts_of(answer))
    assert [headers["content-range"] for headers, _ in found] == places
    assert {headers["content-type"] for headers, _ in found} == {"image/x-test"}
    assert [content for _, content in found] == [body[start:stop] for start, stop in spans]


@pytest.mark.parametrize("value", ["bytes=" + ",".join(f"{n}-{n}" for n in range(17)), "bytes=0-,0-", "bytes=100-"])
def test_absurd_ranges_are_416(gateway, bucket, value) -> None:
    """Too many, more bytes than the file, or none that exists: a typed problem with the size."""
    url = f"/v1/files/{bucket}/k"
    gateway.put(url, content=b"x" * 100)
    answer = gateway.get(url, headers={"range": value})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */100"


def test_head_knows_no_ranges(gateway, bucket) -> None:
    """Range is defined for GET alone (section 14.2)."""
    url = f"/v1/files/{bucket}/k"
    gateway.put(url, content=b"0123456789")
    answer = gateway.head(url, headers={"range": "bytes=0-1"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, "10")
