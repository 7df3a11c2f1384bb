"""What it costs that internal requests are signed: CPU of one thread per request, on either side.

A chunk's digest is its name, so the signature of a chunk call never covers a body and costs the same for 4 KiB and for
1 MiB. What differs is the state of the processor's caches: between two calls a node copies and hashes the chunk, which
displaces the interpreter. So every call is timed alone, after as many bytes as a real request moves.
Other bodies are hashed for the signature, and those of answers for their MAC, once on either side.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from benchmarks.measuring import describe_machine, median_and_spread, show
from shared.cluster_keys import derive_peer_keys
from shared.peer_address import PeerAddress
from shared.peer_calls.request_signing import (
    EMPTY_BODY_DIGEST,
    AnswerFacts,
    RequestSigner,
    RequestVerifier,
    SignedRequest,
    VerifiedRequest,
)
from shared.roles import Role
from shared.units import KIB, MIB

_NODE: Final = PeerAddress("storage-1", "", Role.STORAGE)
_SIZES: Final = {"nothing": 0, "4 KiB": 4 * KIB, "1 MiB": MIB}
_ANSWER_SIZES: Final = {"200 B": 200, "2 KiB": 2 * KIB, "64 KiB": 64 * KIB}
_TARGET: Final = f"/v1/chunks/{blake3(b'some chunk').hexdigest()}"


class SignedCalls:
    """One caller and one receiver that know each other's secret and boot."""

    def __init__(self) -> None:
        self._signer = RequestSigner(derive_peer_keys("s" * 64, Role.GATEWAY))
        self._verifier = RequestVerifier(derive_peer_keys("s" * 64, Role.STORAGE), _NODE.id)
        self._signer.learn(_NODE.id, self._verifier.boot_id)
        self._authorization = ""

    def sign(self) -> None:
        """As a gateway does for each GET of a chunk."""
        self._authorization = self._signer.sign("GET", _TARGET, _NODE, EMPTY_BODY_DIGEST).authorization

    def verify(self) -> None:
        """As a node does; raises SignatureRejectedError unless `sign` came first."""
        self._verifier.verify("GET", _TARGET, self._authorization, EMPTY_BODY_DIGEST)


def time_apart(size_bytes: int, calls: int) -> tuple[float, float]:
    """Microseconds of CPU of one `sign` and of one `verify`, medians; before each, `size_bytes` are copied and hashed."""
    signed = SignedCalls()
    source = os.urandom(size_bytes)
    sign_us, verify_us = [], []
    for _ in range(calls):
        blake3(bytearray(source)).digest()
        sign_us.append(_cpu_us(signed.sign))
        blake3(bytearray(source)).digest()
        verify_us.append(_cpu_us(signed.verify))
    return statistics.median(sign_us), statistics.median(verify_us)


class AnsweredCalls:
    """One receiver that authenticates an answer with its body, and the caller that checks it."""

    def __init__(self, body: bytes) -> None:
        key = derive_peer_keys("s" * 64, Role.STORAGE).accepted().signing
        self._body = body
        self._verified = VerifiedRequest(key, "a" * 64)
        self._signed = SignedRequest("", key, "a" * 64)
        self._mac = ""

    def authenticate(self) -> None:
        """As a service does for each answer that is no chunk."""
        self._mac = self._verified.answer_mac(self._facts())

    def check(self) -> None:
        """As a caller does; raises ValueError unless `authenticate` came first."""
        if not self._signed.is_answered_by(self._facts(), self._mac):
            raise ValueError("the answer is not authentic")

    def _facts(self) -> AnswerFacts:
        return AnswerFacts(200, blake3(self._body).hexdigest(), [("x-trivet-fence", "7")])


def time_answers(size_bytes: int, calls: int) -> tuple[float, float]:
    """Microseconds of CPU of one `authenticate` and of one `check`, medians."""
    answered = AnsweredCalls(os.urandom(size_bytes))
    made, checked = [], []
    for _ in range(calls):
        made.append(_cpu_us(answered.authenticate))
        checked.append(_cpu_us(answered.check))
    return statistics.median(made), statistics.median(checked)


def time_hash(size_bytes: int, calls: int) -> float:
    """Microseconds of CPU to hash a body that is no chunk."""
    body = os.urandom(size_bytes)
    return statistics.median(_cpu_us(lambda: blake3(body).hexdigest()) for _ in range(calls))


def _cpu_us(call: Callable[[], object]) -> float:
    began_ns = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - began_ns) / 1000


def _cost_of_timing_us(calls: int) -> float:
    return statistics.median(_cpu_us(lambda: None) for _ in range(calls))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    print(f"{describe_machine()}; timing itself takes {_cost_of_timing_us(arguments.calls):.2f} us of each figure")
    rows = []
    for name, size_bytes in _SIZES.items():
        found = [time_apart(size_bytes, arguments.calls) for _ in range(arguments.runs)]
        hashes = [time_hash(size_bytes, arguments.calls) for _ in range(arguments.runs)]
        rows.append([name, *(median_and_spread(column) for column in (*zip(*found, strict=True), hashes))])
    show(
        "Signed requests, microseconds of CPU per request, median (min-max)",
        ("bytes moved before", "sign (caller)", "verify (receiver)", "hash of that many bytes (no chunk)"),
        rows,
    )
    answers = []
    for name, size_bytes in _ANSWER_SIZES.items():
        found = [time_answers(size_bytes, arguments.calls) for _ in range(arguments.runs)]
        answers.append([name, *(median_and_spread(column) for column in zip(*found, strict=True))])
    show(
        "Authenticated answers, microseconds of CPU per answer, median (min-max)",
        ("body", "made (receiver)", "checked (caller)"),
        answers,
    )


if __name__ == "__main__":
    main()
