"""What an HTTP server in Python alone takes to send a file: one uvicorn process that streams it from the page cache.

Run as a process of its own: `python -m benchmarks.cluster.serve_floor FOLDER` prints its port; GET /NAME then answers
with FOLDER/NAME.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import Receive, Scope, Send

from shared.units import KIB

_SLICE_BYTES: Final = 256 * KIB
_FOLDER: Final = Path(sys.argv[-1])


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    """The application: the file of that name."""
    descriptor = os.open(_FOLDER / Path(scope["path"]).name, os.O_RDONLY)
    try:
        size_bytes = os.fstat(descriptor).st_size
        headers = [(b"content-length", b"%d" % size_bytes)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at in range(0, size_bytes, _SLICE_BYTES):
            piece = os.pread(descriptor, _SLICE_BYTES, at)
            await send({"type": "http.response.body", "body": piece, "more_body": at + len(piece) < size_bytes})
    finally:
        os.close(descriptor)


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        answer, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
