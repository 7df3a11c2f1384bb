"""The composition root of a gateway: settings, clients, services, routes. Importing it does nothing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from fastapi import FastAPI

from services.gateway.access.authorized_metadata import AuthorizedMetadata
from services.gateway.access.bootstrap import FirstRootKey
from services.gateway.access.control import AccessControl
from services.gateway.access.key_table import KeyTable
from services.gateway.access.key_use import KeyUse
from services.gateway.access.rate_limits import RateLimits
from services.gateway.access.refusals import Refusals
from services.gateway.access.sealing import Sealer
from services.gateway.access.transport import TransportRules
from services.gateway.access_log import AccessLog, silent_log
from services.gateway.api import (
    audit,
    backups,
    batch_deletes,
    bucket_settings,
    buckets,
    cluster,
    copies,
    files,
    identities,
    links,
    tags,
    uploads,
)
from services.gateway.api.cache_control import NO_CACHE, NoCache
from services.gateway.api.door import Door
from services.gateway.api.door_routes import OPERATIONS, PUBLIC, RouteTable
from services.gateway.api.early_refusal import EarlyRefusal
from services.gateway.api.fast_path import FileFastPath
from services.gateway.api.file_calls import FileCalls
from services.gateway.api.problems import install as install_problems
from services.gateway.api.requests import fields_of
from services.gateway.api.services import Services
from services.gateway.api.web_origins import WebOrigins, check_origin, origin_marks
from services.gateway.audit_trail import AuditTrail
from services.gateway.backups import Backups
from services.gateway.cluster_admin import ClusterAdmin
from services.gateway.cluster_caches import ClusterCaches
from services.gateway.cluster_verify import ClusterVerify
from services.gateway.cursors import CURSOR_KEY_BYTES, CURSOR_KEY_CONTEXT, CursorSealer
from services.gateway.identities import Identities
from services.gateway.listings import Listings
from services.gateway.metrics import GatewayMetrics
from services.gateway.objects.batch_deletes import BatchDeletes
from services.gateway.objects.bucket_settings import SettingsOfBuckets
from services.gateway.objects.copies import Copies
from services.gateway.objects.tags import Tags
from services.gateway.ports import ChunkNodes, Clock, Metadata
from services.gateway.readiness import ReadinessWatch
from services.gateway.replicas.check import ReplicaChecker
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.refresh import ConfirmationRefresh
from services.gateway.replicas.repair import MAX_REPAIR_TASKS, ReadRepair
from services.gateway.replicas.storage_client import StorageClient
from services.gateway.replicas.writer import ReplicaWriter, ReplicaWriterLimits
from services.gateway.s3.app import S3App
from services.gateway.s3.authentication import Authentication
from services.gateway.s3.edge import S3HttpProtocol
from services.gateway.s3.rules import S3Rules
from services.gateway.semantics.raw_names import NAMED_BELOW
from services.gateway.settings import GatewaySettings
from services.gateway.transfers.admission import Admission, AdmissionLimits
from services.gateway.transfers.chunk_cache import ChunkCache
from services.gateway.transfers.chunking import ReservationWaits
from services.gateway.transfers.downloads import Downloads
from services.gateway.transfers.idempotency import IdempotencyStore
from services.gateway.transfers.large_uploads import SEAL_CHUNKS, LargeUploads
from services.gateway.transfers.multipart import PartUploads
from services.gateway.transfers.piece_pages import PiecePages
from services.gateway.transfers.publishing import Publisher, PublisherLimits
from services.gateway.transfers.quota_checks import QuotaChecks
from services.gateway.transfers.read_ahead import DownloadLimits
from services.gateway.transfers.recent_log import RecentLog
from services.gateway.transfers.record_cache import RecordCache
from services.gateway.transfers.records import Records
from services.gateway.transfers.uploads import UploadLimits, Uploads
from shared.background_tasks import BackgroundTasks
from shared.consensus_calls.client import ConsensusClient
from shared.contracts.uploads import PART_NUMBER_MAX
from shared.errors import NotReadyError
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.settings import load_settings
from shared.telemetry import configure_logging, write_standard_output
from shared.timekeeping.host_clock import SystemHostClock
from shared.timekeeping.time_client import TimeClient
from shared.web.listeners import SecondDoor, serve
from shared.web.operations import add_operations
from shared.web.request_metrics import observe_requests, request_metrics
from shared.web.service_app import ServiceApp, create_app

METADATA_CONNECTIONS: Final = 16
_PUBLIC_ROUTERS: Final = (
    files.create_router,
    copies.create_router,
    batch_deletes.create_router,
    tags.create_router,
    uploads.create_router,
    buckets.create_router,
    bucket_settings.create_router,
    cluster.create_router,
    cluster.create_time_router,
    links.create_router,
    identities.create_caller_router,
)

_TAGS: Final = ("files", "uploads", "buckets", "links", "identities", "cluster", "time", "health")

_DESCRIPTION = """A distributed file store that tells the truth about your data.

