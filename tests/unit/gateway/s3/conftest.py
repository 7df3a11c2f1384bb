"""S3's application over fake storage nodes and the real state machine, with a root key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.gateway import main
from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl
from services.gateway.s3 import anonymous
from services.gateway.s3.errors import S3Error
from services.gateway.s3.requests import S3Request
from services.gateway.s3.rules import S3Rules
from tests.unit.gateway.access.scene import Running, Scene
from tests.unit.gateway.s3.asking import S3Client


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    """A cluster with a root key."""
    scene = Scene(tmp_path)
    await scene.open()
    return scene


@pytest.fixture
async def here(scene: Scene) -> AsyncIterator[Running]:
    """A gateway."""
    async with scene.gateway() as running:
        yield running


@pytest.fixture
async def s3(scene: Scene, here: Running) -> S3Client:
    """Asks with the root key: `await s3("PUT", "bucket", "key", body=b"...")`."""
    return S3Client(here.s3, scene.root)


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as signatures cannot be verified: whoever names a key has it."""

    async def authenticate(request: S3Request, control: AccessControl, rules: S3Rules) -> AccessContext:
        authorization = request.headers.get("authorization")
        if authorization is None:
            return await anonymous.authenticate(request, control, rules)
        await control.table.refresh()
        key = control.table.find(authorization.partition("Credential=")[2].partition("/")[0])
        principal = None if key is None else control.principal_in_force(key)
        if principal is None:
            raise S3Error("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        context = AccessContext(principal)
        control.enter(context)
        length = request.headers.get("content-length")
        request.body = anonymous.PlainBody(request, None if length is None else int(length))
        return context

    monkeypatch.setattr(main, "authenticate", authenticate)
