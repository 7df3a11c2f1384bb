"""Links that the client signs are those that a gateway accepts: its own check is the oracle."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.access.links import Now, check_link, link_in
from services.gateway.semantics.raw_names import file_name
from shared.access_keys import draw_credential
from shared.errors import CredentialInvalidError, InvalidNameError
from trivet.access_key import AccessKey
from trivet.links import signed_target

_KEY = AccessKey.parse(draw_credential())
_EXPIRES_S = 1_800_000_000
_NOW = Now((_EXPIRES_S - 60) * 10**9, (_EXPIRES_S - 60) * 10**9)

_keys = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=40)
_headers = st.dictionaries(
    st.sampled_from(["content-type", "x-trivet-meta-place", "if-none-match", "x-trivet-write-quorum"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
)


def _check(target: str, method: str, headers: dict[str, str], secret: str = _KEY.secret) -> None:
    parts = urlsplit(target)
    link = link_in(parts.query.encode())
    assert link is not None
    raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]
    name = file_name(parts.path.encode())
    check_link(link, secret, method=method, name=name, raw_headers=raw_headers, now=_NOW)


def _target(method: str, key: str, headers: dict[str, str], query: dict[str, str]) -> str:
    return signed_target(_KEY, method, "photos", key, expires_s=_EXPIRES_S, headers=headers, query=query)


@given(_keys, st.sampled_from(["GET", "PUT", "DELETE"]), _headers, st.sampled_from([{}, {"version": "17"}]))
def test_a_gateway_accepts_every_link_for_what_it_was_made(key, method, headers, query) -> None:
    """Any key, method, headers and version."""
    target = _target(method, key, headers, query)
    try:
        assert file_name(urlsplit(target).path.encode()).key == key
    except InvalidNameError:
        return  # no path names such a key
    _check(target, method, headers)


def test_a_link_is_good_for_nothing_else() -> None:
    """Another method, other headers, another key or another secret."""
    target = _target("PUT", "cat.jpg", {"content-type": "image/jpeg"}, {})
    _check(target, "PUT", {"content-type": "image/jpeg"})
    for changed, method, headers, secret in (
        (target, "DELETE", {"content-type": "image/jpeg"}, _KEY.secret),
        (target, "PUT", {"content-type": "text/html"}, _KEY.secret),
        (target.replace("cat.jpg", "dog.jpg"), "PUT", {"content-type": "image/jpeg"}, _KEY.secret),
        (target, "PUT", {"content-type": "image/jpeg"}, "x" * 40),
    ):
        with pytest.raises(CredentialInvalidError):
            _check(changed, method, headers, secret)


def test_there_are_links_for_three_methods() -> None:
    """HEAD goes with one for GET."""
    with pytest.raises(ValueError, match="POST"):
        _target("POST", "cat.jpg", {}, {})
    _check(_target("GET", "cat.jpg", {}, {}), "HEAD", {})
