"""When a circuit opens, and after which pauses its node is probed."""

from __future__ import annotations

import pytest

from services.gateway.replicas.circuit_breaker import CircuitBreaker
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DiskFullError,
    InternalError,
    NotReadyError,
    OverloadedError,
    PeerAnswerInvalidError,
    PeerUnreachableError,
)


def breaker() -> CircuitBreaker:
    return CircuitBreaker(base_s=5.0, limit_s=60.0)


def test_a_refused_connection_opens_the_circuit_at_once() -> None:
    """A dead node costs one request one attempt."""
    node = breaker()
    assert node.failed(PeerUnreachableError("refused", definite=True))
    assert node.is_open
    assert not node.failed(PeerUnreachableError("refused", definite=True)), "it is new only once"


def test_a_broken_connection_opens_the_circuit_the_second_time() -> None:
    """The first may have been an idle connection that its server was just closing."""
    node = breaker()
    assert not node.failed(PeerUnreachableError("reset"))
    assert node.failed(PeerUnreachableError("reset"))


def test_an_invalid_answer_opens_the_circuit_the_second_time() -> None:
    """One may be damaged on the way; a stranger on the node's port answers nothing else."""
    node = breaker()
    assert not node.failed(PeerAnswerInvalidError("a page"))
    assert node.failed(PeerAnswerInvalidError("a page"))


def test_an_answer_between_two_broken_connections_forgives_the_first() -> None:
    """Only failures in a row count."""
    node = breaker()
    node.failed(PeerUnreachableError("reset"))
    node.answered()
    assert not node.failed(PeerUnreachableError("reset"))


@pytest.mark.parametrize("kind", [ChunkNotFoundError, ChunkCorruptError, DiskFullError, OverloadedError])
def test_a_refusal_is_a_sign_of_life(kind) -> None:
    """A node that answers is not dead, whatever it answers about one chunk."""
    node = breaker()
    for _ in range(10):
        assert not node.failed(kind("x"))
    assert not node.is_open


@pytest.mark.parametrize("kind", [InternalError, NotReadyError])
def test_a_node_that_cannot_serve_opens_its_circuit(kind) -> None:
    """Defects and starting up open the circuit at once."""
    assert breaker().failed(kind("x"))


def test_probes_back_off_with_full_jitter_and_then_stay_at_the_limit() -> None:
    """Base 5 s, five doublings, then every 60 s; chance spreads each over its whole range."""
    most, least = breaker(), breaker()
    assert [most.next_probe_s(1.0) for _ in range(8)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0, 60.0]
    assert [least.next_probe_s(0.0) for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 0.0, 60.0]


def test_the_backoff_survives_a_probe_and_ends_with_a_real_answer() -> None:
    """A node that only answers probes does not flap at full speed."""
    node = breaker()
    node.open()
    node.next_probe_s(1.0)
    node.half_open()
    node.open()
    assert node.next_probe_s(1.0) == 10.0
    node.answered()
    assert not node.is_open
    assert node.next_probe_s(1.0) == 5.0
