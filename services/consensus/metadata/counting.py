"""Counts versions, markers, uploads and manifests, a page at a time: one long scan would make readers of files wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgpack

from services.consensus.metadata.schema import KEY_LENGTHS, Row
from services.consensus.metadata.tables import Tables
from shared.contracts.objects import CountObjects, ObjectCounts
from shared.errors import InvalidRequestError

ROWS_PER_PAGE: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Counted:
    """A table: its key, what to read of each row beside the key, and which count a row adds to by that."""

    table: str
    key: tuple[str, ...]
    kind: str
    counts: dict[object, str]


_COUNTED: Final = (
    _Counted("files", ("incarnation", "key"), "0", {0: "versions"}),
    _Counted("older_versions", ("incarnation", "key", "version"), "is_marker", {0: "versions", 1: "markers"}),
    _Counted("uploads", ("upload",), "state", {"open": "uploads"}),
    _Counted("parts", ("upload", "number"), "0", {0: "parts"}),
    _Counted("manifests", ("manifest",), "0", {0: "manifests"}),
)
assert all(len(counted.key) == KEY_LENGTHS.get(counted.table, 1) for counted in _COUNTED)


def count_objects(tables: Tables, query: CountObjects) -> ObjectCounts:
    """One page. Raises InvalidRequestError: `position` is none that an answer gave."""
    number, after = (0, ()) if query.position is None else _decode(query.position)
    counted = _COUNTED[number]
    names, places = ", ".join(counted.key), ", ".join("?" * len(counted.key))
    where = f"WHERE ({names})>({places})" if after else ""
    rows = tables.database.execute(
        f"SELECT {names}, {counted.kind} FROM {counted.table} {where} ORDER BY {names} LIMIT ?",  # noqa: S608 (our own)
        (*after, ROWS_PER_PAGE),
    ).fetchall()
    counts: dict[str, int] = {}
    for row in rows:
        if (name := counted.counts.get(row[-1])) is not None:
            counts[name] = counts.get(name, 0) + 1
    if len(rows) == ROWS_PER_PAGE:
        return ObjectCounts(**counts, next_position=msgpack.packb((number, rows[-1][:-1])))
    is_last = number + 1 == len(_COUNTED)
    return ObjectCounts(**counts, next_position=None if is_last else msgpack.packb((number + 1, ())))


def _decode(position: bytes) -> tuple[int, Row]:
    try:
        number, after = msgpack.unpackb(position)
        counted, key = _COUNTED[number], tuple(after)
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise InvalidRequestError("This is no position of a count.", name="position") from error
    if number < 0 or (key and len(key) != len(counted.key)) or not all(isinstance(part, int | bytes) for part in key):
        raise InvalidRequestError("This is no position of a count.", name="position")
    return number, key
