"""Makes a new cluster, once: `python -m services.consensus.tools.initialise`.

For containers and Kubernetes, where it runs before each start of a gateway; safe to run again. It signs one request to the
first member named, which writes the cluster's first entry, and follows to whichever member leads.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from shared.cluster_keys import PeerKeys
from shared.contracts.cluster import ConsensusMember, InitRequest, InitResponse
from shared.errors import NotLeaderError, TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.roles import Role
from shared.settings import PeerKeySettings, load_settings, refuse_to_start
from shared.telemetry import configure_logging

PATIENCE_S = 120.0

logger = structlog.get_logger(__name__)


def parse_members(value: str) -> list[ConsensusMember]:
    """The members named in `value`: id=http://host:port=peer-host:peer-port,... Raises ValueError."""
    members = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        fields = part.split("=")
        if len(fields) != 3:
            raise ValueError(f"{part!r} is not of the form id=http://host:port=peer-host:peer-port")
        members.append(ConsensusMember(id=fields[0], url=fields[1].rstrip("/"), peer_address=fields[2]))
    if not members:
        raise ValueError("no member is named")
    return members


def _parse_members(value: object) -> object:
    return parse_members(value) if isinstance(value, str) else value


def _parse_names(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class InitialiseSettings(PeerKeySettings):
    """Whom to make a cluster of.

    Attributes:
        cluster_id: of the new cluster.
        init_members: its first members, `id=http://host:port=peer-host:peer-port,...`.
        init_nodes: the ids of its first storage nodes.
    """

    cluster_id: str
    init_members: Annotated[list[ConsensusMember], NoDecode, BeforeValidator(_parse_members)]
    init_nodes: Annotated[list[str], NoDecode, BeforeValidator(_parse_names)] = Field(default_factory=list)


async def initialise(settings: InitialiseSettings, keys: PeerKeys) -> InitResponse:
    """Ask until a leader says that the cluster exists. Raises TimeoutError or a definite TrivetError."""
    request = InitRequest(
        cluster_id=settings.cluster_id, members=settings.init_members, admitted_nodes=settings.init_nodes
    )
    first = settings.init_members[0]
    member = PeerAddress(first.id, first.url, Role.CONSENSUS)
    created = False
    waits_for = ""
    async with PeerClient(keys) as client, asyncio.timeout(PATIENCE_S):
        while True:
            try:
                answer = await client.call(
                    member, "POST", "/v1/cluster/init", InitResponse, body=request, timeout_s=10.0
                )
                return InitResponse(cluster_id=answer.cluster_id, created=answer.created or created)
            except NotLeaderError as error:
                if "leader_url" in error.facts:
                    member = PeerAddress(error.facts["leader_id"], error.facts["leader_url"], Role.CONSENSUS)
            except TrivetError as error:
                if error.status not in {500, 503}:
                    raise
                # Said once, and again when the reason is another: a member that is slow to start would fill the log.
                if waits_for != error.message:
                    waits_for = error.message
                    logger.info("waiting", member=member.id, reason=error.message)
                # The first member stays the one to start from: another one must not begin a cluster of its own.
                member = PeerAddress(first.id, first.url, Role.CONSENSUS)
            await asyncio.sleep(1.0)


def main() -> None:
    """Entry point."""
    make_process_private()
    settings = load_settings(InitialiseSettings)
    configure_logging("initialise", "info")
    try:
        answer = asyncio.run(initialise(settings, settings.read_peer_keys()))
    except (ValueError, TrivetError) as error:
        refuse_to_start(str(error))
    except TimeoutError:
        refuse_to_start(f"no leader within {PATIENCE_S:.0f} s; are the members running?")
    logger.info("cluster initialised", cluster_id=answer.cluster_id, created=answer.created)


if __name__ == "__main__":
    main()
