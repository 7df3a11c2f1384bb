"""The composition root of a storage node: settings, the data folder, this node's Redis, then the application.

Whatever makes a start pointless or dangerous ends it here, with one sentence, before a port is opened.
"""

from __future__ import annotations

import asyncio

import structlog

from services.storage.api import build_router
from services.storage.callers import ROUTE_CALLERS
from services.storage.disk.tier import prepare_folder
from services.storage.fast_path import FastPath
from services.storage.metrics import StorageMetrics
from services.storage.node import StorageService, redis_address
from services.storage.query_admission import QueryAdmission
from services.storage.redis_node.inspection import inspect
from services.storage.redis_node.link import connect
from services.storage.settings import StorageSettings
from services.storage.verify_api import build_verify_router
from shared.contracts.chunk_batches import MAX_FRAME_BYTES
from shared.disk.data_folder import claim_data_dir
from shared.peer_calls.request_signing import RequestVerifier
from shared.private_process import make_process_private
from shared.settings import load_settings, refuse_to_start
from shared.telemetry import configure_logging
from shared.web.listeners import serve
from shared.web.operations import add_operations
from shared.web.request_metrics import observe_requests, request_metrics
from shared.web.service_app import ServiceApp, create_app

logger = structlog.get_logger(__name__)

_REDIS_ANSWER_S = 1.0


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    make_process_private()
    settings = load_settings(StorageSettings)
    configure_logging(settings.node_id, settings.log_level, settings.log_file)
    observe_requests(settings, "storage")
    # Held until the process ends; a second process on the same folder is refused.
    folder = claim_data_dir(settings.data_dir, settings.cluster_id, settings.node_id)
    prepare_folder(folder.path)
    refuse_unusable_redis(settings)
    serve(build_app(settings), settings, has_wide_send_buffers=True)


def build_app(settings: StorageSettings) -> ServiceApp:
    """The application of one node, which it opens when it starts. The data folder is there."""
    metrics = StorageMetrics()
    node = StorageService(settings, metrics)
    app = create_app(
        title="Trivet storage",
        description="Keeps chunks by digest, durably, and never serves one that is not whole. Internal and signed.",
        lifespan=node.lifespan,
        readiness=node.readiness,
        verifier=RequestVerifier(settings.read_peer_keys(), settings.node_id),
        callers=ROUTE_CALLERS.check,
        max_body_bytes=max(settings.max_chunk_bytes, MAX_FRAME_BYTES),
        fast_path=lambda app: FastPath(
            QueryAdmission(app, store=node.store),
            store=node.store,
            metrics=request_metrics(),
            foreground=node.foreground,
        ),
    )
    app.add_routes(build_router(node.store, node.describe))
    app.add_routes(build_verify_router(node.verifier))
    add_operations(
        app,
        readiness=node.rollout_readiness,
        degradations=node.degradations,
        metrics_token=settings.read_metrics_token(),
    )
    return app


def refuse_unusable_redis(settings: StorageSettings) -> None:
    """End the start when Redis answers and is somebody else's, or could not keep the promise of mode `redis`.

    One that does not answer is no reason: it may be starting too, and `tiered` works without.
    """
    address = redis_address(settings)
    if address is None:
        return

    async def ask() -> None:
        async with connect(address) as client, asyncio.timeout(_REDIS_ANSWER_S):
            found = await inspect(client, address.owner)
        if found.objection is not None and (found.is_foreign or settings.storage_mode == "redis"):
            refuse_to_start(f"the Redis at {address.url} cannot be used: {found.objection}")

    try:
        asyncio.run(ask())
    except Exception as error:  # noqa: BLE001 - whatever it is, the node asks again while it runs, and can do without
        logger.warning("redis could not be asked before the start", error=str(error))


if __name__ == "__main__":
    main()
