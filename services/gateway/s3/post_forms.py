"""PostObject: a file out of a browser's form, streamed. Its fields come first, and are what headers are of a PUT.

`open_post_form` reads up to the file, `authentication` proves the policy among the fields, and then the form is a request like
others, with the key of its field as its target: it is authorized as every write is.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from services.gateway.api.form_upload import FormFile, open_form
from services.gateway.s3.answers import send, send_empty
from services.gateway.s3.bodies import PlainBody, body_form, joined
from services.gateway.s3.body_hashing import BodyHashes
from services.gateway.s3.errors import S3Error
from services.gateway.s3.object_headers import described, published_headers, s3_etag_of
from services.gateway.s3.object_tags import tag_set
from services.gateway.s3.object_versions import name_of, shown_id
from services.gateway.s3.objects import PUT_BYTES_MAX, store, too_large
from services.gateway.s3.post_policies import PostPolicy
from services.gateway.s3.requests import RequestTarget, S3Request
from services.gateway.s3.signatures import UNSIGNED_PAYLOAD
from services.gateway.s3.xml_documents import document, element, parse
from services.gateway.semantics.conditions import UNCONDITIONAL
from services.gateway.transfers.admission import Transfer
from shared.contracts.names import MAX_KEY_BYTES, check_object_key
from shared.errors import InvalidNameError, InvalidRequestError, PayloadTooLargeError
from shared.units import KIB

FIELDS_MAX_BYTES: Final = 20 * KIB
FRAME_MAX_BYTES: Final = 48 * KIB
"""Fields with the boundaries and headers of their parts."""

_FILE_NAME: Final = "${filename}"
_HEADER_FIELDS: Final = frozenset({
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
})  # fmt: skip
_SIGNATURE_FIELDS: Final = frozenset({"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_STATUSES: Final = {"200": 200, "201": 201, "204": 204}


@dataclass(frozen=True, slots=True)
class PostForm:
    """A form up to its file.

    Attributes:
        fields: by lower-case names.
        key: of the object: the field, with the name of the file in its place.
    """

    fields: Mapping[str, str]
    key: str
    file: FormFile


class FormBody(AsyncIterator[bytes]):
    """The file of a form; see `S3Body`. `fields`: those of the form."""

    size_bytes: int | None = None
    sha256: bytes | None = None
    announced_trailer: str | None = None
    trailers: Mapping[str, str] = {}

    def __init__(self, form: PostForm, policy: PostPolicy | None) -> None:
        most_bytes = None if policy is None else policy.most_bytes
        self.fields = form.fields
        self._pieces = form.file.body
        self._least_bytes = 0 if policy is None else policy.least_bytes
        self._most_bytes = PUT_BYTES_MAX if most_bytes is None else min(PUT_BYTES_MAX, most_bytes)
        self._read_bytes = 0

    async def __anext__(self) -> bytes:
        """The next bytes. Raises S3Error: the form is malformed, or its file not as long as it may be."""
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            if self._read_bytes < self._least_bytes:
                raise S3Error(
                    "EntityTooSmall",
                    "Your proposed upload is smaller than the minimum allowed size",
                    ProposedSize=str(self._read_bytes),
                    MinSizeAllowed=str(self._least_bytes),
                ) from None
            raise
        except (InvalidRequestError, PayloadTooLargeError) as error:
            raise _malformed(error.message) from error
        self._read_bytes += len(piece)
        if self._read_bytes > self._most_bytes:
            raise too_large(self._read_bytes, self._most_bytes)
        return piece

    async def read(self, limit_bytes: int, transfer: Transfer | None = None) -> bytes:
        """See `S3Body`."""
        return await joined(self, None, limit_bytes, transfer)


async def open_post_form(request: S3Request) -> PostForm:
    """Read the fields of the form that a request brings, up to its file.

    Raises:
        S3Error: it is no form, or its fields are malformed or too long.
    """
    if unsigned := sorted(name for name in request.headers if name.startswith("x-amz-")):
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(unsigned),
        )
    pieces = PlainBody(request.scope, request.receive, body_form(UNSIGNED_PAYLOAD, {**request.headers, **_NO_CODING}))
    try:
        file = await open_form(
            request.headers.get("content-type"), pieces, needs_file_name=False, limit_bytes=FRAME_MAX_BYTES
        )
    except PayloadTooLargeError as error:
        raise S3Error(
            "MaxPostPreDataLengthExceeded", f"Fields before the file have at most {FIELDS_MAX_BYTES} bytes."
        ) from error
    except InvalidRequestError as error:
        raise _malformed(error.message) from error
    fields = _fields(file)
    key = fields.get("key", "").replace(_FILE_NAME, re.split(r"[/\\]", file.file_name)[-1])
    if not key:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.", ArgumentName="key")
    return PostForm(fields, _checked_key(key), file)


_NO_CODING: Final = {"content-encoding": ""}
"""Of a form no framing is taken off."""


def _fields(file: FormFile) -> dict[str, str]:
    fields: dict[str, str] = {}
    size_bytes = 0
    for raw_name, raw_value in file.fields:
        size_bytes += len(raw_name) + len(raw_value)
        try:
            name, value = raw_name.decode().lower(), raw_value.decode()
        except UnicodeDecodeError as error:
            raise _malformed("A field is not UTF-8.") from error
        if name in fields:
            raise S3Error("InvalidArgument", "A field of the form is given twice.", ArgumentName=name[:64])
        fields[name] = value
    if size_bytes > FIELDS_MAX_BYTES:
        raise S3Error("MaxPostPreDataLengthExceeded", f"Fields before the file have at most {FIELDS_MAX_BYTES} bytes.")
    return fields


def _checked_key(key: str) -> str:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Error("KeyTooLongError", "Your key is too long.", MaxSizeAllowed=str(MAX_KEY_BYTES))
    try:
        return check_object_key(key)
    except InvalidNameError as error:
        raise S3Error("InvalidObjectName", "The key of the form cannot be one.") from error


def take_form(request: S3Request, form: PostForm, policy: PostPolicy | None) -> None:
    """Have `request` be that of a PUT of the file, whoever it is for. What is stored comes from fields, which a policy covers.

    Raises:
        S3Error: a field cannot be a header.
    """
    headers = {
        name: value
        for name, value in request.headers.items()
        if not name.startswith("content-") and name != "transfer-encoding" and name not in _HEADER_FIELDS
    }
    for name, value in form.fields.items():
        if name in _HEADER_FIELDS or (name.startswith("x-amz-") and name not in _SIGNATURE_FIELDS):
            headers[name] = _header_value(name, value)
    if (acl := form.fields.get("acl")) is not None:
        headers["x-amz-acl"] = _header_value("acl", acl)
    if (tagging := form.fields.get("tagging")) is not None:
        headers["x-amz-tagging"] = urlencode(tag_set(parse(tagging.encode(), "Tagging")))
    request.headers = headers
    request.target = RequestTarget(request.bucket, form.key, request.target.query)
    request.body = FormBody(form, policy)


def _header_value(name: str, value: str) -> str:
    """As a header would bring it: bytes of UTF-8, and no end of line."""
    if _CONTROL.search(value):
        raise S3Error("InvalidArgument", "A field has a control character.", ArgumentName=name[:64])
    return value.encode().decode("latin-1")


async def post_object(request: S3Request) -> None:
    """PostObject."""
    body = request.body
    assert isinstance(body, FormBody), "authentication has opened the form"
    hashes, asked = BodyHashes.of(request.headers, body), described(request.headers)
    uploaded = await store(request, name_of(request), asked, hashes, UNCONDITIONAL)
    version = uploaded.version
    location = f"{request.scope['scheme']}://{request.headers.get('host', '')}/{request.bucket}/{quote(request.key)}"
    headers = {
        **published_headers(version, shown_id(request, version)),
        "location": quote(location, safe=":/%[]@!$&'()*+,;=~"),
    }
    etag = f'"{s3_etag_of(version)}"'
    if (redirect := _redirect(body.fields, request, etag)) is not None:
        await send_empty(request, 303, headers | {"location": redirect})
        return
    status = _STATUSES.get(body.fields.get("success_action_status", ""), 204)
    if status != 201:
        await send_empty(request, status, headers)
        return
    named = {"Location": headers["location"], "Bucket": request.bucket, "Key": request.key, "ETag": etag}
    answer = document("PostResponse", (element(name, value) for name, value in named.items()), has_namespace=False)
    await send(request, 201, headers | {"content-type": "application/xml"}, answer)


def _redirect(fields: Mapping[str, str], request: S3Request, etag: str) -> str | None:
    """Where the browser is to go; None where that is not said, or is no URL."""
    url = fields.get("success_action_redirect", fields.get("redirect", ""))
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        return None
    query = [
        *parse_qsl(parts.query, keep_blank_values=True),
        ("bucket", request.bucket),
        ("key", request.key),
        ("etag", etag),
    ]
    return parts._replace(query=urlencode(query)).geturl()


def _malformed(message: str) -> S3Error:
    return S3Error(
        "MalformedPOSTRequest", f"The body of your POST request is not well-formed multipart/form-data. {message}"
    )
