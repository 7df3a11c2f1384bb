"""How much there is in a bucket and of an identity, and how much there may be. Query and answer.

Part of the queries and answers of `shared.contracts.metadata`, which says how they are sent. It came with entries of version 4.

Every version that has bytes counts as a file, current, older or null, with all of its bytes, whoever shares them; of an upload
under way its parts count, in bytes. Delete markers count nothing. What was replaced or removed for good counts no more.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from shared.contracts.access import IdentityId
from shared.contracts.base import WireModel
from shared.contracts.calls import Query

USAGES_MAX: Final = 1000
"""Buckets, or identities, that one query asks about."""


class UsageOf(WireModel):
    """Of one bucket or identity. A quota is None where there is no limit. The usage may be above one that was lowered."""

    size_bytes: int = Field(ge=0)
    files: int = Field(ge=0)
    quota_bytes: int | None = None
    quota_files: int | None = None


class UsageAnswer(WireModel):
    """By name and id. A bucket that does not exist is left out; an identity that does not exist may own files all the same."""

    kind: Literal["usage"] = "usage"
    buckets: dict[str, UsageOf] = Field(default_factory=dict)
    identities: dict[str, UsageOf] = Field(default_factory=dict)


class GetUsage(Query[UsageAnswer]):
    """How much they have, and may have."""

    kind: Literal["get_usage"] = "get_usage"
    buckets: list[str] = Field(default_factory=list, max_length=USAGES_MAX)
    identities: list[IdentityId] = Field(default_factory=list, max_length=USAGES_MAX)
