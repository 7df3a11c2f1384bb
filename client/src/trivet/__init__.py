"""Client of Trivet, the distributed file store.

    import trivet

    with trivet.Client() as store:
        store.put("default", "hello.txt", b"Hello")

`Client` and `AsyncClient` are the store; `trivet.errors` has what they raise, `trivet.models` what they give, `trivet.config`
where addresses and keys come from. Names of this package are imported when they are first used, so that a command line that
only shows its help starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trivet import config, errors, models
    from trivet.async_client import AsyncClient
    from trivet.client import Client, Download
    from trivet.download import AsyncDownload
    from trivet.errors import (
        BadRequest,
        BrokenDownload,
        BucketNotFound,
        ConfigError,
        Conflict,
        ConnectionFailed,
        CursorExpired,
        DigestMismatch,
        FileNotFound,
        Forbidden,
        NotFound,
        OutOfSpace,
        PreconditionFailed,
        ProblemError,
        QuotaExceeded,
        RangeNotSatisfiable,
        ServerError,
        SourceChanged,
        TooManyRequests,
        TransferInProgress,
        TrivetError,
        Unauthorized,
        Unavailable,
        UploadNotFound,
    )
    from trivet.models import Limits, Prefix, Progress, Scope
    from trivet.retry import RetryPolicy

_HOMES = {
    "AsyncClient": "trivet.async_client",
    "AsyncDownload": "trivet.download",
    "Client": "trivet.client",
    "Download": "trivet.client",
    "Limits": "trivet.models",
    "Prefix": "trivet.models",
    "Progress": "trivet.models",
    "RetryPolicy": "trivet.retry",
    "Scope": "trivet.models",
}

__all__ = [
    "AsyncClient",
    "AsyncDownload",
    "BadRequest",
    "BrokenDownload",
    "BucketNotFound",
    "Client",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "CursorExpired",
    "DigestMismatch",
    "Download",
    "FileNotFound",
    "Forbidden",
    "Limits",
    "NotFound",
    "OutOfSpace",
    "PreconditionFailed",
    "Prefix",
    "ProblemError",
    "Progress",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RetryPolicy",
    "Scope",
    "ServerError",
    "SourceChanged",
    "TooManyRequests",
    "TransferInProgress",
    "TrivetError",
    "Unauthorized",
    "Unavailable",
    "UploadNotFound",
    "config",
    "errors",
    "models",
]


def __getattr__(name: str) -> Any:
    if name in {"config", "errors", "models"}:
        return import_module(f"trivet.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'trivet' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "trivet.errors")), name)


def __dir__() -> list[str]:
    return [*__all__]
