"""Signed links: good for exactly what they were made for, until they expire, and for nothing else."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.access.links import (
    HARMLESS,
    Now,
    SignedLink,
    check_link,
    is_to_be_named,
    link_in,
)
from services.gateway.semantics.raw_names import FileName, file_name
from shared.contracts.time import ClockState, Stamp
from shared.errors import CredentialInvalidError, HeaderNotSignedError, InvalidRequestError, LinkExpiredError
from shared.links import LIFETIME_MAX_S, make_link, sign, text_to_sign
from shared.timekeeping.hybrid_logical_clock import hlc_from_ns
from shared.units import NANOSECONDS_PER_SECOND

KEY_ID = "TV" + "A" * 18
SECRET = "s" * 40
NOW_S = 1_800_000_000
EXPIRES_S = NOW_S + 3600
PLAIN = [(b"host", b"127.0.0.1"), (b"user-agent", b"curl"), (b"accept", b"*/*")]


def at(seconds: float, *, error_s: float = 0) -> Now:
    return Now(int((seconds - error_s) * NANOSECONDS_PER_SECOND), int((seconds + error_s) * NANOSECONDS_PER_SECOND))


def taken(path: str) -> tuple[SignedLink, FileName]:
    """A link as it comes in."""
    raw_path, _, query = path.partition("?")
    link = link_in(query.encode())
    assert link is not None
    return link, file_name(raw_path.encode())


def use(
    path: str,
    *,
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    secret: str | None = SECRET,
    now: Now | None = None,
) -> SignedLink:
    link, name = taken(path)
    check_link(
        link,
        secret,
        method=method,
        name=name,
        raw_headers=PLAIN + (headers or []),
        now=at(NOW_S) if now is None else now,
    )
    return link


def made(**changes) -> str:
    return make_link(
        changes.pop("key_id", KEY_ID),
        changes.pop("secret", SECRET),
        **{"method": "GET", "bucket": "photos", "key": "a/b.jpg", "expires_s": EXPIRES_S} | changes,
    )


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda key: not {".", ".."} & set(key.split("/"))
)
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
    key=keys,
    query=st.dictionaries(st.sampled_from(["version", "as_of", "é & =", ""]), values, max_size=3),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "X-Trivet-Meta-Place", "x-other"]),
        st.text(string.printable[:95]).map(str.strip),
        max_size=3,
    ),
)
def test_a_link_is_good_for_what_it_was_made_for(method, key, query, headers) -> None:
    """Whatever bytes key, parameters and headers are of; what remains of the query is what was asked beside."""
    path = made(method=method, key=key, query=query, headers=headers)
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    link = use(path, method=method, headers=sent)
    assert taken(path)[1] == FileName("photos", key)
    assert (len(link.rest.split(b"&")) if link.rest else 0) == len(query)
    assert b"link-" not in link.rest


@given(data=st.data())
def test_a_changed_bit_of_any_part_is_refused(data) -> None:
    """Of the path, the query, a named header: never accepted, and never an error of ours."""
    path = made(method="PUT", query={"version": "17"}, headers={"content-type": "text/plain"})
    raw = bytearray(path.encode())
    prefix = len("/v1/files/")
    bit = data.draw(st.integers(prefix * 8, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CredentialInvalidError, InvalidRequestError)):
        use_raw(bytes(raw))


def use_raw(path: bytes) -> None:
    raw_path, _, query = path.partition(b"?")
    link = link_in(query)
    if link is None:
        raise CredentialInvalidError("a request without a link")
    headers = [*PLAIN, (b"content-type", b"text/plain")]
    check_link(link, SECRET, method="PUT", name=file_name(raw_path), raw_headers=headers, now=at(NOW_S))


@given(st.binary(max_size=200))
def test_no_query_makes_an_error_of_ours(query) -> None:
    """It is a link, none, or refused."""
    try:
        link = link_in(query)
    except InvalidRequestError:
        return
    if link is not None:
        with pytest.raises(CredentialInvalidError):
            check_link(link, None, method="GET", name=FileName("photos", "a"), raw_headers=PLAIN, now=at(NOW_S))


@pytest.mark.parametrize(
    ("method", "for_method", "is_good"),
    [
        ("GET", "GET", True),
        ("HEAD", "GET", True),
        ("PUT", "PUT", True),
        ("DELETE", "DELETE", True),
        ("PUT", "GET", False),
        ("DELETE", "GET", False),
        ("POST", "GET", False),
        ("get", "GET", False),
        ("GET", "PUT", False),
        ("HEAD", "PUT", False),
        ("DELETE", "PUT", False),
        ("GET", "DELETE", False),
    ],
)
def test_a_link_is_for_one_method(method, for_method, is_good) -> None:
    """And one for GET for HEAD, too."""
    path = made(method=for_method)
    if is_good:
        use(path, method=method)
    else:
        with pytest.raises(CredentialInvalidError):
            use(path, method=method)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (("photos", "a/b"), ("photos", "a/c")),
        (("photos", "a/b"), ("photos.a", "b")),
        (("photos", "a/b"), ("others", "a/b")),
        (("photos", "a/b"), ("photos", "a%2Fb")),
        (("photos", "é"), ("photos", "e\u0301")),
        (("photos", "a b"), ("photos", "a+b")),
    ],
)
def test_a_link_is_for_one_file(mine, other) -> None:
    """No two names look alike to it."""
    bucket, key = mine
    link, _ = taken(made(bucket=bucket, key=key))
    with pytest.raises(CredentialInvalidError):
        check_link(link, SECRET, method="GET", name=FileName(*other), raw_headers=PLAIN, now=at(NOW_S))


def test_two_requests_never_have_one_text() -> None:
    """What separates the parts can be in none of them."""
    texts = [
        text_to_sign("GET", b"b", b"k", [(b"a", b"b&c=d")], []),
        text_to_sign("GET", b"b", b"k", [(b"a", b"b"), (b"c", b"d")], []),
        text_to_sign("GET", b"b", b"k", [(b"a=b", b"c")], []),
        text_to_sign("GET", b"b", b"k", [(b"a", b"b=c")], []),
        text_to_sign("GET", b"b", b"k\nx:y", [], []),
        text_to_sign("GET", b"b", b"k", [], [("x", "y")]),
        text_to_sign("GET", b"b", b"k", [], [("x", "y\nz:w")]),
        text_to_sign("GET", b"b", b"k", [], [("x", "y"), ("z", "w")]),
        text_to_sign("GET", b"b", b"k", [], [("x:y", "")]),
    ]
    assert len({*texts}) == len(texts)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("version=17", "version=18"),
        lambda path: path.replace("version=17&", ""),
        lambda path: path + "&version=17",
        lambda path: path + "&as_of=1",
        lambda path: path + "&=",
        lambda path: path.replace("version=17", "%76ersion=1%38"),
    ],
)
def test_every_parameter_of_the_query_is_signed(change) -> None:
    """Those that are added, left out and changed."""
    path = made(query={"version": "17"})
    use(path)
    use(path.replace("version=17", "%76ersion=1%37"))  # the same in other words
    with pytest.raises(CredentialInvalidError):
        use(change(path))


@pytest.mark.parametrize(
    "query",
    [
        "link-key=" + KEY_ID,
        "link-signature=" + "0" * 64,
        "%6cink-key=" + KEY_ID,
        f"link-key={KEY_ID}&link-expires=1",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 63}",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'A' * 64}",
        f"link-key={KEY_ID}&link-expires=-1&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&link-expires=1e9&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&link-expires=&link-signature={'0' * 64}",
        f"link-key=TVx&link-expires=1&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&%6cink-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-signature={'0' * 64}",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-other=1",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-headers=",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-headers=b;a",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-headers=a;a",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&link-headers=A",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}&x=%zz",
        f"link-key={KEY_ID}&link-expires=1&link-signature={'0' * 64}" + "&x=1" * 16,
    ],
)
def test_a_malformed_link_is_refused_as_such(query) -> None:
    """Half a link is none of an anonymous request's parameters."""
    with pytest.raises(InvalidRequestError):
        link_in(query.encode())


