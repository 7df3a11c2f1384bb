"""Every error that the client raises. No error of a library below it gets out.

    TrivetError
    ├── ProblemError                what the store answered, or would have
    │   ├── BadRequest              400, 405, 408, 413, 414, 421, 422, 431
    │   │   └── RangeNotSatisfiable 416
    │   ├── Unauthorized            401
    │   ├── Forbidden               403
    │   │   └── QuotaExceeded
    │   ├── NotFound                404
    │   │   ├── BucketNotFound
    │   │   ├── FileNotFound
    │   │   └── UploadNotFound
    │   ├── Conflict                409
    │   ├── CursorExpired           410
    │   ├── PreconditionFailed      412
    │   ├── TooManyRequests         429
    │   ├── OutOfSpace              507
    │   ├── Unavailable             503, and 502 and 504 of something in between
    │   └── ServerError             every other status
    ├── ConnectionFailed            no answer came, or not in time
    ├── BrokenDownload              the bytes of an answer ended too early
    ├── DigestMismatch              the bytes are not those that were stored, or to be stored
    ├── SourceChanged               the file that is sent changed meanwhile
    ├── TransferInProgress          another process has the same transfer in hand
    └── ConfigError                 the settings of the client are wrong

Each says in its message what to do next, where that is known. Facts are attributes, so that no program reads messages.
"""

from __future__ import annotations

from typing import Any, Final


class TrivetError(Exception):
    """Base of all."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ProblemError(TrivetError):
    """The store refused, or failed; the problem document (RFC 9457) says why.

    Attributes:
        status: of the answer.
        code: stable name of the reason, such as `quota_exceeded`.
        title, detail: for people.
        definite: the change certainly did not happen. Where it is false, only a repeat under the same Idempotency-Key is safe;
            the client's own repeats are.
        retry_after_s: seconds after which another try makes sense; None where the answer does not say.
        problem: the whole document, with the facts of this error, such as `limit` and `used` of `quota_exceeded`; and
            `request_id`, by which whoever runs the store finds the request in its logs.
    """

    def __init__(
        self,
        status: int,
        code: str,
        title: str = "",
        detail: str = "",
        *,
        definite: bool = True,
        retry_after_s: float | None = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(_sentence(status, code, detail or title, definite=definite))
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.definite = definite
        self.retry_after_s = retry_after_s
        self.problem = problem or {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their message alone, which is not what `__init__` takes.
        said = {"code": self.code, "title": self.title, "detail": self.detail, "definite": self.definite}
        return _unpickled, (self.status, self.problem | said, self.retry_after_s)


class BadRequest(ProblemError):
    """The request breaks a rule of the store; the same request will always be refused."""


class RangeNotSatisfiable(BadRequest):
    """No byte of the range exists."""


class Unauthorized(ProblemError):
    """No access key was sent, or one that opens nothing."""


class Forbidden(ProblemError):
    """The access key may not do this."""


class QuotaExceeded(Forbidden):
    """The bucket or the identity would have more bytes or files than it may have."""


class NotFound(ProblemError):
    """There is nothing of that name."""


class BucketNotFound(NotFound):
    """There is no such bucket."""


class FileNotFound(NotFound):
    """There is no such file, or no such version of it."""


class UploadNotFound(NotFound):
    """No such upload is under way."""


class Conflict(ProblemError):
    """The state of the store forbids this now."""


class CursorExpired(ProblemError):
    """The list was begun too long ago; begin it again."""


class PreconditionFailed(ProblemError):
    """`if_match` or `if_none_match` did not hold: somebody else changed the file."""


class TooManyRequests(ProblemError):
    """The identity's limit of requests is used up for now."""


class OutOfSpace(ProblemError):
    """The storage nodes are full. Reads and deletions go on."""


class Unavailable(ProblemError):
    """The store cannot do it now. It may, soon."""


class ServerError(ProblemError):
    """A defect of the store. What was asked for may or may not have happened."""


class ConnectionFailed(TrivetError):
    """The store could not be reached, or did not answer in time.

    Attributes:
        definite: nothing was sent, so nothing happened. Else what was asked for may have happened.
    """

    def __init__(self, message: str, *, definite: bool) -> None:
        super().__init__(message)
        self.definite = definite

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_failure, (self.message, self.definite)