Files live in buckets under keys. An answer to a change is a receipt: it comes when every chunk is durable on the write quorum
of storage nodes and the change stands in the log of a majority of the consensus members. Reads are linearizable. Every answer
about a file, 404 included, carries `X-Trivet-Version`: the log index that last changed its key. `X-Trivet-Request-Id` of every
answer names the request in the logs of all services and in the audit trail.

Errors are problem documents (RFC 9457). Decide by `code` and `definite`: true means that the change certainly did not happen;
false, that only a repeat under the same `Idempotency-Key` is safe. Caches must ask again before they answer for this store.
"""


_PLAIN_BEARER: Final = "access: keys are taken over connections that others may read (TRIVET_ALLOW_PLAIN_BEARER)"


class Gateway:
    """The services of a running gateway, between start and stop."""

    def __init__(self, settings: GatewaySettings, write_lines: Callable[[str], object] = write_standard_output) -> None:
        self._settings = settings
        self._write_lines = write_lines
        self._services: Services | None = None
        self._watch: ReadinessWatch | None = None
        self._tasks: BackgroundTasks | None = None
        self._root_key: FirstRootKey | None = None

    @property
    def services(self) -> Services:
        """See `api.services.RunningGateway`."""
        if self._services is None or self._watch is None:
            raise NotReadyError("The gateway is starting or stopping.")
        if not self._watch.is_clock_seeded:
            raise NotReadyError("The gateway has not heard from consensus yet.")
        return self._services

    def readiness(self) -> list[str]:
        """Why it cannot serve now."""
        if self._watch is None:
            return ["starting"]
        return self._watch.reasons or ([] if self._root_key is None else self._root_key.reasons)

    def degradations(self) -> list[str]:
        """What it has to do without while it serves."""
        plain = [_PLAIN_BEARER] if self._settings.allow_plain_bearer else []
        if self._watch is None or self._tasks is None:
            return plain
        return [*self._watch.degradations, *self._tasks.degradations(), *plain]

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG002 FastAPI passes it
        """Open the clients, serve, close them."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            keys = settings.read_peer_keys()
            client = await stack.enter_async_context(PeerClient(keys))
            # Of its own: a call for metadata must not wait until a chunk has left a connection.
            metadata_client = await stack.enter_async_context(PeerClient(keys, max_connections=METADATA_CONNECTIONS))
            clock = await stack.enter_async_context(
                TimeClient(settings.clock_urls, client, node_id=settings.node_id, hlc_path=None)
            )
            metadata = await stack.enter_async_context(
                ConsensusClient(settings.consensus_urls, metadata_client, deadline_s=settings.consensus_deadline_s)
            )
            access_log = AccessLog(
                self._write_lines,
                SystemHostClock(),
                boot_id=secrets.token_hex(16),
                gateway_id=settings.node_id,
                writes=settings.audit_reads,
            )
            stack.enter_context(access_log)
            tasks = await stack.enter_async_context(BackgroundTasks())
            repair_tasks = await stack.enter_async_context(BackgroundTasks(MAX_REPAIR_TASKS))
            nodes = StorageClient(client, timeout_s=settings.replica_timeout_s)
            stack.push_async_callback(nodes.aclose)
            self._services, self._watch, metrics = assemble(
                settings, metadata, nodes, clock, tasks=tasks, repair_tasks=repair_tasks, access_log=access_log
            )
            metrics.open()
            stack.callback(metrics.close)
            self._tasks = tasks
            self._watch.start(tasks)
            self._services.access.use.start(tasks)
            if (root := settings.read_root_key()) is not None:
                self._root_key = FirstRootKey(metadata, clock, Sealer(settings.read_sealing_keys()), root)
                tasks.start("first root key", self._root_key.ensure())
            yield
            self._services = self._watch = None


