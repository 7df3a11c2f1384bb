"""No default of a contract passes for a measurement: what was not measured is null, or the answer is incomplete and refused."""

from __future__ import annotations

import inspect

from services.gateway.api import models
from shared.contracts import chunks, cluster, metadata, time
from shared.contracts.base import WireModel

NO_MEASUREMENTS = {
    ("ConsensusMember", "is_voter"): "stands in logs that were written before learners existed",
    ("HasRequest", "verify"): "a choice of the caller",
    ("StorageNode", "incarnation"): "of a node that no run was recorded of",
    ("NodeRun", "is_redis_record"): "a mode of the node",
    ("HeartbeatResponse", "is_run_recorded"): "nothing was recorded",
    ("HeartbeatResponse", "takes_reports"): "of a leader of an older version",
    ("ListFiles", "limit"): "a choice of the caller",
    ("ListBuckets", "limit"): "a choice of the caller",
    ("ListReferences", "limit"): "a choice of the caller",
    ("ListReferenceChanges", "limit"): "a choice of the caller",
    ("ListReferenceChanges", "after_chunk"): "from its beginning",
    ("Proposal", "retain_s"): "a choice of the caller",
    ("FileAnswer", "incarnation"): "no bucket has this one",
    ("FileAnswer", "version"): "no log entry has this index",
    ("FileAnswer", "horizon"): "nothing is below it",
    ("FileAnswer", "is_unchanged"): "the file stands in the answer, or there is none",
    ("FilePage", "has_more"): "of an absent bucket",
    ("BucketsAnswer", "has_more"): "of a single page",
    ("FilePage", "at_index"): "no log entry has this index",
    ("BackupBegin", "lease_s"): "a choice of the caller",
    ("BackupRenewal", "lease_s"): "a choice of the caller",
    ("FileAnswer", "is_marker"): "the file stands in the answer, or there is none",
    ("FileAnswer", "is_null"): "of what is no marker",
    ("FileAnswer", "keeps_versions"): "of an absent bucket, or of a member of an earlier version",
    ("FileVersion", "is_null"): "of a bucket that keeps no versions, as all were before",
    ("FileVersion", "patch_index"): "never patched; no log entry has this index",
    ("DeletedFile", "is_marker"): "of a bucket that keeps no versions",
    ("BucketSettingsAnswer", "incarnation"): "no bucket has this one",
    ("BucketSettingsAnswer", "log_index"): "no log entry has this index",
    ("BucketDocumentAnswer", "incarnation"): "no bucket has this one",
    ("BucketDocumentAnswer", "log_index"): "no log entry has this index",
    ("CopyFile", "is_move"): "a choice of the caller",
    ("CopyPart", "range_start"): "a choice of the caller",
    ("BeginUpload", "is_internal"): "a choice of the caller",
    ("BeginUpload", "lifetime_s"): "a choice of the caller",
    ("GetUpload", "limit"): "a choice of the caller",
    ("GetUpload", "after_part"): "from its beginning",
    ("ListUploads", "limit"): "a choice of the caller",
    ("ListVersions", "limit"): "a choice of the caller",
    ("ListPieces", "limit_chunks"): "a choice of the caller",
    ("ListPieces", "offset_bytes"): "from its beginning",
    ("UploadAnswer", "has_more"): "of a single page",
    ("UploadPage", "has_more"): "of a single page",
    ("VersionPage", "has_more"): "of a single page",
    ("Identity", "is_root"): "a choice of who made it",
    ("CreateIdentity", "is_root"): "a choice of the caller",
    ("ReadResults", "access_index"): "no log entry has this index",
    ("Requester", "access_index"): "no log entry has this index",
    ("ListAccessChanges", "after"): "from the beginning",
    ("ListAccessChanges", "limit"): "a choice of the caller",
    ("ListIdentities", "limit"): "a choice of the caller",
    ("ListAudit", "after"): "from the beginning",
    ("ListAudit", "limit"): "a choice of the caller",
    ("IdentitiesPage", "has_more"): "of a single page",
    **{
        ("ObjectCounts", name): "what this page counted, of one table after the other"
        for name in ("versions", "markers", "uploads", "parts", "manifests")
    },
    **{
        ("VerifyReport", name): "counted so far by a pass whose state stands beside it"
        for name in (
            "checked_chunks",
            "checked_bytes",
            "missing_chunks",
            "bad_chunks",
            "surplus_chunks",
            "orphaned_chunks",
            "progress",
        )
    },
}


def test_no_default_passes_for_a_measurement() -> None:
    """A number or a truth value would be believed; None is not."""
    models_of_the_wire = {
        found
        for module in (chunks, cluster, metadata, time, models)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, WireModel)
    }
    defaults = {
        (model.__name__, name)
        for model in models_of_the_wire
        for name, field in model.model_fields.items()
        if isinstance(field.default, bool | int | float)
    }
    assert defaults - NO_MEASUREMENTS.keys() == set()


def test_how_full_a_node_is_stays_unknown_until_it_is_heard() -> None:
    """The node map of the log knows neither."""
    node = cluster.StorageNode(id="s", url="", zone="", state=cluster.NodeState.ACTIVE, capacity_bytes=1)
    assert (node.used_bytes, node.is_full) == (None, None)
