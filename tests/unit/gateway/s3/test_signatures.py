"""Signature Version 4: what the signers of known clients make is right, and nothing else is."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import SplitResult, quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st
from minio.credentials import Credentials as MinioCredentials
from minio.helpers import queryencode
from minio.signer import presign_v4, sign_v4_s3

from services.gateway.s3.errors import S3Error
from services.gateway.s3.signatures import (
    SIGNING_KEYS_MAX,
    RawHead,
    SignedHead,
    SigningKeys,
    canonical_path,
    is_proved,
    signed_head,
    signing_key,
    unsigned_headers,
)
from tests.unit.gateway.s3.aws_chunks import KEY_ID, REGION, SECRET

NOW = datetime(2026, 11, 29, 11, 0, 0, tzinfo=UTC)
BOTOCORE_REQUESTS, MINIO_REQUESTS = 1000, 500
"""Random ones, of each form: in a header and in the query."""

CHANGES = 3
"""How many of the heads that say something else are tried, of each request."""

ODD_KEYS = [
    "a//b", "/", "..", "a/../b", "./a", "a%2Fb", "a+b c", "@=()'!*$&:;,", "~", "ä/ö", "%", "dir/", "a\nb", "\x01", "",
]  # fmt: skip
ESCAPES = ["/~", "/", "/~@=()'!*$&:;,+", "~"]
"""What stays as it is in a path. Clients differ."""

SIGV2 = {"AWSAccessKeyId", "Signature"}
WORDS = string.ascii_letters + string.digits + "=;,/()\"'%+ \t"
NAMES = string.ascii_lowercase + string.digits + "-"
HOSTS = ["localhost:9000", "s3.example.org", "photos.s3.example.org:9443", "127.0.0.1:80", "[::1]:9000"]
METHODS = ["GET", "PUT", "POST", "DELETE", "HEAD"]


class Drawn:
    """What one random request has."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.method, self.host, self.safe = chance.choice(METHODS), chance.choice(HOSTS), chance.choice(ESCAPES)
        self.key = chance.choice(ODD_KEYS) if chance.random() < 0.2 else self._text(40)
        self.pairs = [
            (name, None if chance.random() < 0.3 else self._text(20))
            for name in {self._text(20) for _ in range(chance.randrange(7))}
            if name and not name.lower().startswith("x-amz-") and name not in SIGV2
        ]
        known = ["content-type", "content-md5", "x-amz-acl", "range"]
        names = [chance.choice([self.meta_name(), *known]) for _ in range(chance.randrange(6))]
        self.headers = {name: self.words() for name in names}
        self.body = chance.randbytes(chance.randrange(65))
        self.expires_s = chance.choice([1, 604800, chance.randint(1, 604800)])

    def meta_name(self) -> str:
        return "x-amz-meta-" + "".join(self.chance.choices(NAMES, k=self.chance.randint(1, 12)))

    def words(self) -> str:
        return "".join(self.chance.choices(WORDS, k=self.chance.randrange(25)))

    def _text(self, size_max: int) -> str:
        """Characters of one, two, three and four bytes, without surrogates."""
        ranges = [(0x20, 0x7E), (0x20, 0x7E), (0, 0x7FF), (0x800, 0xD7FF), (0xE000, 0x10FFFF)]
        chance = self.chance
        return "".join(chr(chance.randint(*chance.choice(ranges))) for _ in range(chance.randrange(size_max + 1)))


def drawn(seed: int, count: int) -> Iterator[Drawn]:
    chance = random.Random(seed)
    return (Drawn(chance) for _ in range(count))


def path_of(key: str, safe: str) -> str:
    return "/photos/" + quote(key, safe=safe)


def query_of(pairs: Sequence[tuple[str, str | None]], *, encode=lambda text: quote(text, safe="-_.~")) -> str:
    return "&".join(encode(name) if value is None else f"{encode(name)}={encode(value)}" for name, value in pairs)


def raw_head(method: str, url: str, sent: dict[str, str]) -> RawHead:
    """As it arrives."""
    _, _, rest = url.partition("://")
    host, slash, target = rest.partition("/")
    path, _, query = (slash + target).partition("?")
    lines = {name.lower(): value for name, value in sent.items()}
    return RawHead(
        method,
        path.encode(),
        query.encode(),
        [(name.encode(), value.encode()) for name, value in ({"host": host} | lines).items()],
    )


