"""What the routes work with, while the gateway runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.gateway.access.control import AccessControl
from services.gateway.access.rate_limits import RateLimits
from services.gateway.access_log import AccessLog
from services.gateway.audit_trail import AuditTrail
from services.gateway.backups import Backups
from services.gateway.cluster_admin import ClusterAdmin
from services.gateway.cluster_verify import ClusterVerify
from services.gateway.cursors import CursorSealer
from services.gateway.identities import Identities
from services.gateway.listings import Listings
from services.gateway.objects.batch_deletes import BatchDeletes
from services.gateway.objects.bucket_settings import SettingsOfBuckets
from services.gateway.objects.copies import Copies
from services.gateway.objects.tags import Tags
from services.gateway.ports import Clock, Metadata
from services.gateway.replicas.quorum import Quorums
from services.gateway.transfers.admission import Admission
from services.gateway.transfers.downloads import Downloads
from services.gateway.transfers.idempotency import IdempotencyStore
from services.gateway.transfers.multipart import PartUploads
from services.gateway.transfers.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Services:
    """Made by `main` at start."""

    access: AccessControl
    rates: RateLimits
    admission: Admission
    uploads: Uploads
    multipart: PartUploads
    downloads: Downloads
    listings: Listings
    cursors: CursorSealer
    admin: ClusterAdmin
    verify: ClusterVerify
    backups: Backups
    audit: AuditTrail
    access_log: AccessLog
    copies: Copies
    batch_deletes: BatchDeletes
    tags: Tags
    bucket_settings: SettingsOfBuckets
    identities: Identities
    metadata: Metadata
    idempotency: IdempotencyStore
    clock: Clock
    quorums: Quorums


class RunningGateway(Protocol):
    """Hands out the services."""

    @property
    def services(self) -> Services:
        """Raises NotReadyError while the gateway starts or stops."""
