"""What every route of a gateway needs: the table by which the door decides. What is not in it is not reached.

A test walks the routes of both listeners and fails when one is not here, or here for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.routing import compile_path
from starlette.types import Scope

from services.gateway.api.any_path import register_any
from services.gateway.semantics.raw_names import (
    BUCKETS_PREFIX,
    FILES_PREFIX,
    TAGS_PREFIX,
    VERSIONS_PREFIX,
    bucket_name,
    file_name,
    settings_bucket_name,
)
from shared.contracts.access import Action

Target = tuple[str, str | None]
"""Bucket and key; None where the path names no key."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Of one method of a path.

    Attributes:
        is_open: answered without looking at credentials.
        action: what the route does with what the path names; None where its commands and queries decide.
        target: from the raw path; raises InvalidNameError. None where the path names nothing.
        takes_links: a signed link may open it.
    """

    is_open: bool = False
    action: Action | None = None
    target: Callable[[bytes], Target] | None = None
    takes_links: bool = False


def _file(prefix: bytes) -> Callable[[bytes], Target]:
    def target(raw_path: bytes) -> Target:
        name = file_name(raw_path, prefix)
        return name.bucket, name.key

    return target


def _bucket(prefix: bytes) -> Callable[[bytes], Target]:
    return lambda raw_path: (bucket_name(raw_path, prefix), None)


def _settings_bucket(raw_path: bytes) -> Target:
    return settings_bucket_name(raw_path), None


def _of_file(action: Action) -> Rule:
    return Rule(action=action, target=_file(FILES_PREFIX), takes_links=True)


_OPEN: Final = Rule(is_open=True)
_BY_COMMANDS: Final = Rule()
"""Any principal; what it may do is decided by what is asked and proposed for it."""
_CLUSTER: Final = Rule(action=Action.CLUSTER_ADMIN)
_BUCKET: Final = Rule(action=Action.BUCKET_ADMIN, target=_bucket(BUCKETS_PREFIX))
_SETTINGS: Final = Rule(action=Action.BUCKET_ADMIN, target=_settings_bucket)
_TAGS: Final = _file(TAGS_PREFIX)

_HEALTH_AND_DOCS: Final[Mapping[str, Mapping[str, Rule]]] = {
    path: {"GET": _OPEN}
    for path in ("/healthz", "/readyz", "/docs", "/redoc", "/openapi.json", "/docs-assets/{path:path}")
}

PUBLIC: Final[Mapping[str, Mapping[str, Rule]]] = {
    **_HEALTH_AND_DOCS,
    "/v1/files/{bucket}/{key:any}": {
        "PUT": _of_file(Action.WRITE),
        "GET": _of_file(Action.READ),
        "HEAD": _of_file(Action.READ),
        "DELETE": _of_file(Action.DELETE),
    },
    "/v1/files/{bucket}": {
        "GET": Rule(action=Action.LIST, target=_bucket(FILES_PREFIX)),
        "POST": Rule(action=Action.WRITE, target=_bucket(FILES_PREFIX)),
    },
    "/v1/versions/{bucket}": {"GET": Rule(action=Action.LIST, target=_bucket(VERSIONS_PREFIX))},
    "/v1/tags/{bucket}/{key:any}": {
        "GET": Rule(action=Action.READ, target=_TAGS),
        "PUT": Rule(action=Action.WRITE, target=_TAGS),
        "DELETE": Rule(action=Action.WRITE, target=_TAGS),
    },
    "/v1/copy": {"POST": _BY_COMMANDS},
    "/v1/rename": {"POST": _BY_COMMANDS},
    "/v1/restore": {"POST": _BY_COMMANDS},
    "/v1/batch-delete": {"POST": _BY_COMMANDS},
    "/v1/uploads": {"POST": _BY_COMMANDS, "GET": _BY_COMMANDS},
    "/v1/uploads/{upload_id}": {"GET": _BY_COMMANDS, "DELETE": _BY_COMMANDS},
    "/v1/uploads/{upload_id}/complete": {"POST": _BY_COMMANDS},
    "/v1/uploads/{upload_id}/parts/{number}": {"PUT": _BY_COMMANDS},
    "/v1/uploads/{upload_id}/parts/{number}/copy": {"POST": _BY_COMMANDS},
    "/v1/buckets": {"GET": _BY_COMMANDS},
    "/v1/buckets/{bucket}": {"PUT": _BUCKET, "DELETE": _BUCKET},
    "/v1/buckets/{bucket}/settings": {"GET": _SETTINGS, "PUT": _SETTINGS, "PATCH": _SETTINGS},
    "/v1/cluster": {"GET": _CLUSTER},
    "/v1/time": {"GET": _BY_COMMANDS},
    "/v1/links": {"POST": _BY_COMMANDS},
    "/v1/identity": {"GET": _BY_COMMANDS},
}

OPERATIONS: Final[Mapping[str, Mapping[str, Rule]]] = {
    **_HEALTH_AND_DOCS,
    "/metrics": {"GET": _OPEN},  # has a token of its own: whoever scrapes all services has that one
    "/v1/cluster": {"GET": _CLUSTER},
    "/v1/cluster/nodes": {"POST": _CLUSTER},
    "/v1/cluster/nodes/{node_id}": {"DELETE": _CLUSTER},
    "/v1/cluster/nodes/{node_id}/replace": {"POST": _CLUSTER},
    "/v1/cluster/nodes/{node_id}/drain": {"DELETE": _CLUSTER},
    "/v1/cluster/verify": {"POST": _CLUSTER, "GET": _CLUSTER, "DELETE": _CLUSTER},
    "/v1/audit": {"GET": _CLUSTER},
    "/v1/audit/verify": {"GET": _CLUSTER},
    "/v1/identity": {"GET": _BY_COMMANDS},
    "/v1/identities": {"POST": _CLUSTER, "GET": _CLUSTER},
    "/v1/identities/{identity}": {"GET": _CLUSTER, "PATCH": _CLUSTER, "DELETE": _CLUSTER},
    "/v1/identities/{identity}/keys": {"POST": _CLUSTER, "GET": _CLUSTER},
    "/v1/keys/{key}": {"GET": _CLUSTER, "PATCH": _CLUSTER, "DELETE": _CLUSTER},
    "/v1/backups": {"POST": _CLUSTER, "GET": _CLUSTER},
    "/v1/backups/{backup_id}": {"PUT": _CLUSTER, "DELETE": _CLUSTER},
}


class RouteTable:
    """Finds the rule of a request, by the same patterns as the router."""

    def __init__(self, rules: Mapping[str, Mapping[str, Rule]]) -> None:
        register_any()
        self._exact = {path: methods for path, methods in rules.items() if "{" not in path}
        self._below = [
            (path.partition("{")[0], compile_path(path)[0], methods) for path, methods in rules.items() if "{" in path
        ]

    def methods(self, scope: Scope) -> Mapping[str, Rule]:
        """The rules of the path, by method; none where there is no such path."""
        path = scope["path"]
        if (exact := self._exact.get(path)) is not None:
            return exact
        for prefix, pattern, methods in self._below:
            if path.startswith(prefix) and pattern.match(path):
                return methods
        return {}

    def rule(self, scope: Scope) -> Rule | None:
        """The rule of a request; a HEAD has that of the GET."""
        methods = self.methods(scope)
        rule = methods.get(scope["method"])
        return methods.get("GET") if rule is None and scope["method"] == "HEAD" else rule