def known(head: RawHead, secret: str = SECRET) -> SignedHead | None:
    """What is proved of a head by that secret."""
    found = signed_head(head)
    assert found is not None
    return found if is_proved(found, head, signing_key(secret, found.date, found.region)) else None


def changes_of(head: RawHead, signed: SignedHead) -> list[RawHead]:
    """Heads that say something else, each in one thing that is signed."""
    at = len(head.path) // 2
    others = [
        replace(head, method="PATCH"),
        replace(head, path=head.path + b"x"),
        replace(head, path=head.path[:at] + b"/x" + head.path[at:]),
        replace(head, query_string=b"versionId=1&" + head.query_string),
    ]
    for name in signed.headers:
        raw = name.encode()
        left = [(each, value) for each, value in head.headers if each != raw]
        value = next(value for each, value in head.headers if each == raw)
        others.append(replace(head, headers=left))
        if name != "x-amz-date":
            others.append(replace(head, headers=[*left, (raw, value + b"x")]))
    return others


def check(head: RawHead, facts: Drawn, seed: int) -> SignedHead:
    """It is right, and nothing else is."""
    shown = (seed, facts.method, facts.host, facts.key, facts.pairs, facts.headers)
    signed = known(head)
    assert signed is not None, shown
    assert (signed.key, signed.region, unsigned_headers(signed, head)) == (KEY_ID, REGION, []), shown
    assert known(head, SECRET[::-1]) is None, shown
    for other in facts.chance.sample(changes_of(head, signed), CHANGES):
        with suppress(S3Error):  # or refused before it is compared
            assert known(other) is None, (other, *shown)
    return signed


def test_what_botocore_signs_by_header_is_right(seed: int) -> None:
    """Random paths, queries, headers and bodies."""
    for it in drawn(seed, BOTOCORE_REQUESTS):
        url = f"http://{it.host}{path_of(it.key, it.safe)}"
        request = AWSRequest(it.method, f"{url}?{query_of(it.pairs)}" if it.pairs else url, dict(it.headers), it.body)
        S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION).add_auth(request)
        # What goes on the wire beside what botocore signs.
        beside = {"user-agent": "Boto3", "expect": "100-continue"}
        check(raw_head(it.method, request.url, {**dict(request.headers.items()), **beside}), it, seed)


def test_what_botocore_signs_by_query_is_right(seed: int) -> None:
    """The same for links."""
    for it in drawn(seed, BOTOCORE_REQUESTS):
        url = f"http://{it.host}{path_of(it.key, it.safe)}"
        request = AWSRequest(it.method, f"{url}?{query_of(it.pairs)}" if it.pairs else url, dict(it.headers))
        S3SigV4QueryAuth(Credentials(KEY_ID, SECRET), "s3", REGION, expires=it.expires_s).add_auth(request)
        signed = check(raw_head(it.method, request.url, dict(request.headers.items())), it, seed)
        assert signed.expires_s == it.expires_s


def minio_url(it: Drawn) -> SplitResult:
    query = query_of([(name, value or "") for name, value in it.pairs], encode=queryencode)
    return urlsplit(f"http://{it.host}/photos/{queryencode(it.key).replace('%2F', '/')}?{query}")


def test_what_minio_signs_by_header_is_right(seed: int) -> None:
    """The second client's own signer."""
    for it in drawn(seed, MINIO_REQUESTS):
        url, sent = minio_url(it), {it.meta_name(): it.words().replace("\t", " ") for _ in it.headers}
        lines = {
            "Host": it.host,
            "x-amz-date": NOW.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
        }
        signed = sign_v4_s3(
            method=it.method,
            url=url,
            region=REGION,
            headers=lines | sent,
            credentials=MinioCredentials(KEY_ID, SECRET),
            content_sha256="UNSIGNED-PAYLOAD",
            date=NOW,
        )
        check(raw_head(it.method, url.geturl(), signed), it, seed)


def test_what_minio_signs_by_query_is_right(seed: int) -> None:
    """The same for links."""
    for it in drawn(seed, MINIO_REQUESTS):
        url = presign_v4(
            method=it.method,
            url=minio_url(it),
            region=REGION,
            credentials=MinioCredentials(KEY_ID, SECRET),
            date=NOW,
            expires=it.expires_s,
        )
        check(raw_head(it.method, url.geturl(), {}), it, seed)


