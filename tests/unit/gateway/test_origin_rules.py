"""Which requests may be the work of a foreign page, and that nothing else is refused."""

from __future__ import annotations

import pytest

from services.gateway.origin_rules import OriginRules, bare_host, normal_host, normal_origin
from shared.errors import ForeignOriginError, MisdirectedRequestError
from tests.unit.gateway.conftest import make_settings

LOCAL = "10.1.2.3"
DEFAULT = make_settings().origin_rules()
NAMED = make_settings(public_hosts="Store.example.org, fd00::7", cors_origins="https://app.example.org").origin_rules()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "localhost:31999",
        "LOCALHOST:8080",
        "localhost.",
        "[::1]:8080",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]:8080",
        LOCAL,
        f"{LOCAL}:8080",
        None,
    ],
)
def test_loopback_names_and_the_bound_address_are_ours_with_any_port(host) -> None:
    """What tests, Swagger UI, port forwards and HTTP/1.0 health checks send."""
    DEFAULT.check_host(host, LOCAL)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8080",
        "localhost.attacker.example",
        "127.0.0.1.attacker.example",
        "xlocalhost",
        "10.1.2.4",
        "0.0.0.0:8080",
        "[::]:8080",
        "2130706433",
        "0x7f.1",
        "127.1",
        "",
        ":8080",
        "localhost:x",
        "localhost, localhost",
        "[::1",
        "a" * 100_000,
    ],
)
def test_a_foreign_host_is_misdirected(host) -> None:
    """421, whatever it resolves to: that is DNS rebinding."""
    with pytest.raises(MisdirectedRequestError) as caught:
        DEFAULT.check_host(host, LOCAL)
    assert (caught.value.status, caught.value.definite) == (421, True)


def test_the_address_in_the_settings_is_ours() -> None:
    """`TRIVET_HOST` is the bound address, also where a proxy before it hides which one that was."""
    make_settings(host="192.168.7.7").origin_rules().check_host("192.168.7.7:80", None)


def test_public_hosts_take_the_place_of_the_default() -> None:
    """A name that is not listed is foreign then, loopback included; the address of the connection is always ours."""
    for host in ("store.example.org", "STORE.example.org:443", "[fd00::7]:8080", LOCAL):
        NAMED.check_host(host, LOCAL)
    for host in ("localhost", "127.0.0.1", "example.org", "www.store.example.org"):
        with pytest.raises(MisdirectedRequestError):
            NAMED.check_host(host, LOCAL)


@pytest.mark.parametrize(
    ("origin", "site", "host"),
    [
        (None, None, "127.0.0.1:8080"),
        (None, "same-origin", "127.0.0.1:8080"),
        (None, "none", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080", "same-origin", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080", None, "127.0.0.1:8080"),
        ("http://localhost", None, "localhost"),
        ("http://localhost", None, "LocalHost:80"),
        ("https://store.example.org", "same-origin", "store.example.org"),
        ("https://store.example.org", "same-origin", "store.example.org:443"),
        ("http://[::1]:8080", "same-origin", "[::1]:8080"),
    ],
)
def test_a_change_of_our_own_pages_and_of_programs_passes(origin, site, host) -> None:
    """Swagger UI, curl, and pages behind a proxy that ends TLS."""
    for rules in (DEFAULT, NAMED):
        rules.check_change(origin, site, host)


@pytest.mark.parametrize(
    ("origin", "site", "host"),
    [
        ("https://attacker.example", "cross-site", "127.0.0.1:8080"),
        ("https://attacker.example", None, "127.0.0.1:8080"),
        (None, "cross-site", "127.0.0.1:8080"),
        (None, "same-site", "127.0.0.1:8080"),
        ("http://127.0.0.1:3000", "same-site", "127.0.0.1:8080"),
        ("http://127.0.0.1:3000", None, "127.0.0.1:8080"),
        ("http://localhost:8080", None, "127.0.0.1:8080"),
        ("null", None, "127.0.0.1:8080"),
        ("null", "cross-site", None),
        ("", None, "127.0.0.1:8080"),
        ("http://127.0.0.1:8080", "cross-site", "127.0.0.1:8080"),
        ("file://", None, "127.0.0.1:8080"),
        ("chrome-extension://abcdef", None, "127.0.0.1:8080"),
        ("http://127.0.0.1:8080, http://127.0.0.1:8080", None, "127.0.0.1:8080"),
        ("http://localhost", None, None),
    ],
)
def test_a_change_of_a_foreign_page_is_forbidden(origin, site, host) -> None:
    """403: a form is sent without asking anybody."""
    for rules in (DEFAULT, NAMED):
        with pytest.raises(ForeignOriginError) as caught:
            rules.check_change(origin, site, host)
        assert (caught.value.status, caught.value.definite) == (403, True)


def test_a_named_origin_may_change_files_and_its_neighbours_may_not() -> None:
    """Exactly scheme, host and port."""
    NAMED.check_change("https://app.example.org", "cross-site", "store.example.org")
    NAMED.check_change("https://app.example.org:443", "same-site", "store.example.org")
    for origin in ("http://app.example.org", "https://app.example.org:8443", "https://example.org", "null"):
        assert not NAMED.is_cors_origin(origin)
        with pytest.raises(ForeignOriginError):
            NAMED.check_change(origin, "cross-site", "store.example.org")
    assert not DEFAULT.is_cors_origin("https://app.example.org")
    assert not OriginRules(frozenset(), frozenset()).is_cors_origin("null")


def test_names_have_one_way_of_writing() -> None:
    """Case, a final dot, ports, and the many forms of an IPv6 address."""
    assert {normal_host(host) for host in ("[::1]", "::1", "[0::1]:80", "0:0:0:0:0:0:0:1")} == {"::1"}
    assert normal_host("A.Example.:80") == "a.example"
    assert normal_origin("HTTPS://A.example") == normal_origin("https://a.example:443") == "https://a.example:443"
    assert normal_origin("https://a.example/") is None
    assert (bare_host("a.example"), bare_host("a.example:80"), bare_host("[::1]:80"), bare_host("::1")) == (
        "a.example",
        None,
        None,
        "::1",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"public_hosts": "store.example.org:8080"},
        {"public_hosts": "https://store.example.org"},
        {"public_hosts": "*"},
        {"cors_origins": "*"},
        {"cors_origins": "app.example.org"},
        {"cors_origins": "https://app.example.org/"},
        {"cors_origins": "null"},
    ],
)
def test_a_setting_that_would_not_match_as_it_is_meant_is_refused(changes) -> None:
    """At the start, with the entry in the sentence."""
    with pytest.raises(ValueError, match=r"is not (a host name|an origin)"):
        make_settings(**changes)