class BrokenDownload(TrivetError):
    """The bytes ended before their end."""


class DigestMismatch(TrivetError):
    """Bytes were changed on the way, or while they were sent."""


class SourceChanged(TrivetError):
    """The file that is sent was changed meanwhile; nothing was stored."""


class TransferInProgress(TrivetError):
    """Another process uploads or downloads the same file to the same place now."""


class ConfigError(TrivetError):
    """The address, the key or the config file cannot be used."""


_BY_CODE: Final[dict[str, type[ProblemError]]] = {
    "bucket_not_found": BucketNotFound,
    "file_not_found": FileNotFound,
    "version_not_found": FileNotFound,
    "version_gone": FileNotFound,
    "upload_not_found": UploadNotFound,
    "quota_exceeded": QuotaExceeded,
}
_BY_STATUS: Final[dict[int, type[ProblemError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: BadRequest,
    408: BadRequest,
    409: Conflict,
    410: CursorExpired,
    412: PreconditionFailed,
    413: BadRequest,
    414: BadRequest,
    416: RangeNotSatisfiable,
    421: BadRequest,
    422: BadRequest,
    429: TooManyRequests,
    431: BadRequest,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: OutOfSpace,
}
_ADVICE: Final[dict[str, str]] = {
    "unauthenticated": "Set TRIVET_KEY to an access key, or to the path of a file that holds one.",
    "credential_invalid": "Check the key: it may be disabled, expired or of another cluster.",
    "access_denied": "Ask whoever runs the cluster for a key with that right; `identity()` shows what this one may do.",
    "plain_credential": "Use an https address.",
    "bucket_not_found": "`create_bucket` makes it; `buckets` lists those that there are.",
    "bucket_not_empty": "Delete its files, versions and markers first.",
    "precondition_failed": "Read the file again, and decide anew.",
    "cursor_expired": "Begin the list again.",
    "misdirected_request": "Use a name of the gateway that is in its TRIVET_PUBLIC_HOSTS.",
    "disk_full": "Delete files or add storage nodes.",
}
"""What to do next, where the store's own sentence does not say it."""


def _sentence(status: int, code: str, detail: str, *, definite: bool) -> str:
    said = f"{detail or f'The store answered {status}.'} ({code})"
    if code in _ADVICE:
        said += f" {_ADVICE[code]}"
    elif not definite:
        said += " It may have happened all the same: look, or repeat it under the same idempotency key."
    return said


def error_of(status: int, problem: dict[str, Any], *, retry_after_s: float | None = None) -> ProblemError:
    """The typed error behind an answer of `status`.

    Args:
        problem: the problem document, or empty where the answer had none: then something in between answered, and 5xx are
            not definite.
        retry_after_s: of the header; the document has it, too.
    """
    code = str(problem.get("code", f"http_{status}"))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, ServerError)
    definite = problem.get("definite")
    said_s = problem.get("retry_after_s")
    return kind(
        status,
        code,
        str(problem.get("title", "")),
        str(problem.get("detail", "")),
        definite=definite if isinstance(definite, bool) else status < 500,
        retry_after_s=float(said_s) if isinstance(said_s, int | float) else retry_after_s,
        problem=problem,
    )


def error_of_problem(problem: dict[str, Any]) -> ProblemError:
    """The typed error behind a problem document inside another answer, such as one row of `delete_many`."""
    status = problem.get("status")
    return error_of(status if isinstance(status, int) else 500, problem)


def answer_invalid(why: str) -> ProblemError:
    """The error of a successful answer that the store would not give."""
    return ProblemError(
        200, "answer_invalid", "", f"This is no answer of the store: {why}. Is the address right?", definite=False
    )


def _unpickled(status: int, problem: dict[str, Any], retry_after_s: float | None) -> ProblemError:
    return error_of(status, problem, retry_after_s=retry_after_s)


def _unpickled_failure(message: str, definite: bool) -> ConnectionFailed:
    return ConnectionFailed(message, definite=definite)
