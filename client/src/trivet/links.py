"""Signed links, made without asking the store (docs/api.md, "Signed links"). Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from trivet.access_key import AccessKey

LIFETIME_MAX_S: Final = 7 * 24 * 3600
_METHODS: Final = frozenset({"GET", "PUT", "DELETE"})


def signed_target(
    access_key: AccessKey,
    method: str,
    bucket: str,
    key: str,
    *,
    expires_s: int,
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> str:
    """The path and the query of a link.

    Args:
        method: GET, which is good for HEAD, too, PUT or DELETE.
        expires_s: seconds since the Unix epoch.
        headers: that the request must carry, with these values, names in lower case.
        query: what the request asks beside, such as `version`.

    Raises:
        ValueError: there is no link for that method.
    """
    if method not in _METHODS:
        raise ValueError(f"a link is for {', '.join(sorted(_METHODS))}, not for {method!r}")
    parameters = {**query, "link-key": access_key.id, "link-expires": str(expires_s)}
    if headers:
        parameters["link-headers"] = ";".join(sorted(headers))
    pairs = sorted(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in parameters.items())
    lines = ["trivet-link-1", method, quote(bucket, safe=""), quote(key, safe=""), "&".join(pairs)]
    lines += [f"{name}:{quote(headers[name].encode('latin-1'), safe='')}" for name in sorted(headers)]
    signature = hmac.digest(access_key.secret.encode(), "\n".join(lines).encode(), "sha256").hex()
    return f"/v1/files/{quote(bucket, safe='')}/{quote(key)}?{'&'.join(pairs)}&link-signature={signature}"