@pytest.mark.parametrize("query", ["", "version=17", "prefix=link-key", "prefix=%6c&limit=1", "links=1"])
def test_another_query_is_no_link(query) -> None:
    """And is left alone."""
    assert link_in(query.encode()) is None


@pytest.mark.parametrize(
    "header",
    [
        "content-type",
        "Content-Type",
        "content-encoding",
        "content-disposition",
        "content-range",
        "x-trivet-meta-place",
        "x-trivet-write-quorum",
        "x-trivet-read-quorum",
        "x-trivet-copy-source",
        "x-amz-copy-source",
        "idempotency-key",
    ],
)
def test_a_header_that_changes_what_is_stored_or_read_must_be_named(header) -> None:
    """And is taken with the value that was signed alone, and once."""
    value = [(header.encode(), b"one")]
    with pytest.raises(HeaderNotSignedError) as caught:
        use(made(method="PUT"), method="PUT", headers=value)
    assert caught.value.facts == {"header": header.lower()}
    path = made(method="PUT", headers={header: "one"})
    use(path, method="PUT", headers=value)
    for wrong in ([], [(header.encode(), b"two")]):
        with pytest.raises(CredentialInvalidError):
            use(path, method="PUT", headers=wrong)
    with pytest.raises(InvalidRequestError):
        use(path, method="PUT", headers=value * 2)


def test_a_header_that_is_named_must_be_there() -> None:
    """Whatever was signed: a link that names one and signs none asks for what no request can be."""
    query = [(b"link-key", KEY_ID.encode()), (b"link-expires", str(EXPIRES_S).encode()), (b"link-headers", b"x-a")]
    signature = sign(SECRET, text_to_sign("PUT", b"photos", b"a", query, []))
    written = "&".join(f"{name.decode()}={value.decode()}" for name, value in query)
    with pytest.raises(CredentialInvalidError):
        use(f"/v1/files/photos/a?{written}&link-signature={signature}", method="PUT")


