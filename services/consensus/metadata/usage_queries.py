"""Answers how much buckets and identities have and may have."""

from __future__ import annotations

from services.consensus.metadata.access_records import AccessRecords
from services.consensus.metadata.bucket_records import DEFAULT_SETTINGS, BucketRecords
from services.consensus.metadata.schema import BUCKET_USAGE
from services.consensus.metadata.tables import Tables
from services.consensus.metadata.usage import IDENTITY_USAGE, Holder, read_usage
from shared.contracts.access import IdentityLimits
from shared.contracts.objects import BucketSettings
from shared.contracts.usage import GetUsage, UsageAnswer, UsageOf

_SHOWN_MAX = (1 << 63) - 1


def answer_usage(tables: Tables, query: GetUsage) -> UsageAnswer:
    """Of each that is asked about and exists."""
    buckets = {name: bucket for name in query.buckets if (bucket := tables.bucket(name)) is not None}
    return UsageAnswer(
        buckets={name: usage_of_bucket(tables, bucket.incarnation) for name, bucket in buckets.items()},
        identities={identity: _of_identity(tables, identity) for identity in query.identities},
    )


def usage_of_bucket(tables: Tables, incarnation: int) -> UsageOf:
    """Of a bucket that exists."""
    row = BucketRecords(tables).settings(incarnation)
    return _usage_of(tables, Holder(BUCKET_USAGE, incarnation), DEFAULT_SETTINGS if row is None else row.settings)


def _of_identity(tables: Tables, identity: str) -> UsageOf:
    row = AccessRecords(tables).identity(identity)
    limits = IdentityLimits() if row is None or row.is_deleted else row.grants()[1]
    return _usage_of(tables, Holder(IDENTITY_USAGE, bytes.fromhex(identity)), limits)


def _usage_of(tables: Tables, holder: Holder, limits: BucketSettings | IdentityLimits) -> UsageOf:
    usage = read_usage(tables.database, holder)
    return UsageOf(
        # Copies cost nothing: what they add up to may pass what answers can carry.
        size_bytes=min(usage.size_bytes, _SHOWN_MAX),
        files=usage.files,
        quota_bytes=limits.quota_bytes,
        quota_files=limits.quota_files,
    )
