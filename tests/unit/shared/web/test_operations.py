"""The operations listener: who may read what, and how many at once."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from shared.web.operations import MAX_CONNECTIONS, OperationsProtocol, add_operations
from shared.web.service_app import create_app
from tests.unit.shared.web.test_service_app import no_lifespan

TOKEN = "metrics-token-of-the-tests"


def make_operations(token: str | None) -> FastAPI:
    app = create_app(title="Test", description="A test.", lifespan=no_lifespan, readiness=list, verifier=None)
    return add_operations(app, readiness=list, degradations=lambda: ["redis: away"], metrics_token=token)


async def ask(app: ASGIApp, path: str, client: str, authorization: str = "") -> httpx.Response:
    transport = httpx.ASGITransport(app=app, client=(client, 1234))
    headers = {"authorization": authorization.encode("latin-1")} if authorization else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as asker:  # noqa: TID251
        return await asker.get(path)


@pytest.mark.parametrize(
    ("token", "client", "authorization", "status"),
    [
        (None, "127.0.0.1", "", 200),
        (None, "::1", "", 200),
        (None, "10.0.0.7", "", 403),
        (None, "10.0.0.7", f"Bearer {TOKEN}", 403),
        (TOKEN, "127.0.0.1", "", 200),
        (TOKEN, "10.0.0.7", "", 401),
        (TOKEN, "10.0.0.7", f"Bearer {TOKEN}", 200),
        (TOKEN, "10.0.0.7", f"bearer {TOKEN}", 200),
        (TOKEN, "10.0.0.7", f"Bearer {TOKEN}x", 401),
        (TOKEN, "10.0.0.7", f"Bearer {TOKEN[:-1]}", 401),
        (TOKEN, "10.0.0.7", "Bearer ", 401),
        (TOKEN, "10.0.0.7", f"Basic {TOKEN}", 401),
        (TOKEN, "10.0.0.7", "Bearer \xe9", 401),
    ],
)
async def test_metrics_are_for_this_machine_and_for_the_token(
    token: str | None, client: str, authorization: str, status: int
) -> None:
    """Without a token no other machine may read them; with one only by it."""
    answer = await ask(make_operations(token), "/metrics", client, authorization)
    assert answer.status_code == status
    assert ("process_cpu_seconds" in answer.text) is (status == 200)


async def test_health_is_told_to_whoever_reaches_the_listener() -> None:
    """Probes come from other machines and carry no token."""
    app = make_operations(TOKEN)
    assert (await ask(app, "/healthz", "10.0.0.7")).status_code == 200
    assert (await ask(app, "/readyz", "10.0.0.7")).status_code == 503, "the service has not started"


def test_the_listener_has_a_limit_of_its_own() -> None:
    """Whatever the data port's may be."""
    assert OperationsProtocol.connection_limit(None) == MAX_CONNECTIONS  # type: ignore[arg-type]


async def test_metrics_say_what_readyz_says() -> None:
    """Whether it can serve, of how many things it has to do without, and its version."""
    app = create_app(title="Test", description="A test.", lifespan=no_lifespan, readiness=list, verifier=None)
    reasons = ["no leader"]
    operations = add_operations(
        app, readiness=lambda: reasons, degradations=lambda: ["redis: away"], metrics_token=TOKEN
    )
    app.state.is_started = True
    shown = (await ask(operations, "/metrics", "127.0.0.1")).text.splitlines()
    assert {"trivet_ready 0.0", "trivet_degradations 1.0"} <= set(shown)
    assert f'trivet_build_info{{version="{app.version}"}} 1.0' in shown
    reasons.clear()
    assert "trivet_ready 1.0" in (await ask(operations, "/metrics", "127.0.0.1")).text
