"""Forgets older versions and superseded markers whose bucket keeps them for a limited time, by the log's own clock."""

from __future__ import annotations

from services.consensus.metadata.bucket_records import BucketRecords
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.older_versions import OlderVersions
from services.consensus.metadata.tables import Tables


def drop_expired_versions(tables: Tables, garbage: Garbage, *, lived_ms: int, index: int, limit: int) -> int:
    """Remove the oldest for good, by the entry at `index`; how many there were, `limit` at most.

    They are released, as a version is that a client removes: slow readers and backups that began before go on.
    """
    older, left = OlderVersions(tables), limit
    for row in BucketRecords(tables).all_settings():
        settings = row.settings
        if left <= 0:
            break
        if settings.versioning == "off" or settings.superseded_retention_s is None:
            continue
        up_to_ms = lived_ms - settings.superseded_retention_s * 1000
        for version in older.superseded_before(row.incarnation, up_to_ms, left):
            older.remove(version)
            if not version.is_marker:
                garbage.release(version.version, index)
            left -= 1
    return limit - left
