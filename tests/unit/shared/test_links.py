"""Links that clients make offline: the page that says how makes the very same ones."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from services.gateway.access.links import Now, check_link, link_in
from services.gateway.semantics.raw_names import file_name
from shared.links import make_link

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
KEY, SECRET = "TV" + "K" * 18, "s" * 40
NOW_S = 1_800_000_000


@pytest.fixture
def documented(monkeypatch) -> Any:
    """The function `link` of the page, at a moment that stands still."""
    section = PAGE.read_text(encoding="utf-8").partition("## Signed links")[2]
    code = re.search(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line]) <= 15
    names: dict[str, Any] = {}
    exec(compile(code[1], PAGE.name, "exec"), names)
    monkeypatch.setattr(time, "time", lambda: float(NOW_S))
    return names["link"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("key", ["cat.jpg", "a b/ü+%2F?&=#.jpg", "~-._", "\U0001f600/x"])
@pytest.mark.parametrize("query", [{}, {"version": "17"}])
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain; a=b", "x-trivet-meta-a": ""}])
def test_the_page_makes_the_links_that_a_gateway_takes(documented, method, key, query, headers) -> None:
    """Signature for signature."""
    path = documented(f"{KEY}.{SECRET}", method, "photos", key, 60, headers, **query)
    ours = make_link(
        KEY, SECRET, method=method, bucket="photos", key=key, expires_s=NOW_S + 60, query=query, headers=headers
    )
    assert path.partition("?")[0] == ours.partition("?")[0]
    assert dict(parse_qsl(path.partition("?")[2])) == dict(parse_qsl(ours.partition("?")[2]))
    for each in (path, ours):
        raw_path, _, raw_query = each.encode().partition(b"?")
        link = link_in(raw_query)
        assert link is not None
        check_link(
            link,
            SECRET,
            method=method,
            name=file_name(raw_path),
            raw_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
            now=Now(NOW_S * 10**9, NOW_S * 10**9),
        )