def test_harmless_headers_need_not_be_named() -> None:
    """They change neither what is stored nor what is read; nor do those that nobody reads."""
    use(made(), headers=[(name.encode(), b"1") for name in HARMLESS - {"host"}] + [(b"cookie", b"a=b")] * 2)


def test_a_harmless_header_that_is_named_is_signed_and_given_once() -> None:
    """A link that says If-None-Match: * creates, and never replaces."""
    path = made(method="PUT", headers={"If-None-Match": "*"})
    use(path, method="PUT", headers=[(b"if-none-match", b"*")])
    for wrong in ([], [(b"if-none-match", b'"x"')]):
        with pytest.raises(CredentialInvalidError):
            use(path, method="PUT", headers=wrong)
    with pytest.raises(InvalidRequestError):
        use(path, method="PUT", headers=[(b"if-none-match", b"*")] * 2)


def test_no_character_of_a_signed_header_is_passed_over() -> None:
    """But spaces and tabs around it, which are none of it for HTTP (RFC 9110 section 5.5)."""
    path = made(method="PUT", headers={"X-Trivet-Meta-A": "b"})
    use(path, method="PUT", headers=[(b"x-trivet-meta-a", b" b\t")])
    for end in (b"\xa0", b"\x85", b"\x1c"):
        with pytest.raises(CredentialInvalidError):
            use(path, method="PUT", headers=[(b"x-trivet-meta-a", b"b" + end)])


def test_a_link_expires_when_it_may_have_expired() -> None:
    """By the upper bound of true time, to the nanosecond."""
    end_ns = EXPIRES_S * NANOSECONDS_PER_SECOND
    use(made(), now=Now(end_ns - NANOSECONDS_PER_SECOND, end_ns - 1))
    for late in (Now(end_ns - NANOSECONDS_PER_SECOND, end_ns), at(EXPIRES_S + 10**6)):
        with pytest.raises(LinkExpiredError):
            use(made(), now=late)


def test_a_link_is_good_for_seven_days_at_most() -> None:
    """By the lower bound of true time."""
    use(made(expires_s=NOW_S + LIFETIME_MAX_S), now=at(NOW_S))
    for wrong in ({"expires_s": NOW_S + LIFETIME_MAX_S + 1}, {"expires_s": 10**11 - 1}):
        with pytest.raises(InvalidRequestError):
            use(made(**wrong), now=at(NOW_S))


def test_only_a_good_signature_learns_that_the_link_has_expired() -> None:
    """Whoever guesses learns nothing of a key."""
    with pytest.raises(CredentialInvalidError):
        use(made(secret="t" * 40), now=at(EXPIRES_S + 1))
    with pytest.raises(CredentialInvalidError):
        use(made(), secret=None)


class Clock:
    """Gives the stamps it is told to give."""

    def __init__(self, stamp: Stamp) -> None:
        self.given = stamp

    def stamp(self) -> Stamp:
        return self.given

    def receive(self, hlc: int) -> None: ...

    def seed(self, hlc: int) -> None: ...


def test_trivets_interval_says_what_time_it_is() -> None:
    """Where there is one; the stamp's own time counts for nothing then."""
    stamp = Stamp(earliest_ns=5, latest_ns=9, hlc=hlc_from_ns(77 * NANOSECONDS_PER_SECOND), state=ClockState.SYNCED)
    assert Now.of(Clock(stamp)) == Now(5, 9)


def test_without_an_interval_the_highest_stamp_counts() -> None:
    """LOGICAL: a host whose clock is set back does not bring a link back to life."""
    stamp = Stamp(hlc=hlc_from_ns(EXPIRES_S * NANOSECONDS_PER_SECOND), state=ClockState.LOGICAL)
    now = Now.of(Clock(stamp))
    assert now.earliest_ns == now.latest_ns == EXPIRES_S * NANOSECONDS_PER_SECOND
    with pytest.raises(LinkExpiredError):
        use(made(), now=now)
    use(made(), now=Now.of(Clock(Stamp(hlc=hlc_from_ns(NOW_S * NANOSECONDS_PER_SECOND), state=ClockState.LOGICAL))))


def test_a_signature_is_compared_whole() -> None:
    """Not its beginning."""
    link, name = taken(made())
    for signature in (link.signature[:-1] + "0", link.signature[:-1] + "1", "0" * 64):
        if signature != link.signature:
            with pytest.raises(CredentialInvalidError):
                check_link(
                    replace(link, signature=signature),
                    SECRET,
                    method="GET",
                    name=name,
                    raw_headers=PLAIN,
                    now=at(NOW_S),
                )


def test_what_is_harmless_is_never_to_be_named() -> None:
    """The two lists do not contradict each other."""
    assert not any(is_to_be_named(header) for header in HARMLESS)
