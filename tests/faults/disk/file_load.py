"""Clients of a gateway that write, replace, read and delete files, and remember everything that they were promised."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.units import KIB, MIB

SIZES_BYTES = (20, 10 * KIB, 300 * KIB, MIB - 1, 2 * MIB)
_KEYS_PER_CLIENT = 20
_ABSENT = "absent"


@dataclass(slots=True)
class FileState:
    """What a key may hold: what was acknowledged last, or what was asked for since and has no answer."""

    acknowledged: str = _ABSENT
    in_doubt: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not served. `status` is 0 when there was no answer at all."""

    at_s: float
    request: str
    status: int
    detail: str


class FileLoad:
    """Within a `with`, clients are busy. Each key belongs to one client, so what it must hold is known.

    Attributes:
        seconds: duration of each success, by method, with the moment of its end.
        wrong: reads that gave what the key cannot hold; must stay empty.
    """

    def __init__(
        self, cluster: Cluster, bucket: str, seed: int, *, clients: int = 3, sizes_bytes: Sequence[int] = SIZES_BYTES
    ) -> None:
        self._cluster = cluster
        self.bucket = bucket
        self._seed = seed
        self._clients = clients
        self._sizes_bytes = sizes_bytes
        self._rounds = 0
        self.files: dict[str, FileState] = {}
        self.failures: list[Failure] = []
        self.wrong: list[str] = []
        self.seconds: dict[str, list[tuple[float, float]]] = {"PUT": [], "GET": [], "DELETE": []}

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._rounds += 1
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def successes(self) -> int:
        return sum(map(len, self.seconds.values()))

    def wait_for_more(self, count: int, within_s: float = 120) -> None:
        """Until `count` more requests were served."""
        goal, give_up_at = self.successes + count, time.monotonic() + within_s
        while self.successes < goal:
            assert time.monotonic() < give_up_at, f"not {count} more successes: {self.failures[-3:]}"
            self._stop.wait(0.02)

    def p99_s(self, method: str, since_s: float, until_s: float) -> float:
        """Of the requests that ended between the two moments of the monotonic clock."""
        chosen = sorted(took for ended, took in self.seconds[method] if since_s <= ended < until_s)
        assert len(chosen) >= 20, f"only {len(chosen)} {method} between the two moments"
        return chosen[min(len(chosen) - 1, len(chosen) * 99 // 100)]

    def check(self) -> None:
        """Every key holds what was acknowledged last, or what was asked for since without an answer."""
        assert not self.wrong, self.wrong[:3]
        assert any(state.acknowledged != _ABSENT for state in self.files.values()), (
            "nothing was stored, so nothing tested"
        )
        with self._client() as client:
            for key, state in self.files.items():
                found = self._get(client, key)
                assert found in {state.acknowledged, *state.in_doubt}, f"{key} is {found} and should be {state}"

    def _client(self) -> httpx.Client:
        cluster = self._cluster
        return httpx.Client(base_url=cluster.gateway_url, headers=cluster.bearer, timeout=30, trust_env=False)

    def _get(self, client: httpx.Client, key: str) -> str:
        answer = client.get(f"/v1/files/{self.bucket}/{key}")
        if answer.status_code == 404:
            return _ABSENT
        assert answer.status_code == 200, (key, answer.status_code, answer.text[:300])
        return blake3(answer.content).hexdigest()

    def _work(self, number: int) -> None:
        draw = random.Random(f"{self._seed}-{self._rounds}-{number}")
        with self._client() as client:
            while not self._stop.is_set():
                key = f"client-{number}/{draw.randrange(_KEYS_PER_CLIENT)}-{self._rounds}"
                # What was asked for and not answered may still happen, so such a key is only read from then on.
                is_settled = not self.files.get(key, FileState()).in_doubt
                step = draw.random() if is_settled else 0.5
                if step < 0.5:
                    self._put(client, key, draw.randbytes(draw.choice(self._sizes_bytes)))
                elif step < 0.9:
                    self._read(client, key)
                else:
                    self._delete(client, key)

    def _put(self, client: httpx.Client, key: str, body: bytes) -> None:
        self._change(client, "PUT", key, blake3(body).hexdigest(), body)

    def _delete(self, client: httpx.Client, key: str) -> None:
        self._change(client, "DELETE", key, _ABSENT, None)

    def _change(self, client: httpx.Client, method: str, key: str, after: str, body: bytes | None) -> None:
        state = self.files.setdefault(key, FileState())
        state.in_doubt.append(after)
        answer = self._request(client, method, key, body)
        if answer is None:
            return
        if answer.is_success or (method == "DELETE" and answer.status_code == 404):
            self.files[key] = FileState(after)
        elif answer.headers.get("content-type") == "application/problem+json" and answer.json().get("definite"):
            state.in_doubt.remove(after)

    def _read(self, client: httpx.Client, key: str) -> None:
        state = self.files.get(key, FileState())
        answer = self._request(client, "GET", key, None)
        if answer is None or answer.status_code not in {200, 404}:
            return
        found = _ABSENT if answer.status_code == 404 else blake3(answer.content).hexdigest()
        if found not in {state.acknowledged, *state.in_doubt}:
            self.wrong.append(f"{key} gave {found} and should be {state}")

    def _request(self, client: httpx.Client, method: str, key: str, body: bytes | None) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = client.request(method, f"/v1/files/{self.bucket}/{key}", content=body)
        except httpx.TransportError as error:
            self._note_failure(method, key, 0, repr(error))
            return None
        if answer.status_code < 400 or answer.status_code == 404:
            self.seconds[method].append((time.monotonic(), time.monotonic() - began))
        else:
            self._note_failure(method, key, answer.status_code, answer.text[:300])
        return answer

    def _note_failure(self, method: str, key: str, status: int, detail: str) -> None:
        self.failures.append(Failure(time.monotonic(), f"{method} {key}", status, detail))
        self._stop.wait(0.1)
