"""A short version of `make test-faults` for S3: boto3 works on while a storage node and the leader are killed."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from hashlib import md5

import pytest
from boto3.s3.transfer import TransferConfig

from shared.units import KIB, MIB
from tests.integration.s3.nemesis import Nemesis
from tests.integration.s3.servers import S3Server, require_calm, require_trivet
from tests.waiting import block_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

CLIENTS = 3
PARTS = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=2)


class Worker:
    """Puts, by parts now and then, reads, copies and deletes; remembers what it was promised."""

    def __init__(self, server: S3Server, bucket: str, name: str, seed: int) -> None:
        self._server = server
        self._bucket = bucket
        self._name = name
        self._chance = random.Random(f"{seed} {name}")
        self.promised: dict[str, str | None] = {}
        self.done = 0
        self.errors: list[Exception] = []

    def run(self, is_over: threading.Event) -> None:
        try:
            # Patient, as whoever runs a batch over night sets it.
            with self._server.client(retries={"mode": "standard", "max_attempts": 12}) as client:
                while not is_over.is_set():
                    self._one(client, f"{self._name}/{self._chance.randrange(12)}")
                    self.done += 1
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)

    def _one(self, client, key: str) -> None:
        where = {"Bucket": self._bucket, "Key": key}
        act = self._chance.choice(("put", "put", "parts", "copy", "delete"))
        body = self._chance.randbytes(self._chance.randrange(6 * MIB, 7 * MIB) if act == "parts" else 30 * KIB)
        if act == "put":
            client.put_object(**where, Body=body)
            self.promised[key] = md5(body).hexdigest()
        elif act == "parts":
            client.upload_fileobj(io.BytesIO(body), self._bucket, key, Config=PARTS)
            self.promised[key] = md5(body).hexdigest()
        elif act == "delete":
            client.delete_object(**where)
            self.promised[key] = None
        elif self.promised.get(key) is not None:
            client.copy_object(Bucket=self._bucket, Key=f"{key}-copy", CopySource=where)
            self.promised[f"{key}-copy"] = self.promised[key]
        if self.promised.get(key) is not None:
            assert md5(client.get_object(**where)["Body"].read()).hexdigest() == self.promised[key], key


def test_nothing_that_was_promised_is_lost_while_a_node_and_the_leader_die(cluster, s3, client, bucket, seed) -> None:
    """Every call succeeds, after retries at most; in the end every key has what its last write said."""
    require_trivet(s3, "nobody kills parts of it")
    require_calm(s3)
    workers = [Worker(s3, bucket, f"client-{number}", seed) for number in range(CLIENTS)]
    is_over = threading.Event()
    threads = [threading.Thread(target=worker.run, args=(is_over,)) for worker in workers]
    with Nemesis(cluster) as nemesis:
        for thread in threads:
            thread.start()
        try:
            block_until(
                lambda: (
                    (len(nemesis.kills) >= 4 and all(worker.done >= 5 for worker in workers))
                    or any(worker.errors for worker in workers)
                ),
                "two rounds of kills, and calls of every client",
                within_s=150,
            )
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    assert [worker.errors for worker in workers] == [[]] * CLIENTS
    asyncio.run(cluster.start())
    promised = {key: digest for worker in workers for key, digest in worker.promised.items()}
    listed = {
        entry["Key"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for entry in page.get("Contents", [])
    }
    assert listed == {key for key, digest in promised.items() if digest is not None}
    for key in listed:
        assert md5(client.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest() == promised[key], key
