"""What callers of a file system catch."""

from __future__ import annotations

import errno

import pytest

from trivet import errors
from trivet.filesystem.os_errors import os_errors


def answered(status: int, code: str = "") -> errors.ProblemError:
    return errors.error_of(status, {"code": code} if code else {})


@pytest.mark.parametrize(
    ("error", "kind", "number"),
    [
        (answered(404, "file_not_found"), FileNotFoundError, errno.ENOENT),
        (answered(404, "bucket_not_found"), FileNotFoundError, errno.ENOENT),
        (answered(401), PermissionError, errno.EACCES),
        (answered(403, "access_denied"), PermissionError, errno.EACCES),
        (answered(403, "quota_exceeded"), OSError, errno.EDQUOT),
        (answered(412), OSError, errno.ESTALE),
        (answered(409, "bucket_not_empty"), OSError, errno.ENOTEMPTY),
        (answered(409, "upload_completed"), OSError, errno.EIO),
        (answered(507), OSError, errno.ENOSPC),
        (answered(400, "invalid_request"), OSError, errno.EINVAL),
        (answered(503), OSError, errno.EIO),
        (errors.DigestMismatch("other bytes"), OSError, errno.EIO),
        (errors.ConnectionFailed("nobody answers", definite=True), ConnectionError, None),
        (errors.ConfigError("no such profile"), ValueError, None),
    ],
)
def test_an_error_of_the_client_is_one_of_a_file_system(error, kind, number) -> None:
    """It stays the cause."""
    with pytest.raises(kind) as raised, os_errors("bucket/key"):
        raise error
    assert raised.value.__cause__ is error
    assert getattr(raised.value, "errno", None) == number
    assert str(error) in str(raised.value)


def test_a_file_that_should_be_new_and_is_there_is_a_file_exists_error() -> None:
    """The same answer means another thing there."""
    with pytest.raises(FileExistsError) as raised, os_errors("bucket/key", is_new=True):
        raise answered(412)
    assert raised.value.filename == "bucket/key"