def test_every_bit_of_a_signature_counts() -> None:
    """The first and the last."""
    head = by_header()
    signed = known(head)
    assert signed is not None
    key = signing_key(SECRET, signed.date, signed.region)
    for at in range(8 * len(signed.signature)):
        other = bytearray(signed.signature.encode())
        other[at // 8] ^= 1 << at % 8
        assert not is_proved(replace(signed, signature=other.decode("latin-1")), head, key)
    for other in ("", signed.signature[:-1], signed.signature + "0", signed.signature.upper()):
        assert not is_proved(replace(signed, signature=other), head, key)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_forms_of_a_path_mean_one_path(key: str) -> None:
    """Whatever a client escapes, what it signed decodes to the path that is used, so no signature is good for two."""
    for safe in ("/~", "~", "/~@=()'!*$&:;,+"):
        assert canonical_path(quote(key, safe=safe).encode()) == quote(key, safe="/~").encode()


EXAMPLE_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
EXAMPLE_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_amazons_own_example_by_header() -> None:
    """In "Authenticating Requests: Using the Authorization Header", GET Object."""
    head = raw_head(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {
            "range": "bytes=0-9",
            "x-amz-content-sha256": EMPTY,
            "x-amz-date": "20130524T000000Z",
            "authorization": "AWS4-HMAC-SHA256 "
            f"Credential={EXAMPLE_KEY}/20130524/us-east-1/s3/aws4_request,"
            "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        },
    )
    assert known(head, EXAMPLE_SECRET) is not None


def test_amazons_own_example_by_query() -> None:
    """In "Authenticating Requests: Using Query Parameters"."""
    head = raw_head(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential={EXAMPLE_KEY}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"
        "&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        {},
    )
    assert known(head, EXAMPLE_SECRET) is not None


def by_header(**changes: str) -> RawHead:
    """A head as botocore signs it, with headers changed afterwards."""
    request = AWSRequest("GET", "http://localhost:9000/photos/a", {})
    S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION).add_auth(request)
    lines = dict(request.headers.items()) | {name.replace("_", "-"): value for name, value in changes.items()}
    return raw_head("GET", request.url, lines)


def by_query(**changes: str | None) -> RawHead:
    """A link as botocore makes it, with parameters changed or left out afterwards."""
    request = AWSRequest("GET", "http://localhost:9000/photos/a", {})
    S3SigV4QueryAuth(Credentials(KEY_ID, SECRET), "s3", REGION).add_auth(request)
    url, _, query = request.url.partition("?")
    pairs = dict(piece.split("=") for piece in query.split("&"))
    for name, value in changes.items():
        pairs["X-Amz-" + name.replace("_", "-")] = value
    return raw_head(
        "GET", f"{url}?" + "&".join(f"{name}={value}" for name, value in pairs.items() if value is not None), {}
    )


def test_a_default_port_may_be_left_out_of_what_is_signed() -> None:
    """There are clients that send it, and sign the host without it."""
    request = AWSRequest("GET", "http://localhost/photos/a", {})
    S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION).add_auth(request)
    lines = dict(request.headers.items())
    assert known(raw_head("GET", request.url, {**lines, "host": "localhost:80"})) is not None
    assert known(raw_head("GET", request.url, {**lines, "host": "localhost:443"})) is not None
    assert known(raw_head("GET", request.url, {**lines, "host": "localhost:9000"})) is None


@pytest.mark.parametrize("separator", [", ", ",", " , "])
def test_commas_with_or_without_spaces(separator: str) -> None:
    """In any order, too."""
    head = by_header()
    scheme, _, rest = dict(head.headers)[b"authorization"].decode().partition(" ")
    for parts in (rest.split(", "), rest.split(", ")[::-1]):
        lines = [*head.headers[:-1], (b"authorization", f"{scheme} {separator.join(parts)}".encode())]
        assert head.headers[-1][0] == b"authorization"
        assert known(replace(head, headers=lines)) is not None


