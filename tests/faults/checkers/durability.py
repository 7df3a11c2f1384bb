"""After everything is healed: is every acknowledged version there, whole, at every gateway, and what was deleted gone?

That no *other* version is there is the register checker's business; its history contains the final reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FinalRead:
    """What one gateway said about one key in the end. `problem` is None when it answered 200 or 404 with whole bytes."""

    gateway: str
    key: str
    value: str | None
    etag: str | None
    problem: str | None = None


def durability_violations(
    keys: Iterable[str], gateways: Iterable[str], reads: Iterable[FinalRead], etags: Mapping[str, str]
) -> list[str]:
    """`etags` is what receipts promised, by value."""
    found: list[str] = []
    by_place = {(read.key, read.gateway): read for read in reads}
    gateways = list(gateways)
    for key in keys:
        values = set()
        for gateway in gateways:
            read = by_place.get((key, gateway))
            if read is None or read.problem is not None:
                found.append(f"{key} cannot be read at {gateway}: {read.problem if read else 'it was not read'}")
                continue
            values.add(read.value)
            if read.value is not None and etags.get(read.value, read.etag) != read.etag:
                found.append(f"{key} has the ETag {read.etag} at {gateway}; the receipt said {etags[read.value]}")
        if len(values) > 1:
            found.append(f"{key} is {values} at different gateways, and nobody writes")
    return found


def torn_body(body: bytes, size_bytes: int, unit_bytes: int) -> str | None:
    """Why `body` is not one unit repeated over `size_bytes`: two units in it are a mixture of two versions."""
    if len(body) != size_bytes:
        return f"{len(body)} bytes instead of {size_bytes}"
    unit = body[:unit_bytes]
    if body != (unit * (size_bytes // unit_bytes + 1))[:size_bytes]:
        return f"bytes of two versions: it begins with {unit!r}"
    return None