def assemble(
    settings: GatewaySettings,
    metadata: Metadata,
    nodes: ChunkNodes,
    clock: Clock,
    *,
    tasks: BackgroundTasks,
    repair_tasks: BackgroundTasks,
    access_log: AccessLog | None = None,
) -> tuple[Services, ReadinessWatch, GatewayMetrics]:
    """Wire the services over the three ports. Without an access log nothing is written about refusals and reads."""
    access_log = access_log or silent_log()
    caches = ClusterCaches()
    sealer = Sealer(settings.read_sealing_keys())
    metadata = recent = RecentLog(metadata, caches, max_age_s=settings.start_index_max_age_s)
    table = KeyTable(recent, tasks)
    caches.add(table.forget)
    access = AccessControl(table, sealer, clock, KeyUse(recent, table, clock), Refusals(access_log))
    metadata = AuthorizedMetadata(recent, access)
    caches.add(metadata.forget)
    quorums = Quorums(settings.replica_count, settings.write_quorum, settings.read_quorum, settings.strict_reads)
    waits = ReservationWaits(first_s=settings.admission_wait_s, next_s=settings.budget_wait_s)
    admission = Admission(
        AdmissionLimits(settings.max_concurrent_requests, settings.max_inflight_bytes, settings.slow_client_bytes_per_s)
    )
    health = NodeHealth(
        nodes, tasks, reconnect_base_s=settings.reconnect_base_s, reconnect_limit_s=settings.reconnect_limit_s
    )
    directory = NodeDirectory(metadata, health)
    caches.add(directory.forget)
    idempotency = IdempotencyStore(metadata)
    writer_limits = ReplicaWriterLimits(
        settings.replica_timeout_s, settings.max_parallel_chunks, slot_wait_s=settings.replica_timeout_s
    )
    confirmations = Confirmations(max_age_s=settings.confirmation_max_age_s)
    caches.add(confirmations.forget)
    chunk_cache = ChunkCache(settings.chunk_cache_bytes)
    caches.add(chunk_cache.forget)
    record_cache = RecordCache(settings.record_cache_bytes)
    caches.add(record_cache.forget)
    pages = PiecePages(metadata, tasks)
    caches.add(pages.forget)
    writer = ReplicaWriter(nodes, health, confirmations, tasks, writer_limits)
    reader = ReplicaReader(nodes, health, confirmations, timeout_s=settings.replica_timeout_s)
    checker = ReplicaChecker(nodes, health, confirmations, replica_count=settings.replica_count)
    repair = ReadRepair(
        nodes,
        reader,
        admission.large,
        repair_tasks,
        replica_count=settings.replica_count,
        timeout_s=settings.replica_timeout_s,
    )
    refresh = ConfirmationRefresh(nodes, health, confirmations, repair, tasks, timeout_s=settings.replica_timeout_s)
    publisher = Publisher(
        recent, writer, reader, PublisherLimits(settings.chunk_size_bytes, settings.upload_window_chunks, waits)
    )
    quotas = QuotaChecks(metadata)
    # The parts of a large file are numbered, and of a bounded length.
    max_file_bytes = min(settings.max_file_bytes, PART_NUMBER_MAX * SEAL_CHUNKS * settings.chunk_size_bytes)
    rates = RateLimits(settings.anonymous_limits())
    cursors = CursorSealer(sealer.derived(CURSOR_KEY_CONTEXT, CURSOR_KEY_BYTES), settings.cluster_id)
    services = Services(
        access=access,
        rates=rates,
        admission=admission,
        uploads=Uploads(
            metadata=metadata,
            recent=recent,
            idempotency=idempotency,
            directory=directory,
            publisher=publisher,
            large_uploads=LargeUploads(
                metadata=metadata,
                directory=directory,
                publisher=publisher,
                clock=clock,
                tasks=tasks,
                lifetime_s=settings.gc_grace_s,
            ),
            quotas=quotas,
            admission=admission,
            clock=clock,
            limits=UploadLimits(settings.chunk_size_bytes, max_file_bytes, settings.gc_grace_s / 2),
        ),
        multipart=PartUploads(
            metadata=metadata,
            idempotency=idempotency,
            directory=directory,
            publisher=publisher,
            quotas=quotas,
            admission=admission,
            clock=clock,
            max_age_s=settings.gc_grace_s / 2,
        ),
        downloads=Downloads(
            records=Records(metadata, record_cache, caches),
            directory=directory,
            reader=reader,
            chunk_cache=chunk_cache,
            pages=pages,
            checker=checker,
            confirmations=confirmations,
            refresh=refresh,
            repair=repair,
            admission=admission,
            limits=DownloadLimits(
                settings.read_ahead_chunks, waits, settings.consensus_deadline_s, settings.max_download_age_s
            ),
        ),
        listings=Listings(metadata, cursors),
        cursors=cursors,
        identities=Identities(metadata, clock, sealer),
        admin=ClusterAdmin(metadata, clock, health, replica_count=settings.replica_count),
        verify=ClusterVerify(metadata, nodes),
        backups=Backups(metadata, clock),
        audit=AuditTrail(metadata),
        access_log=access_log,
        copies=Copies(idempotency, clock),
        batch_deletes=BatchDeletes(idempotency, clock),
        tags=Tags(metadata, idempotency, clock),
        bucket_settings=SettingsOfBuckets(metadata, idempotency, clock),
        metadata=metadata,
        idempotency=idempotency,
        clock=clock,
        quorums=quorums,
    )
    watch = ReadinessWatch(directory, clock, write_quorum=settings.write_quorum)
    metrics = GatewayMetrics(
        rates=rates,
        quotas=quotas,
        admission=admission,
        health=health,
        repair=repair,
        writer=writer,
        reader=reader,
        checker=checker,
        confirmations=confirmations,
        refresh=refresh,
        chunk_cache=chunk_cache,
        record_cache=record_cache,
        access_log=access_log,
        access=access,
    )
    return services, watch, metrics


