"""AWS Signature Version 4 as a server sees it: what a head says of its signature, and whether it is right. Pure.

Sources: "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference, by header, by query and by chunks.
Everything is taken from the bytes as they came. Clients differ in what they escape, so a head is right under any of the few
canonical forms that name the same thing (`canonical_forms`, G-208): each of them decodes to the very path and query that are
used.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from services.gateway.s3.errors import S3Error
from services.gateway.semantics.http_dates import unix_seconds

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
PAYLOAD_HEADER: Final = "x-amz-content-sha256"
EXPIRES_MAX_S: Final = 7 * 24 * 3600
SIGNING_KEYS_MAX: Final = 1024

_EMPTY_SHA256: Final = hashlib.sha256().hexdigest()
_SIGNED_PREFIX: Final = "x-amz-"
_OTHER_ALGORITHM: Final = "AWS4-ECDSA-P256-SHA256"
_SHORT_DATE: Final = re.compile(r"[0-9]{8}")
_REGION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOMENT: Final = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_NO_ZONE: Final = re.compile(r"[+-]0000$")
"""As the date of a mail has it, which some clients send in place of HTTP's."""

_EXPIRES: Final = re.compile(r"[0-9]{1,9}")
_HEADERS: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(?:;[a-z0-9!#$%&'*+.^_`|~-]+)*")
_SIGNATURE_MAX: Final = 256
_DEFAULT_PORTS: Final = (b":80", b":443")
"""There are clients that send one and sign the host without it."""

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names in lower case and values, as ASGI has them."""


@dataclass(frozen=True, slots=True)
class RawHead:
    """What is signed of a request. `query_string`: without the question mark."""

    method: str
    path: bytes
    query_string: bytes
    headers: RawHeaders


@dataclass(frozen=True, slots=True)
class SignedHead:
    """What a head says of its signature; proved by nothing yet.

    Attributes:
        key: id of an access key, or whatever stands in its place.
        moment: when it was signed, as the signature has it (`20130524T000000Z`); `moment_s` the same in Unix seconds.
        region: any.
        headers: names of those that are signed, ascending.
        signature: hex, or whatever stands in its place.
        expires_s: of the form in the query: seconds after `moment_s`; None for the one in Authorization.
        payload: what stands for the body in what was signed.
    """

    key: str
    moment: str
    moment_s: int
    region: str
    headers: tuple[str, ...]
    signature: str
    expires_s: int | None
    payload: str

    @property
    def date(self) -> str:
        """Day of `moment`, which is that of the scope."""
        return self.moment[:8]

    @property
    def scope(self) -> str:
        """What the signing key is good for."""
        return f"{self.date}/{self.region}/s3/aws4_request"


def signed_head(head: RawHead) -> SignedHead | None:
    """What the head says of its signature, in Authorization or in the query; None where it has neither.

    Raises:
        S3Error: there are two, or one of another version, or one that is malformed.
    """
    authorizations = [value for name, value in head.headers if name == b"authorization"]
    parameters = _parameters(head.query_string)
    if len(authorizations) + bool(parameters) > 1:
        raise S3Error("InvalidArgument", "Only one auth mechanism allowed, once: Authorization, or X-Amz-Signature.")
    if parameters:
        return _from_query(parameters, head)
    return _from_header(authorizations[0].decode("latin-1"), head) if authorizations else None


def signed_form(fields: Mapping[str, str]) -> SignedHead | None:
    """What the fields of a form say of the signature of its policy; None where they say nothing.

    Args:
        fields: by lower-case names.

    Raises:
        S3Error: one is missing or malformed, or of another version.
    """
    if not _OLD_FIELDS.isdisjoint(fields):
        raise _old_version()
    if "x-amz-security-token" in fields:
        raise _no_tokens()
    if fields.keys().isdisjoint(_FORM_FIELDS):
        return None
    if missing := sorted(_FORM_FIELDS.difference(fields)):
        raise S3Error(
            "InvalidArgument", f"Bucket POST must contain a field named '{missing[0]}'.", ArgumentName=missing[0]
        )
    code = "MalformedPOSTRequest"
    _check_algorithm(fields["x-amz-algorithm"], code)
    moment = fields["x-amz-date"]
    if (moment_s := _moment_s(moment)) is None:
        raise S3Error(code, "x-amz-date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\".")
    key, region = _credential(fields["x-amz-credential"], moment, code)
    return SignedHead(key, moment, moment_s, region, (), fields["x-amz-signature"], None, UNSIGNED_PAYLOAD)


_FORM_FIELDS: Final = frozenset({"policy", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"})
_OLD_FIELDS: Final = frozenset({"awsaccesskeyid", "signature"})


def unsigned_headers(signed: SignedHead, head: RawHead) -> list[str]:
    """The headers that would change what is done, and that nobody has signed. The lesson of CVE-2026-54330 and its kin."""
    names = {name.decode("latin-1") for name, _ in head.headers if name.startswith(b"x-amz-")}
    return sorted(names.difference(signed.headers) - {PAYLOAD_HEADER})


def is_proved(signed: SignedHead, head: RawHead, signing_key: bytes) -> bool:
    """Whether the signature of the head is right; compared in constant time."""
    signature = signed.signature.encode("latin-1")
    return any(
        hmac.compare_digest(_sign(signing_key, _text_to_sign(signed, form)), signature)
        for form in canonical_forms(signed, head)
    )


def canonical_forms(signed: SignedHead, head: RawHead) -> Iterator[bytes]:
    """What a client may have signed for this head, the likeliest first; none where a header that is signed is not there.

    Path and query are as they came, which with most clients is what AWS says, or decoded and escaped anew. The one form of a
    path never stands for another path than the other form does: decoding either gives the path itself.
    """
    headers = _values(signed.headers, head.headers)
    if headers is None:
        return
    host, query = headers["host"], _query_as_sent(head.query_string)
    yield canonical_request(head.method, head.path, query, headers, signed)
    hosts = {host, host.rpartition(b":")[0] if host.endswith(_DEFAULT_PORTS) else host}
    paths = {head.path, canonical_path(head.path)}
    queries = {query, _query_anew(head.query_string)}
    for host, path, query in itertools.product(hosts, paths, queries):
        yield canonical_request(head.method, path, query, headers | {"host": host}, signed)


def canonical_request(
    method: str, path: bytes, query: bytes, headers: Mapping[str, bytes], signed: SignedHead
) -> bytes:
    """The text whose hash is signed. `headers`: those that are signed, in order."""
    lines = b"".join(b"%b:%b\n" % (name.encode("latin-1"), value) for name, value in headers.items())
    names = ";".join(signed.headers).encode("latin-1")
    return b"\n".join((method.encode("latin-1"), path, query, lines, names, signed.payload.encode("latin-1")))


def canonical_path(path: bytes) -> bytes:
    """Decoded once and escaped anew. No dot segment and no `//` is touched: a key is not a path."""
    return quote_from_bytes(unquote_to_bytes(path), safe="/").encode() if b"%" in path or _has_reserved(path) else path


def signing_key(secret: str, date: str, region: str) -> bytes:
    """What an access key signs with on one day in one region."""
    key = ("AWS4" + secret).encode("utf-8", "surrogatepass")
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode("latin-1"), "sha256")
    return key


class SigningKeys:
    """Those that were used last. Invariant: each was derived from the sealed secret that it stands with, and proved a head."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, signed: SignedHead, sealed: bytes) -> bytes | None:
        """The key by which `signed` is to be proved, if the secret is still the one that is sealed in `sealed`."""
        found = self._keys.get((signed.key, signed.date, signed.region))
        return None if found is None or found[0] != sealed else found[1]

    def put(self, signed: SignedHead, sealed: bytes, key: bytes) -> None:
        """`key` has proved `signed`: nobody else can push others out."""
        name = (signed.key, signed.date, signed.region)
        self._keys.pop(name, None)
        if len(self._keys) >= SIGNING_KEYS_MAX:
            del self._keys[next(iter(self._keys))]
        self._keys[name] = (sealed, key)


@dataclass(slots=True)
class SignatureChain:
    """Signatures of the chunks of one body: each also signs the one before, the first the head's.

    Attributes:
        moment, scope: of the head.
        previous: the signature before the next.
    """

    moment: str
    scope: str
    previous: str
    signing_key: bytes = field(repr=False)

    def is_chunk_proved(self, sha256: str, signature: bytes) -> bool:
        """Whether `signature` is that of the next chunk, whose bytes hash to `sha256`."""
        return self._is_next(f"{ALGORITHM}-PAYLOAD", f"{_EMPTY_SHA256}\n{sha256}", signature)

    def is_trailer_proved(self, lines: bytes, signature: bytes) -> bool:
        """The same of the trailer; `lines`: `name:value`, each with its newline."""
        return self._is_next(f"{ALGORITHM}-TRAILER", hashlib.sha256(lines).hexdigest(), signature)

    def _is_next(self, algorithm: str, hashes: str, signature: bytes) -> bool:
        text = f"{algorithm}\n{self.moment}\n{self.scope}\n{self.previous}\n{hashes}"
        expected = _sign(self.signing_key, text.encode("latin-1"))
        self.previous = expected.decode()
        return hmac.compare_digest(expected, signature)


def is_policy_proved(policy: str, signature: str, key: bytes) -> bool:
    """Whether `signature` is that of a form's policy, which is signed as it stands, in base64."""
    return hmac.compare_digest(
        _sign(key, policy.encode("utf-8", "surrogatepass")), signature.encode("utf-8", "replace")
    )


def _sign(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256").hex().encode()


def _text_to_sign(signed: SignedHead, form: bytes) -> bytes:
    return f"{ALGORITHM}\n{signed.moment}\n{signed.scope}\n{hashlib.sha256(form).hexdigest()}".encode("latin-1")


def _values(names: Sequence[str], headers: RawHeaders) -> dict[str, bytes] | None:
    """By name in the order of `names`: trimmed, runs of white space made one, repeats joined. None if one is not there."""
    wanted = {name.encode("latin-1"): name for name in names}
    found: dict[str, bytes] = {}
    for raw_name, raw_value in headers:
        if (name := wanted.get(raw_name)) is not None:
            value = b" ".join(raw_value.split())
            found[name] = value if name not in found else found[name] + b"," + value
    return {name: found[name] for name in names} if len(found) == len(wanted) else None


def _has_reserved(path: bytes) -> bool:
    return _RESERVED.search(path) is not None


_RESERVED: Final = re.compile(rb"[^A-Za-z0-9/._~-]")


def _query_as_sent(query_string: bytes) -> bytes:
    return _joined([raw_name, raw_value] for raw_name, raw_value in _signed_pairs(query_string))


def _query_anew(query_string: bytes) -> bytes:
    return _joined([_escaped(_decoded(each)) for each in pair] for pair in _signed_pairs(query_string))


def _signed_pairs(query_string: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values as sent, without those of the signature itself."""
    for piece in query_string.split(b"&"):
        name, _, value = piece.partition(b"=")
        if piece and _decoded(name) != b"X-Amz-Signature":
            yield name, value


def _joined(pairs: Iterable[list[bytes]]) -> bytes:
    return b"&".join(map(b"=".join, sorted(pairs)))


def _escaped(text: bytes) -> bytes:
    return quote_from_bytes(text, safe="").encode()


def _decoded(raw: bytes) -> bytes:
    """In a query, and only there, a plus is a space."""
    return unquote_to_bytes(raw.replace(b"+", b" ")) if b"%" in raw or b"+" in raw else raw


_QUERY_NAMES: Final = {
    name.lower(): name
    for name in (
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Amz-Content-Sha256",
    )
}
_OLD_NAMES: Final = frozenset({"AWSAccessKeyId", "Signature"})


def _parameters(query_string: bytes) -> dict[str, str]:
    """Those of a signature in the query, none if there is none.

    Raises:
        S3Error: one is given twice, or in another spelling, or they are those of version 2.
    """
    if b"=" not in query_string:
        return {}
    found: dict[str, str] = {}
    for piece in query_string.split(b"&"):
        raw_name, _, raw_value = piece.partition(b"=")
        name = _decoded(raw_name).decode("latin-1")
        if name in _OLD_NAMES:
            raise _old_version()
        if (known := _QUERY_NAMES.get(name.lower())) is None:
            continue
        if name in found:
            raise S3Error("InvalidArgument", f"{known} is given twice.")
        if name != known:
            raise _malformed_query(f"{known} is spelled like this.")
        found[name] = _decoded(raw_value).decode("latin-1")
    return found


def _from_query(found: Mapping[str, str], head: RawHead) -> SignedHead:
    if "X-Amz-Security-Token" in found:
        raise _no_tokens()
    if missing := sorted(_REQUIRED.difference(found)):
        raise _malformed_query(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            f"X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters. Missing: {', '.join(missing)}."
        )
    _check_algorithm(found["X-Amz-Algorithm"], "AuthorizationQueryParametersError")
    moment = found["X-Amz-Date"]
    moment_s = _moment_s(moment)
    if moment_s is None:
        raise _malformed_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\".")
    expires = found["X-Amz-Expires"]
    if not _EXPIRES.fullmatch(expires) or not 1 <= int(expires) <= EXPIRES_MAX_S:
        raise _malformed_query(f"X-Amz-Expires must be a number of seconds from 1 to {EXPIRES_MAX_S}.")
    headers = _header_names(found["X-Amz-SignedHeaders"], "AuthorizationQueryParametersError")
    key, region = _credential(found["X-Amz-Credential"], moment, "AuthorizationQueryParametersError")
    payload = found.get("X-Amz-Content-Sha256")
    if payload is None:
        # A header that is not signed does not count: whoever has the link could choose it.
        payload = _header(head, PAYLOAD_HEADER) if PAYLOAD_HEADER in headers else None
    return SignedHead(
        key,
        moment,
        moment_s,
        region,
        headers,
        found["X-Amz-Signature"][:_SIGNATURE_MAX],
        int(expires),
        UNSIGNED_PAYLOAD if payload is None else payload,
    )


_REQUIRED: Final = frozenset({
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
})  # fmt: skip


def _from_header(authorization: str, head: RawHead) -> SignedHead:
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme == "AWS":
        raise _old_version()
    if not scheme.startswith("AWS4-"):
        raise S3Error("InvalidArgument", "Unsupported Authorization Type.")
    code = "AuthorizationHeaderMalformed"
    _check_algorithm(scheme, code)
    if _header(head, "x-amz-security-token") is not None:
        raise _no_tokens()
    found = _fields(rest)
    headers = _header_names(found["SignedHeaders"], code)
    moment, moment_s = _header_moment(head)
    key, region = _credential(found["Credential"], moment, code)
    payload = _header(head, PAYLOAD_HEADER)
    if payload is None:
        raise S3Error("InvalidRequest", f"Missing required header for this request: {PAYLOAD_HEADER}")
    return SignedHead(key, moment, moment_s, region, headers, found["Signature"], None, payload)


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name in found or name not in {"Credential", "SignedHeaders", "Signature"}:
            break
        found[name] = value
    else:
        if len(found) == 3 and len(found["Signature"]) <= _SIGNATURE_MAX:
            return found
    raise S3Error(
        "AuthorizationHeaderMalformed",
        "The authorization header is malformed; it has Credential, SignedHeaders and Signature, each once.",
    )


def _header_moment(head: RawHead) -> tuple[str, int]:
    if (value := _header(head, "x-amz-date")) is not None:
        if (moment_s := _moment_s(value)) is not None:
            return value, moment_s
    elif (moment_s := unix_seconds(_NO_ZONE.sub("GMT", _header(head, "date") or ""))) is not None:
        return datetime.fromtimestamp(moment_s, UTC).strftime("%Y%m%dT%H%M%SZ"), moment_s
    raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header")


def _moment_s(text: str) -> int | None:
    if (match := _MOMENT.fullmatch(text)) is None:
        return None
    try:
        year, month, day, hour, minute, second = map(int, match.groups())
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _check_algorithm(algorithm: str, code: str) -> None:
    if algorithm == _OTHER_ALGORITHM:
        raise S3Error("NotImplemented", "Signature Version 4A is not offered; use AWS4-HMAC-SHA256.")
    if algorithm != ALGORITHM:
        raise S3Error(code, "The algorithm of a signature is AWS4-HMAC-SHA256.")


def _header_names(text: str, code: str) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if not _HEADERS.fullmatch(text) or list(names) != sorted(set(names)):
        raise S3Error(code, "SignedHeaders has names in lower case, ascending, each once.")
    if "host" not in names:
        raise S3Error(code, "The header host must be signed.")
    return names


def _credential(text: str, moment: str, code: str) -> tuple[str, str]:
    """Id of the access key, and the region."""
    key, *scope = text.rsplit("/", 4)
    if len(scope) != 4 or not key or not _SHORT_DATE.fullmatch(scope[0]) or scope[2:] != ["s3", "aws4_request"]:
        raise S3Error(code, "The Credential is mal-formed; expecting <key>/YYYYMMDD/REGION/s3/aws4_request.")
    if scope[0] != moment[:8]:
        raise S3Error(code, "Invalid credential date. This date is not the same as X-Amz-Date.")
    if not _REGION.fullmatch(scope[1]):
        raise S3Error(code, "The region of the Credential is malformed.")
    return key, scope[1]


def _header(head: RawHead, name: str) -> str | None:
    """The value of a header, repeated ones joined as they are signed."""
    raw_name = name.encode("latin-1")
    values = [b" ".join(value.split()) for each, value in head.headers if each == raw_name]
    return b",".join(values).decode("latin-1") if values else None


def _old_version() -> S3Error:
    return S3Error(
        "InvalidRequest", "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
    )


def _no_tokens() -> S3Error:
    return S3Error("InvalidToken", "There are no session tokens here: sign with the secret of an access key alone.")


def _malformed_query(message: str) -> S3Error:
    return S3Error("AuthorizationQueryParametersError", message)
