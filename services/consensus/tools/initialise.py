"""Makes a new cluster, once: `python -m services.consensus.tools.initialise`.

For containers and Kubernetes, where it runs before each start of a gateway; safe to run again. A member that knows of a cluster
confirms it. A new one is begun at the first member named, and only when every one of them says that it knows of none: a member
that lost its disk knows nothing either, and must not begin a second cluster while the others have the first.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from shared.cluster_keys import PeerKeys
from shared.contracts.cluster import ConsensusMember, InitRequest, InitResponse, MemberStatus
from shared.errors import NotLeaderError, TrivetError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.roles import Role
from shared.settings import PeerKeySettings, load_settings, refuse_to_start
from shared.telemetry import configure_logging

PATIENCE_S = 120.0
PAUSE_S = 1.0

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


async def initialise(client: PeerClient, settings: InitialiseSettings) -> InitResponse:
    """Ask until a leader says that the cluster exists. Raises TimeoutError or a definite TrivetError."""
    request = InitRequest(
        cluster_id=settings.cluster_id, members=settings.init_members, admitted_nodes=settings.init_nodes
    )
    waiting = _WaitingLog()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            member = await _where_to_begin(client, settings.init_members, waiting)
            # The leader is followed from there; when that leads nowhere, all of them are asked again.
            while member is not None:
                try:
                    return await client.call(
                        member, "POST", "/v1/cluster/init", InitResponse, body=request, timeout_s=10.0
                    )
                except NotLeaderError as error:
                    member = (
                        PeerAddress(error.facts["leader_id"], error.facts["leader_url"], Role.CONSENSUS)
                        if "leader_url" in error.facts
                        else None
                    )
                except TrivetError as error:
                    if error.status not in {500, 503}:
                        raise
                    waiting.say(member.id, error.message)
                    member = None
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(PAUSE_S)


async def _where_to_begin(
    client: PeerClient, members: list[ConsensusMember], waiting: _WaitingLog
) -> PeerAddress | None:
    """A member that knows of a cluster; the first member, when every one says that it knows of none; None until then."""

    async def has_cluster(member: PeerAddress) -> bool | None:
        try:
            status = await client.call(member, "GET", "/v1/status", MemberStatus, timeout_s=3.0)
        except TrivetError as error:
            waiting.say(member.id, error.message)
            return None
        return status.cluster_id is not None

    addresses = [PeerAddress(member.id, member.url, Role.CONSENSUS) for member in members]
    answers = await asyncio.gather(*map(has_cluster, addresses))
    for address, answer in zip(addresses, answers, strict=True):
        if answer:
            return address
    return addresses[0] if None not in answers else None


class _WaitingLog:
    """Says whom it waits for and why, once for each reason: a member that is slow to start would fill the log."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, member_id: str, reason: str) -> None:
        if self._said.get(member_id) != reason:
            self._said[member_id] = reason
            logger.info("waiting", member=member_id, reason=reason)


async def _run(settings: InitialiseSettings, keys: PeerKeys) -> InitResponse:
    async with PeerClient(keys) as client:
        return await initialise(client, settings)


def main() -> None:
    """Entry point."""
    make_process_private()
    settings = load_settings(InitialiseSettings)
    configure_logging("initialise", "info")
    try:
        answer = asyncio.run(_run(settings, settings.read_peer_keys()))
    except (ValueError, TrivetError) as error:
        refuse_to_start(str(error))
    except TimeoutError:
        refuse_to_start(f"no leader within {PATIENCE_S:.0f} s; are the members running?")
    logger.info("cluster initialised", cluster_id=answer.cluster_id, created=answer.created)


if __name__ == "__main__":
    main()
