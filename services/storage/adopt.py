"""Gives a storage node to another cluster: `python -m services.storage.adopt OLD_CLUSTER_ID`.

For operators, after a cluster was rescued or restored under a new id (`services.consensus.rescue`): the chunks are still on the
nodes, and a node refuses a folder or a Redis of another cluster. Run it once per node, with the node stopped, its Redis
running, and the node's own settings, `TRIVET_CLUSTER_ID` being the new one. Nothing but the name is changed; doing it again
changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from redis.exceptions import RedisError

from services.storage.node import redis_address
from services.storage.redis_node.inspection import OWNER_KEY
from services.storage.redis_node.link import RedisAddress, connect
from services.storage.settings import StorageSettings
from shared.disk.data_folder import hand_over_data_dir, lock_data_dir
from shared.disk.durable_files import replace_file
from shared.private_process import make_process_private
from shared.settings import load_settings, refuse_to_start

_PATIENCE_S = 5.0


async def hand_over_redis(address: RedisAddress, old_owner: str) -> None:
    """Write the new owner into the node's Redis; one that nobody has claimed stays so.

    Raises:
        ValueError: it is somebody else's.
        RedisError, OSError, TimeoutError: it cannot be asked.
    """
    async with connect(address) as client, asyncio.timeout(_PATIENCE_S):
        holder = await client.get(OWNER_KEY)
        if holder is None or holder == address.owner.encode():
            return
        if holder != old_owner.encode():
            raise ValueError(f"the Redis at {address.url} belongs to {holder!r}")
        await client.set(OWNER_KEY, address.owner)


def main() -> None:
    """Entry point."""
    make_process_private()
    parser = argparse.ArgumentParser(prog="python -m services.storage.adopt", description=__doc__)
    parser.add_argument("old_cluster_id")
    old_cluster_id: str = parser.parse_args().old_cluster_id
    settings = load_settings(StorageSettings)
    folder = lock_data_dir(settings.data_dir)
    address = redis_address(settings)
    try:
        if address is not None:
            asyncio.run(hand_over_redis(address, f"{old_cluster_id}/{settings.node_id}"))
            if address.claim_path.exists():
                replace_file(address.claim_path, address.owner.encode())
        # Last: until then the node is the old cluster's, and this can be done again.
        hand_over_data_dir(settings.data_dir, old_cluster_id, settings.cluster_id, settings.node_id)
    except (ValueError, OSError, RedisError) as error:
        refuse_to_start(str(error) or type(error).__name__)
    finally:
        os.close(folder.lock_fd)
    sys.stdout.write(f"{settings.node_id} belongs to cluster {settings.cluster_id} now\n")


if __name__ == "__main__":
    main()
