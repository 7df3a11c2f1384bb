"""What `make` asks of a running cluster's operations listener: nodes in and out, verify, and how far all of it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from local_cluster.errors import LocalClusterError

TIMEOUT_S: Final = 15.0


class Administration:
    """A client of one gateway's operations listener; `bearer` shows a key of an administrator. Open it with `with`."""

    def __init__(self, operations_url: str, bearer: Mapping[str, str]) -> None:
        self._client = httpx.Client(base_url=operations_url, headers=bearer, timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def cluster(self) -> dict[str, Any]:
        """`GET /v1/cluster`."""
        return self._call("GET", "/v1/cluster")

    def node(self, node_id: str) -> dict[str, Any] | None:
        """One storage node of it; None when the cluster has none of that id."""
        return next((node for node in self.cluster()["nodes"] if node["id"] == node_id), None)

    def admit(self, node_id: str) -> None:
        """Let a storage node in."""
        self._call("POST", "/v1/cluster/nodes", {"id": node_id})

    def remove(self, node_id: str, *, is_lost: bool) -> dict[str, Any]:
        """Drain a node, or remove one that is lost."""
        return self._call("DELETE", _node_path(node_id) + ("?lost=true" if is_lost else ""))

    def cancel_drain(self, node_id: str) -> None:
        """Use a draining node again."""
        self._call("DELETE", f"{_node_path(node_id)}/drain")

    def start_verify(self) -> dict[str, Any]:
        """Begin a pass over everything, or join the one that is under way."""
        return self._call("POST", "/v1/cluster/verify", accepts="verify_in_progress") or self.verify()

    def verify(self) -> dict[str, Any]:
        """How far it is."""
        return self._call("GET", "/v1/cluster/verify")

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, accepts: str | None = None
    ) -> dict[str, Any]:
        """The JSON of the answer; empty for none, and for a refusal with the code `accepts`. Raises LocalClusterError."""
        try:
            answer = self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise LocalClusterError(f"The gateway does not answer: {error}") from error
        if answer.is_success:
            found: dict[str, Any] = answer.json() if answer.content else {}
            return found
        problem = _problem(answer)
        if accepts is not None and problem.get("code") == accepts:
            return {}
        raise LocalClusterError(str(problem.get("detail") or f"The gateway answered {answer.status_code}."))


def _node_path(node_id: str) -> str:
    # Quoted: `storage-4?lost=true` is the name of no node, and must not remove one as lost.
    return f"/v1/cluster/nodes/{quote(node_id, safe='')}"


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
