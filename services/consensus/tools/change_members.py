"""Adds or removes a consensus member: `python -m services.consensus.tools.change_members add ID URL PEER_ADDRESS | remove ID`.

For operators: the routes are signed, so curl cannot call them. It needs TRIVET_PEER_KEYS_FILE and TRIVET_CONSENSUS_URLS,
finds the leader, and tries again while another change is under way.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from pydantic import Field

from shared.cluster_keys import PeerKeys
from shared.contracts.base import WireModel
from shared.contracts.cluster import AddMemberRequest, MembersResponse
from shared.errors import ConflictError, NotLeaderError, TrivetError, UnavailableError
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient
from shared.private_process import make_process_private
from shared.roles import Role
from shared.settings import ConsensusList, PeerKeySettings, load_settings, refuse_to_start

PATIENCE_S = 60.0


class OperatorSettings(PeerKeySettings):
    """Whom to ask, and with which keys.

    Attributes:
        consensus_urls: the members.
    """

    consensus_urls: ConsensusList = Field(min_length=1)


async def change(
    keys: PeerKeys, members: list[PeerAddress], method: str, path: str, body: WireModel | None
) -> MembersResponse:
    """One change, at whoever leads. Raises TimeoutError, or the definite TrivetError of a change that makes no sense."""
    attempt = 0
    member = members[0]
    async with PeerClient(keys) as client, asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await client.call(member, method, path, MembersResponse, body=body, timeout_s=10.0)
            except NotLeaderError as error:
                known = "leader_url" in error.facts
                attempt += 1
                member = (
                    PeerAddress(error.facts["leader_id"], error.facts["leader_url"], Role.CONSENSUS)
                    if known
                    else members[attempt % len(members)]
                )
            except (ConflictError, UnavailableError) as error:
                if isinstance(error, ConflictError) and error.retry_after_s is None:
                    raise
                sys.stderr.write(f"trivet: trying again: {error.message}\n")
                attempt += 1
                member = members[attempt % len(members)]
            await asyncio.sleep(0.5)


def main() -> None:
    """Entry point."""
    make_process_private()
    parser = argparse.ArgumentParser(prog="python -m services.consensus.tools.change_members", description=__doc__)
    acts = parser.add_subparsers(dest="act", required=True)
    add = acts.add_parser("add", help="a new member, running with an empty folder; it votes once it has caught up")
    add.add_argument("id")
    add.add_argument("url", help="http://host:port")
    add.add_argument("peer_address", help="host:port")
    remove = acts.add_parser("remove", help="for good: the id is not used again")
    remove.add_argument("id")
    arguments = parser.parse_args()
    settings = load_settings(OperatorSettings)
    try:
        keys = settings.read_peer_keys()
        if arguments.act == "add":
            body = AddMemberRequest(id=arguments.id, url=arguments.url, peer_address=arguments.peer_address)
            answer = asyncio.run(change(keys, settings.consensus_urls, "POST", "/v1/members", body))
        else:
            path = f"/v1/members/{arguments.id}"
            answer = asyncio.run(change(keys, settings.consensus_urls, "DELETE", path, None))
    except (ValueError, TrivetError) as error:
        refuse_to_start(str(error))
    except TimeoutError:
        refuse_to_start(f"no leader took the change within {PATIENCE_S:.0f} s; what became of it is not known")
    for member in answer.members:
        sys.stdout.write(f"{member.id}  {'voter' if member.is_voter else 'learner'}  {member.url}\n")


if __name__ == "__main__":
    main()
