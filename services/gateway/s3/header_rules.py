"""Which `x-amz-` headers are understood. One that is not could change what is stored, shown or allowed: it is never ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from services.gateway.s3.errors import S3Error

_PREFIX: Final = "x-amz-"
_META_PREFIX: Final = "x-amz-meta-"
_CHECKSUMS: Final = frozenset(
    f"x-amz-checksum-{what}" for what in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256", "mode", "type", "algorithm")
)
_CUSTOMER_KEY_PREFIX: Final = "x-amz-server-side-encryption-customer-"
_READS: Final = frozenset({"GET", "HEAD"})

_TAKEN: Final = frozenset(
    {
        "x-amz-acl",
        "x-amz-bypass-governance-retention",
        "x-amz-content-sha256",
        "x-amz-copy-source",
        "x-amz-copy-source-if-match",
        "x-amz-copy-source-if-modified-since",
        "x-amz-copy-source-if-none-match",
        "x-amz-copy-source-if-unmodified-since",
        "x-amz-copy-source-range",
        "x-amz-date",
        "x-amz-decoded-content-length",
        "x-amz-expected-bucket-owner",
        "x-amz-if-match-last-modified-time",
        "x-amz-if-match-size",
        "x-amz-max-parts",
        "x-amz-metadata-directive",
        "x-amz-mp-object-size",
        "x-amz-object-attributes",
        "x-amz-part-number-marker",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-source-expected-bucket-owner",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-tagging-directive",
        "x-amz-trailer",
        "x-amz-website-redirect-location",
        # Without meaning here: nobody pays, no lock is passed, and the others only describe the client or ask for more rows.
        "x-amz-api-version",
        "x-amz-cf-id",
        "x-amz-optional-object-attributes",
        "x-amz-request-payer",
        "x-amz-te",
        "x-amz-user-agent",
    }
)

_OF_LINKS: Final = frozenset({
    *("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-amz-signature"),
    *("x-amz-security-token", "x-amz-content-sha256"),
    # Of no meaning: the body's own headers say which checksum it has.
    *("x-amz-sdk-checksum-algorithm", "x-amz-user-agent"),
})  # fmt: skip
"""Parameters of a query, by lower-case names."""

_ALLOWED_VALUES: Final[Mapping[str, frozenset[str]]] = {
    # Nobody gets more by them than the owner of a bucket has anyhow.
    "x-amz-acl": frozenset({"private", "bucket-owner-read", "bucket-owner-full-control"}),
    "x-amz-bucket-object-lock-enabled": frozenset({"false"}),
}


def refuse_unknown_headers(method: str, headers: Mapping[str, str]) -> None:
    """Return where every header of S3's among them is understood; `headers` by lower-case names.

    Raises:
        S3Error: NotImplemented.
    """
    for name, value in headers.items():
        if not name.startswith(_PREFIX):
            continue
        if (allowed := _ALLOWED_VALUES.get(name)) is not None:
            is_taken = value.strip().lower() in allowed
        else:
            is_taken = name in _TAKEN or name in _CHECKSUMS or name.startswith(_META_PREFIX)
        # A read tells by itself that an object has no such key.
        if not is_taken and not (method in _READS and name.startswith(_CUSTOMER_KEY_PREFIX)):
            raise S3Error(
                "NotImplemented",
                "A header you provided implies functionality that is not implemented",
                Header=name[:128],
            )


def refuse_unknown_parameters(names: Iterable[str]) -> None:
    """Return where the query has nothing that would be a header: some SDKs move those of a link there, and S3 reads them.

    Ignored, a link to copy would overwrite, and what its signer demanded of a body, an owner or a class would not hold.

    Raises:
        S3Error: NotImplemented.
    """
    for name in names:
        lower = name.lower()
        if lower.startswith(_PREFIX) and lower not in _OF_LINKS:
            raise S3Error(
                "NotImplemented",
                "A parameter you provided is a header that links do not carry here",
                ArgumentName=name[:128],
            )