def build_app(settings: GatewaySettings, gateway: Gateway | None = None) -> ServiceApp:
    """The application of one gateway; it opens its clients when it starts."""
    gateway = gateway or Gateway(settings)
    rules, calls = settings.origin_rules(), FileCalls(gateway)
    transport = TransportRules.of(settings)
    app = create_app(
        title="Trivet",
        description=_DESCRIPTION,
        lifespan=gateway.running,
        readiness=gateway.readiness,
        verifier=None,
        fast_path=lambda behind: Door(
            FileFastPath(behind, calls=calls, rules=rules, metrics=request_metrics()),
            gateway=gateway,
            routes=RouteTable(PUBLIC),
            rules=transport,
            marks=lambda scope: [*origin_marks(rules, fields_of(scope)), NO_CACHE],
            check=lambda scope: check_origin(rules, scope, fields_of(scope)),
        ),
        named_below=NAMED_BELOW,
    )
    # A redirect would answer for a path that nobody asked for; names are taken as they are.
    app.router.redirect_slashes = False
    for make in _PUBLIC_ROUTERS:
        app.add_routes(make(gateway))
    app.openapi_tags = [{"name": name} for name in _TAGS]
    install_problems(app)
    app.add_middleware(WebOrigins, rules=rules)
    operations = add_operations(
        app,
        readiness=gateway.readiness,
        degradations=gateway.degradations,
        metrics_token=settings.read_metrics_token(),
        door=lambda behind: Door(
            behind, gateway=gateway, routes=RouteTable(OPERATIONS), rules=transport, marks=lambda _: [NO_CACHE]
        ),
    )
    for make in (
        cluster.create_router,
        cluster.create_admin_router,
        backups.create_router,
        audit.create_router,
        identities.create_caller_router,
        identities.create_router,
    ):
        operations.add_routes(make(gateway))
    install_problems(operations)
    operations.add_middleware(NoCache)
    operations.add_middleware(EarlyRefusal)
    app.add_middleware(NoCache)
    app.add_middleware(EarlyRefusal)
    return app


def build_s3_app(settings: GatewaySettings, gateway: Gateway) -> S3App:
    """The application of S3's port, over the same services as `build_app`."""
    return S3App(
        gateway,
        rules=S3Rules.of(settings),
        node_id=settings.node_id,
        authenticate=Authentication().authenticate,
        metrics=request_metrics(),
    )


def main() -> None:
    """Entry point: `python -m services.gateway.main`."""
    make_process_private()
    settings = load_settings(GatewaySettings)
    write_lines = configure_logging(settings.node_id, settings.log_level, settings.log_file)
    observe_requests(settings, "gateway")
    gateway, s3 = Gateway(settings, write_lines), None
    if settings.s3_port:
        s3 = SecondDoor(build_s3_app(settings, gateway), settings.s3_port, S3HttpProtocol)
    serve(build_app(settings, gateway), settings, second_door=s3)


if __name__ == "__main__":
    main()
