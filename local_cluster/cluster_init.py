"""Makes a new cluster out of started processes: one signed request that names its id, voters and first storage nodes.

Idempotent, so it is sent at every start: a cluster that exists answers that it does.
"""

from __future__ import annotations

from typing import Final

from local_cluster.errors import LocalClusterError
from local_cluster.plan import ClusterPlan
from shared.contracts.cluster import InitRequest, InitResponse
from shared.errors import ClusterMismatchError, PeerUnreachableError, TrivetError
from shared.http_client import PeerClient
from shared.settings import PeerAddress

ATTEMPT_TIMEOUT_S: Final = 10.0


async def why_not_initialised(client: PeerClient, plan: ClusterPlan) -> str | None:
    """Try once to initialise the cluster; None when it is initialised, else the reason why it is not yet.

    Raises:
        LocalClusterError: the members belong to another cluster.
    """
    member = PeerAddress(plan.members[0].id, plan.members[0].url)
    request = InitRequest(
        cluster_id=plan.cluster_id, members=list(plan.members), admitted_nodes=list(plan.admitted_nodes)
    )
    try:
        await client.call(member, "POST", "/v1/cluster/init", InitResponse, body=request, timeout_s=ATTEMPT_TIMEOUT_S)
    except ClusterMismatchError as error:
        raise LocalClusterError(f"{member.id} belongs to another cluster: {error.message}") from error
    except PeerUnreachableError:
        return "does not answer yet"
    except TrivetError as error:
        return f"is not initialised: {error.message}"
    return None
