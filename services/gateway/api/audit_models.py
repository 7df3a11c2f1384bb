"""The JSON of the audit trail on the operations listener."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from services.gateway.api.models import example
from services.gateway.audit_trail import TrailCheck
from shared.audit_chain import ChainPoint
from shared.contracts.base import WireModel

_LINK: Final = "8c3d4b1f0e6a7c2951d8e3b0f4a6972d5e1c8b7a3f20d9e4c6b5a8f7e0d1c293"
_AUDIT_ROW: Final = (
    '{"index":17,"time":"2026-11-29T07:00:00.000000Z","hlc":"6b0c0a7000000000","clock":"SYNCED",'
    f'"principal":"{"5f0c2a9b" * 8}","kind":"publish_file","outcome":"ok","access_key":"{"TV" + 18 * "A"}",'
    '"request":"4f2a9c1e8b7d4a60","address":"192.0.2.7","bucket":"default","key":"photos/a.jpg","version":17}'
)
LINES_EXAMPLE: Final = f'{{"begin":{{"index":0,"link":"{"0" * 64}"}}}}\n{{"link":"{_LINK}","row":{_AUDIT_ROW}}}\n'


class TrailPoint(WireModel):
    """A row by its log index, and its link; index 0 and zeros before the first."""

    model_config = example(index=17, link=_LINK)

    index: int
    link: str

    @classmethod
    def of(cls, point: ChainPoint) -> TrailPoint:
        """As it is written."""
        return cls(index=point.index, link=point.link.hex())


class TrailVerification(WireModel):
    """What the check of the audit trail found."""

    model_config = example(
        begin={"index": 0, "link": "0" * 64},
        end={"index": 17, "link": _LINK},
        head={"index": 17, "link": _LINK},
        rows=9,
        is_whole=True,
        broken_index=None,
        problem=None,
        next_after=None,
    )

    begin: TrailPoint = Field(
        description="The row behind which the check began: the one asked for, or the anchor of a cut."
    )
    end: TrailPoint = Field(description="The last row that fits.")
    head: TrailPoint = Field(description="The last row of the trail.")
    rows: int = Field(description="Rows that fit, from `begin` to `end`.")
    is_whole: bool = Field(description="Whether every row that was checked follows the one before it.")
    broken_index: int | None = Field(description="Log index of the first row that does not.")
    problem: str | None
    next_after: int | None = Field(
        description="Check on from here; null at the end of the trail, or where it is broken."
    )

    @classmethod
    def of(cls, check: TrailCheck) -> TrailVerification:
        """As the gateway found it."""
        return cls(
            begin=TrailPoint.of(check.begin),
            end=TrailPoint.of(check.end),
            head=TrailPoint.of(check.head),
            rows=check.rows,
            is_whole=check.problem is None,
            broken_index=check.broken_index,
            problem=check.problem,
            next_after=check.next_after,
        )
