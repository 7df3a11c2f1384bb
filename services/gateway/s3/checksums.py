"""The checksums that S3 knows: computed, combined, and told in headers and trailers.

A checksum of a whole object can be combined from those of its parts if it is a CRC, so none of their bytes is read again; of the
others there is only a checksum of the parts' checksums (type COMPOSITE).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from awscrt import checksums as awscrt

from services.gateway.s3.errors import S3Error
from services.gateway.semantics.body_digests import Hasher
from shared.contracts.s3 import Checksum, S3Attributes

HEADER_PREFIX: Final = "x-amz-checksum-"
DEFAULT: Final[Checksum] = "crc64nvme"
"""Of what came without one."""

ALGORITHMS: Final[tuple[Checksum, ...]] = get_args(Checksum)
HEADERS: Final[Mapping[str, Checksum]] = {HEADER_PREFIX + name: name for name in ALGORITHMS}
_BY_NAME: Final[Mapping[str, Checksum]] = {name.upper(): name for name in ALGORITHMS}
_SIZES: Final[Mapping[Checksum, int]] = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}
_CRCS: Final[Mapping[Checksum, Callable[[bytes | bytearray, int], int]]] = {
    # Faster than the other one, and it lets go of the interpreter's lock.
    "crc32": zlib.crc32,
    "crc32c": awscrt.crc32c,
    "crc64nvme": awscrt.crc64nvme,
}
_COMBINED: Final[Mapping[Checksum, Callable[[int, int, int], int]]] = {
    "crc32": awscrt.combine_crc32,
    "crc32c": awscrt.combine_crc32c,
    "crc64nvme": awscrt.combine_crc64nvme,
}


class _Crc:
    """A CRC as `hashlib` would have it."""

    __slots__ = ("_compute", "_size_bytes", "_value")

    def __init__(self, name: Checksum) -> None:
        self._compute = _CRCS[name]
        self._size_bytes = _SIZES[name]
        self._value = 0

    def update(self, data: bytes | bytearray, /) -> None:
        self._value = self._compute(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes)


def hasher(name: Checksum) -> Hasher:
    """Computes the checksum of that name."""
    if name in _CRCS:
        return _Crc(name)
    return hashlib.sha256() if name == "sha256" else hashlib.sha1(usedforsecurity=False)


def encoded(digest: bytes) -> str:
    """As headers and documents have it."""
    return base64.b64encode(digest).decode("ascii")


def decoded(name: Checksum, text: str) -> bytes:
    """The inverse. Raises S3Error, InvalidRequest: it is not base64 of that many bytes."""
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid_value(name) from error
    if len(digest) != _SIZES[name]:
        raise _invalid_value(name)
    return digest


def algorithm(text: str) -> Checksum:
    """The checksum that a header or document names, such as CRC32C. Raises S3Error, InvalidRequest."""
    name = _BY_NAME.get(text.strip().upper())
    if name is None:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            f"[{', '.join(_BY_NAME)}]",
        )
    return name


def is_combinable(name: Checksum) -> bool:
    """Whether that of a whole follows from those of its parts."""
    return name in _COMBINED


def combined(name: Checksum, parts: Sequence[tuple[str, int]]) -> str:
    """The checksum of parts one after the other, each given as (its checksum, its size in bytes). `is_combinable`."""
    combine = _COMBINED[name]
    value = 0
    for text, size_bytes in parts:
        value = combine(value, int.from_bytes(decoded(name, text)), size_bytes)
    return encoded(value.to_bytes(_SIZES[name]))


def composite(name: Checksum, parts: Sequence[str]) -> str:
    """The checksum of the parts' checksums, and how many they are."""
    whole = hasher(name)
    for text in parts:
        whole.update(decoded(name, text))
    return f"{encoded(whole.digest())}-{len(parts)}"


def checksum_headers(attributes: S3Attributes | None) -> dict[str, str]:
    """The headers that tell the checksums of a version or part; none where none is known."""
    if attributes is None or not attributes.checksums:
        return {}
    headers = {HEADER_PREFIX + name: value for name, value in attributes.checksums.items()}
    return headers | {"x-amz-checksum-type": attributes.checksum_type}


@dataclass(frozen=True, slots=True)
class AnnouncedChecksum:
    """What a client says that its body has. `digest` is None where it follows the body, under `header`."""

    name: Checksum
    digest: bytes | None

    @property
    def header(self) -> str:
        """Of the head or of the trailer."""
        return HEADER_PREFIX + self.name

    def after(self, trailers: Mapping[str, str]) -> bytes:
        """The digest, now that the body has ended. Raises S3Error: the trailer did not come, or is malformed."""
        if self.digest is not None:
            return self.digest
        value = trailers.get(self.header)
        if value is None:
            raise S3Error("MalformedTrailerError", "The request contained trailing data that was not well-formed.")
        return decoded(self.name, value)

    def mismatch(self) -> S3Error:
        """The body has another one."""
        return S3Error("BadDigest", f"The {self.name.upper()} you specified did not match the calculated checksum.")


def announced(headers: Mapping[str, str], trailer: str | None) -> AnnouncedChecksum | None:
    """What the head says of the checksum of the body; `trailer`: the header that will follow it.

    Raises:
        S3Error: InvalidRequest: more than one, a malformed one, or an algorithm is named and no value comes.
    """
    named = headers.get("x-amz-sdk-checksum-algorithm")
    found: list[AnnouncedChecksum] = []
    for header, name in HEADERS.items():
        if (value := headers.get(header)) is not None:
            found.append(AnnouncedChecksum(name, decoded(name, value)))
    if trailer is not None and trailer.startswith(HEADER_PREFIX):
        found.append(AnnouncedChecksum(_of_trailer(trailer), None))
    if len(found) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    if named is not None:
        _check_named(algorithm(named), found)
    return found[0] if found else None


def _of_trailer(trailer: str) -> Checksum:
    name = HEADERS.get(trailer)
    if name is None:
        raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
    return name


def _check_named(name: Checksum, found: Sequence[AnnouncedChecksum]) -> None:
    if not found:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers "
            "were found.",
        )
    if found[0].name != name:
        raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")


def _invalid_value(name: Checksum) -> S3Error:
    return S3Error("InvalidRequest", f"Value for {HEADER_PREFIX}{name} header is invalid.")
