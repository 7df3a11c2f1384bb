"""Makes a new cluster out of started processes: one signed request that names its id, voters and first storage nodes.

Idempotent, so it is sent at every start: a cluster that exists answers that it does.
"""

from __future__ import annotations

from typing import Final

from local_cluster.errors import LocalClusterError
from local_cluster.plan import ClusterPlan
from shared.contracts.cluster import InitRequest, InitResponse
from shared.errors import InternalError, NotLeaderError, PeerUnreachableError, TrivetError, UnavailableError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role

ATTEMPT_TIMEOUT_S: Final = 10.0


async def why_not_initialised(client: PeerClient, plan: ClusterPlan) -> str | None:
    """Try once to initialise the cluster; None when it is initialised, else the reason why it is not yet.

    Always begins with the first member: asking another one while the first is slow could make two clusters.

    Raises:
        LocalClusterError: the members belong to another cluster, or refuse for good.
    """
    first = plan.members[0]
    try:
        return await _ask(client, plan, PeerAddress(first.id, first.url, Role.CONSENSUS))
    except NotLeaderError as error:
        if "leader_url" not in error.facts:
            return error.message
        leader = PeerAddress(error.facts["leader_id"], error.facts["leader_url"], Role.CONSENSUS)
    try:
        return await _ask(client, plan, leader)
    except NotLeaderError as error:
        return error.message


async def _ask(client: PeerClient, plan: ClusterPlan, member: PeerAddress) -> str | None:
    request = InitRequest(
        cluster_id=plan.cluster_id, members=list(plan.members), admitted_nodes=list(plan.admitted_nodes)
    )
    try:
        await client.call(member, "POST", "/v1/cluster/init", InitResponse, body=request, timeout_s=ATTEMPT_TIMEOUT_S)
    except NotLeaderError:
        raise
    except PeerUnreachableError:
        return "does not answer yet"
    except (UnavailableError, InternalError) as error:
        return f"is not initialised: {error.message}"
    except TrivetError as error:
        raise LocalClusterError(f"{member.id} refuses to be initialised: {error.message}") from error
    return None
