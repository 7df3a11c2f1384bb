"""The errors of the client as those of a file system: what pandas, zarr and every other caller of fsspec know to catch.

| error of the client | here |
|---|---|
| `NotFound` | `FileNotFoundError` |
| `Unauthorized`, `Forbidden` | `PermissionError` |
| `PreconditionFailed` of a file that should be new | `FileExistsError` |
| `PreconditionFailed` of any other change | `OSError` (`ESTALE`): somebody else changed the file |
| `Conflict` of a bucket that is not empty | `OSError` (`ENOTEMPTY`) |
| `QuotaExceeded`, `OutOfSpace` | `OSError` (`EDQUOT`, `ENOSPC`) |
| `ConnectionFailed` | `ConnectionError` |
| `BadRequest` | `OSError` (`EINVAL`): a name, for example, that no file can have |
| `ConfigError` | `ValueError` |
| all others | `OSError` (`EIO`) |

The error of the client is the `__cause__`, with all its facts.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from trivet import errors


@contextmanager
def os_errors(path: str, *, is_new: bool = False) -> Iterator[None]:
    """Raise what the table says in place of errors of the client.

    Args:
        path: what the caller named.
        is_new: the change was to make a file that was not there.
    """
    try:
        yield
    except errors.TrivetError as error:
        raise os_error(error, path, is_new=is_new) from error


def os_error(error: errors.TrivetError, path: str, *, is_new: bool = False) -> Exception:
    """What stands for `error`."""
    match error:
        case errors.ConfigError():
            return ValueError(str(error))
        case errors.ConnectionFailed():
            return ConnectionError(str(error))
        case errors.BadRequest():
            number = errno.EINVAL
        case errors.PreconditionFailed():
            number = errno.EEXIST if is_new else errno.ESTALE
        case errors.Conflict(code="bucket_not_empty"):
            number = errno.ENOTEMPTY
        case errors.NotFound():
            number = errno.ENOENT
        case errors.QuotaExceeded():
            number = errno.EDQUOT
        case errors.Unauthorized() | errors.Forbidden():
            number = errno.EACCES
        case errors.OutOfSpace():
            number = errno.ENOSPC
        case _:
            number = errno.EIO
    # OSError makes FileNotFoundError, FileExistsError and PermissionError of their numbers by itself.
    return OSError(number, str(error), path)
