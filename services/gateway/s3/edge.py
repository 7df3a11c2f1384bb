"""The HTTP edge of S3's port: the rules of every port (`shared.web.http_edge`), and refusals as clients of S3 read them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from services.gateway.s3.errors import S3Error
from services.gateway.s3.xml_errors import error_document
from shared.web.http_edge import GuardedHttpProtocol

_CODES: Final[Mapping[int, str]] = {
    400: "InvalidRequest",
    408: "RequestTimeout",
    414: "InvalidURI",
    431: "RequestHeaderSectionTooLarge",
    501: "NotImplemented",
    503: "SlowDown",
}
_REASONS: Final[Mapping[int, str]] = {400: "Bad Request"}


class S3HttpProtocol(GuardedHttpProtocol):
    """One client connection."""

    def refusal(
        self, status: int, reason: str, detail: str | None
    ) -> tuple[int, str, list[tuple[bytes, bytes]], bytes]:
        """A document of S3's, of which the status is a part: there it is 400 that a client is too slow or says too much."""
        message = reason if detail is None else detail
        request_id = secrets.token_hex(8).upper()
        # The version of HTTP is the only thing that S3 has no code for.
        error = S3Error(_CODES.get(status, "InvalidRequest"), f"{message}.")
        status = error.status if status in _CODES else status
        fields = [
            (b"content-type", b"application/xml"),
            (b"server", b"Trivet"),
            (b"x-amz-request-id", request_id.encode()),
        ]
        return status, _REASONS.get(status, reason), fields, error_document(error, "", request_id, "")
