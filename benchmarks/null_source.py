"""What the HTTP server alone can send: 1 MiB out of memory, without signature, disk or digest. The ceiling for reads."""

from __future__ import annotations

import os
from typing import Final

from starlette.types import Receive, Scope, Send

from shared.settings import ServiceSettings, load_settings
from shared.units import KIB, MIB
from shared.web.listeners import serve

_BODY: Final = memoryview(os.urandom(MIB))
_SLICE_BYTES: Final = 256 * KIB


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """The application: one answer for whatever is asked."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": f"{message['type']}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % MIB)]})
    for at in range(0, MIB, _SLICE_BYTES):
        await send({"type": "http.response.body", "body": _BODY[at : at + _SLICE_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    serve(answer, load_settings(ServiceSettings), has_wide_send_buffers=True)
