"""Ids of uploads by parts as S3 clients have them: opaque, and good for one bucket and key.

What `/v1` calls the id shows the log index that began the upload. Here it is sealed with the names, so an id under another
bucket or key opens nothing, and no handler can forget to compare them.
"""

from __future__ import annotations

import json
import struct
from typing import Final

from services.gateway.cursors import CursorSealer
from services.gateway.s3.errors import S3Error
from services.gateway.transfers.part_publication import UploadId
from shared.errors import InvalidRequestError

_ID: Final = struct.Struct(">Q16s")


def seal_upload_id(sealer: CursorSealer, bucket: str, key: str, upload: UploadId) -> str:
    """As S3 shows it: 54 characters that need no escape in a URL."""
    return sealer.seal_bytes(_ID.pack(upload.upload, bytes.fromhex(upload.nonce)), _owner(bucket, key))


def open_upload_id(sealer: CursorSealer, bucket: str, key: str, text: str) -> UploadId:
    """Which upload it is, under way or not.

    Raises:
        S3Error: NoSuchUpload, it is of another bucket or key, or none at all.
    """
    try:
        upload, nonce = _ID.unpack(sealer.open_bytes(text, _owner(bucket, key)))
    except InvalidRequestError as error:
        raise no_such_upload(text) from error
    return UploadId(upload, nonce.hex())


def no_such_upload(text: str) -> S3Error:
    """There is none, or none any more."""
    message = (
        "The specified upload does not exist. The upload ID may be invalid, or it may have been aborted or completed."
    )
    return S3Error("NoSuchUpload", message, UploadId=text[:256])


def _owner(bucket: str, key: str) -> bytes:
    # Begins with a bracket, as the id of no principal does.
    return json.dumps(["s3 upload", bucket, key]).encode()
