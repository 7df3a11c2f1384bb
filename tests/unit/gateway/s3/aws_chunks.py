"""Bodies in the framing of aws-chunked, as a client makes them: written down from Amazon's description, not from our decoder."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

KEY_ID = "TV" + "A" * 18
SECRET = "s3cr3t/+" * 5
REGION = "eu-north-1"
MOMENT = "20261129T110000Z"
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass
class ChunkSigner:
    """Signs the chunks of one body, the first after the signature of its head."""

    previous: str
    moment: str = MOMENT
    region: str = REGION
    secret: str = SECRET

    @property
    def scope(self) -> str:
        return f"{self.moment[:8]}/{self.region}/s3/aws4_request"

    @property
    def key(self) -> bytes:
        key = b"AWS4" + self.secret.encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key

    def sign(self, algorithm: str, *hashes: str) -> str:
        text = "\n".join([algorithm, self.moment, self.scope, self.previous, *hashes])
        self.previous = hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()
        return self.previous

    def chunk(self, data: bytes) -> bytes:
        signature = self.sign("AWS4-HMAC-SHA256-PAYLOAD", EMPTY, hashlib.sha256(data).hexdigest())
        return b"%x;chunk-signature=%b\r\n" % (len(data), signature.encode())

    def trailer(self, lines: bytes) -> bytes:
        signature = self.sign("AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(lines).hexdigest())
        return b"x-amz-trailer-signature:" + signature.encode()


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """`data` in chunks of those sizes, the last of them again and again."""
    at = 0
    for size in [*sizes, *([sizes[-1]] * len(data))]:
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size


def unsigned(data: bytes, sizes: Sequence[int], trailer: tuple[str, str] | None = None) -> bytes:
    """STREAMING-UNSIGNED-PAYLOAD-TRAILER."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces(data, sizes))
    lines = b"" if trailer is None else f"{trailer[0]}:{trailer[1]}\r\n".encode()
    return chunks + b"0\r\n" + lines + b"\r\n"


def signed(data: bytes, sizes: Sequence[int], signer: ChunkSigner, trailer: tuple[str, str] | None = None) -> bytes:
    """STREAMING-AWS4-HMAC-SHA256-PAYLOAD, and -TRAILER where there is one."""
    body = b"".join(signer.chunk(piece) + piece + b"\r\n" for piece in pieces(data, sizes))
    body += signer.chunk(b"")
    if trailer is not None:
        name, value = trailer
        body += f"{name}:{value}\r\n".encode() + signer.trailer(f"{name}:{value}\n".encode()) + b"\r\n"
    return body + b"\r\n"


def signed_by_minio_go(data: bytes, sizes: Sequence[int], signer: ChunkSigner, trailer: tuple[str, str]) -> bytes:
    """Its trailer ends with a newline alone, and an empty line stands before the signature."""
    name, value = trailer
    line = f"{name}:{value}\n".encode()
    body = b"".join(signer.chunk(piece) + piece + b"\r\n" for piece in pieces(data, sizes))
    return body + signer.chunk(b"") + line + b"\r\n" + signer.trailer(line) + b"\r\n\r\n"


def unsigned_by_minio_go(data: bytes, sizes: Sequence[int], trailer: tuple[str, str]) -> bytes:
    """Its trailer ends with a newline alone, and with one more end of line than needed."""
    return unsigned(data, sizes).removesuffix(b"\r\n") + f"{trailer[0]}:{trailer[1]}\n\r\n\r\n".encode()