def test_the_date_header_stands_in_for_x_amz_date() -> None:
    """As some old clients send it."""
    request = AWSRequest("GET", "http://localhost:9000/photos/a", {"Date": "x"})
    S3SigV4Auth(Credentials(KEY_ID, SECRET), "s3", REGION).add_auth(request)
    assert "X-Amz-Date" not in request.headers
    assert known(raw_head("GET", request.url, dict(request.headers.items()))) is not None


SCOPE = f"{KEY_ID}/{NOW:%Y%m%d}/{REGION}/s3/aws4_request"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 x", "AuthorizationHeaderMalformed"),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host", "AuthorizationHeaderMalformed"),
        (
            f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host,Signature=0,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host,Signature=0,X=0", "AuthorizationHeaderMalformed"),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=,Signature=0", "AuthorizationHeaderMalformed"),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=x-amz-date,Signature=0", "AuthorizationHeaderMalformed"),
        (
            f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=x-amz-date;host,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=host;host,Signature=0", "AuthorizationHeaderMalformed"),
        (f"AWS4-HMAC-SHA256 Credential={SCOPE},SignedHeaders=Host,Signature=0", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=x,SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (
            f"AWS4-HMAC-SHA256 Credential={SCOPE.replace('/s3/', '/sts/')},SignedHeaders=host,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (
            f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20010101/{REGION}/s3/aws4_request,SignedHeaders=host,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (
            f"AWS4-HMAC-SHA256 Credential={SCOPE.replace(REGION, '')},SignedHeaders=host,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (f"AWS4-HMAC-SHA512 Credential={SCOPE},SignedHeaders=host,Signature=0", "AuthorizationHeaderMalformed"),
        (f"AWS4-ECDSA-P256-SHA256 Credential={SCOPE},SignedHeaders=host,Signature=0", "NotImplemented"),
        (f"AWS {KEY_ID}:c2lnbmF0dXJl", "InvalidRequest"),
        (f"Bearer {KEY_ID}.{SECRET}", "InvalidArgument"),
        ("Basic x", "InvalidArgument"),
        ("", "InvalidArgument"),
        ("\xff", "InvalidArgument"),
    ],
)
def test_another_authorization_is_refused(authorization: str, code: str) -> None:
    """With the word that its client knows."""
    lines = {"x-amz-date": NOW.strftime("%Y%m%dT%H%M%SZ"), "x-amz-content-sha256": EMPTY}
    with pytest.raises(S3Error) as refusal:
        signed_head(raw_head("GET", "http://localhost/a", lines | {"authorization": authorization}))
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "date", ["", "x", "20261129T110000", "20261329T110000Z", "20261129T250000Z", "2026-11-29T11:00:00Z"]
)
def test_a_head_that_does_not_say_when_is_refused(date: str) -> None:
    """Without its moment a signature would be good for ever."""
    with pytest.raises(S3Error, match="AccessDenied"):
        signed_head(by_header(X_Amz_Date=date))


def test_a_head_that_does_not_say_what_its_body_is_is_refused() -> None:
    """By header it must; by query it is not signed unless said."""
    head = by_header()
    with pytest.raises(S3Error, match="InvalidRequest"):
        signed_head(replace(head, headers=[each for each in head.headers if each[0] != b"x-amz-content-sha256"]))
    assert known(by_query()).payload == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("name", ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"])
def test_a_link_has_all_of_its_parameters(name: str) -> None:
    """Each once, and spelled as it is."""
    with pytest.raises(S3Error, match="AuthorizationQueryParametersError"):
        signed_head(by_query(**{name: None}))
    head = by_query()
    with pytest.raises(S3Error, match="InvalidArgument"):
        signed_head(replace(head, query_string=head.query_string + f"&X-Amz-{name}=x".encode()))
    for spelled in (f"x-amz-{name.lower()}", f"X-AMZ-{name}"):
        with pytest.raises(S3Error, match="AuthorizationQueryParametersError"):
            signed_head(
                replace(head, query_string=head.query_string.replace(f"X-Amz-{name}".encode(), spelled.encode()))
            )


@pytest.mark.parametrize(
    "change",
    [
        {"Expires": "0"},
        {"Expires": "604801"},
        {"Expires": "-1"},
        {"Expires": "1.5"},
        {"Expires": ""},
        {"Expires": "9" * 5000},
        {"Date": "x"},
        {"Algorithm": "AWS4-HMAC-SHA1"},
        {"SignedHeaders": ""},
        {"SignedHeaders": "range"},
        {"Credential": "x"},
        {"Credential": f"{KEY_ID}%2F20010101%2F{REGION}%2Fs3%2Faws4_request"},
    ],
)
def test_a_malformed_link_is_refused(change: dict[str, str]) -> None:
    """Before anything is compared."""
    with pytest.raises(S3Error, match="AuthorizationQueryParametersError"):
        signed_head(by_query(**change))


def test_a_link_may_be_good_for_a_week() -> None:
    """And for a second."""
    for expires in ("1", "604800"):
        assert signed_head(by_query(Expires=expires)).expires_s == int(expires)


def test_two_credentials_are_refused() -> None:
    """Never the other one counts."""
    header, query = by_header(), by_query()
    with pytest.raises(S3Error, match="InvalidArgument"):
        signed_head(replace(header, query_string=query.query_string))
    with pytest.raises(S3Error, match="InvalidArgument"):
        signed_head(replace(header, query_string=b"X-Amz-Signature=0"))
    with pytest.raises(S3Error, match="InvalidArgument"):
        signed_head(replace(header, headers=[*header.headers, (b"authorization", b"x")]))
    with pytest.raises(S3Error, match="InvalidRequest"):
        signed_head(replace(header, query_string=b"AWSAccessKeyId=a&Expires=1&Signature=x"))


def test_the_old_version_is_refused() -> None:
    """And its parameters are not just unknown ones."""
    with pytest.raises(S3Error, match="InvalidRequest"):
        signed_head(raw_head("GET", "http://localhost/a?AWSAccessKeyId=a&Expires=1&Signature=x", {}))


def test_session_tokens_are_refused() -> None:
    """A key that needs one is not ours."""
    with pytest.raises(S3Error, match="InvalidToken"):
        signed_head(by_header(x_amz_security_token="t"))
    with pytest.raises(S3Error, match="InvalidToken"):
        signed_head(by_query(Security_Token="t"))


def test_a_request_without_a_credential_has_none() -> None:
    """Whatever else it says."""
    assert (
        signed_head(raw_head("GET", "http://localhost/a?list-type=2&prefix=X-Amz-Signature", {"x-amz-date": "x"}))
        is None
    )


@pytest.mark.parametrize("name", ["x-amz-copy-source", "x-amz-acl", "x-amz-tagging", "x-amz-meta-a", "x-amz-trailer"])
def test_headers_that_count_must_be_signed(name: str) -> None:
    """CVE-2026-54330 and its kin: an upload link and a copy source that nobody had signed read any file."""
    for head in (by_header(), by_query()):
        other = replace(head, headers=[*head.headers, (name.encode(), b"x")])
        assert unsigned_headers(known(other), other) == [name]


def test_headers_that_change_nothing_need_not_be_signed() -> None:
    """Demanding them broke restic and Mimir at another store."""
    lines = dict.fromkeys(["content-type", "content-md5", "range", "expect", "x-amzn-trace-id", "amz-sdk-request"], "x")
    head = by_header(**lines)
    assert unsigned_headers(known(head), head) == []


def test_a_link_signs_its_body_only_if_it_says_so() -> None:
    """A header that is not signed does not enter what is compared: whoever has the link would choose it."""
    head = by_query()
    other = replace(head, headers=[*head.headers, (b"x-amz-content-sha256", EMPTY.encode())])
    assert known(other).payload == "UNSIGNED-PAYLOAD"


def test_signing_keys_are_kept_for_their_secret_only() -> None:
    """A key that was made anew with another secret is another one; and no more are kept than a bound."""
    kept, signed = SigningKeys(), known(by_header())
    assert signed is not None
    kept.put(signed, b"sealed", b"key")
    assert kept.find(signed, b"sealed") == b"key"
    assert kept.find(signed, b"sealed anew") is None
    assert kept.find(replace(signed, region="x"), b"sealed") is None
    assert kept.find(replace(signed, moment="20010101T000000Z"), b"sealed") is None
    for number in range(SIGNING_KEYS_MAX + 10):
        kept.put(replace(signed, key=str(number)), b"", b"")
    assert len(kept) == SIGNING_KEYS_MAX
    assert kept.find(signed, b"sealed") is None
