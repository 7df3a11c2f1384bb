"""Proves to the person at the terminal that the cluster works: a real file in, and the same bytes out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from local_cluster.errors import LocalClusterError

FIRST_KEY: Final = "hello-from-trivet.txt"
FIRST_TEXT: Final = b"""Hello. This is the first file of your Trivet cluster.

It was cut into chunks, every chunk was fsynced on at least two of three storage nodes, and a majority of three
consensus members wrote down that it exists, before anybody was told that it is stored. Kill any one node: it stays.
"""
TIMEOUT_S: Final = 30.0
RETRY_INTERVAL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What happened. `receipt` is None when the file stood there from an earlier start and was only read."""

    url: str
    size_bytes: int
    receipt: dict[str, Any] | None


def round_trip_first_file(gateway_url: str, bearer: Mapping[str, str]) -> RoundTrip:
    """Store the first file unless it is there, then read it back and compare. `bearer` shows a key that may do both.

    Raises:
        LocalClusterError: it could not be stored or read within `TIMEOUT_S`, or what came back differs.
    """
    url = f"{gateway_url}/v1/files/default/{FIRST_KEY}"
    deadline = time.monotonic() + TIMEOUT_S
    receipt = None
    with httpx.Client(headers=bearer, timeout=TIMEOUT_S, trust_env=False) as client:
        if _request(client, "HEAD", url, deadline).status_code == httpx.codes.NOT_FOUND:
            stored = _request(client, "PUT", url, deadline, FIRST_TEXT)
            receipt = _checked(stored).json()
        body = _checked(_request(client, "GET", url, deadline)).content
    if receipt is not None and body != FIRST_TEXT:
        raise LocalClusterError("The first file came back with other bytes; please report this.")
    return RoundTrip(url, len(body), receipt)


def _request(
    client: httpx.Client, method: str, url: str, deadline: float, content: bytes | None = None
) -> httpx.Response:
    """One request; 503 is tried again until `deadline`, because a cluster that has just started may still elect."""
    headers = {} if content is None else {"content-type": "text/plain; charset=utf-8"}
    while True:
        try:
            answer = client.request(method, url, content=content, headers=headers)
        except httpx.TransportError as error:
            raise LocalClusterError(f"The gateway did not answer: {error}") from error
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            return answer
        time.sleep(RETRY_INTERVAL_S)


def describe(round_trip: RoundTrip) -> list[str]:
    """The receipt in plain words, one sentence per line."""
    receipt = round_trip.receipt
    if receipt is None:
        return [f"Your first file is still there: {round_trip.size_bytes} bytes read back from {round_trip.url}"]
    durability = receipt["durability"]
    timestamp = receipt["timestamp"]
    if timestamp["earliest"] is None:
        when = "at a logical time, because no time server has been reached yet"
    else:
        when = f"between {timestamp['earliest']} and {timestamp['latest']}"
    stored = (
        f"Stored a first file, {receipt['bucket']}/{receipt['key']}: {receipt['size_bytes']} bytes "
        f"in {receipt['chunk_count']} chunk(s), {when}."
    )
    durable = (
        f"Before the answer it was on disk on {durability['acknowledged']} of {durability['target']} replicas "
        f"({', '.join(durability['nodes'])}), and in the log of a majority of consensus members "
        f"as entry {receipt['log_index']} of term {receipt['term']}."
    )
    read = f"Read it back: {round_trip.size_bytes} bytes, every one the same (etag {receipt['etag']})."
    return [stored, durable, read]


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise LocalClusterError(
            "The cluster does not know the key in secrets/root-key, which may have been made anew: docs/security.md says what to "
            "do when the root key is lost."
        )
    raise LocalClusterError(
        f"The gateway answered {answer.status_code} to {answer.request.method} of the first file: {answer.text[:500]}"
    )
