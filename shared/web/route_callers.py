"""Which role may call which route of an internal port (X-162). A route that is not in the table is answered to nobody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from shared.errors import ForbiddenError, MethodNotAllowedError, NotFoundError
from shared.roles import Role

_PLACEHOLDER: Final = "{}"

RouteTable = Mapping[tuple[str, str], Collection[Role]]
"""By method and path. One segment of a path may be `{}`, which stands for any."""


class RouteCallers:
    """A table, looked up by the paths of requests."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self._paths: dict[str, dict[str, Collection[Role]]] = defaultdict(dict)
        for (method, path), roles in table.items():
            self._paths[path][method] = roles
        self._templates = [path.split(_PLACEHOLDER) for path in self._paths if _PLACEHOLDER in path]

    def check(self, caller: Role, method: str, path: str) -> None:
        """Let `caller` pass.

        Raises:
            ForbiddenError, NotFoundError, MethodNotAllowedError: it may not call that, or there is nothing; definite.
        """
        methods = self._methods(path)
        if methods is None:
            raise NotFoundError("There is nothing at this path.")
        roles = methods.get(method)
        if roles is None and method == "HEAD":
            roles = methods.get("GET")
        if roles is None:
            raise MethodNotAllowedError(f"This path takes {', '.join(sorted(methods))}.", allowed=sorted(methods))
        if caller not in roles:
            raise ForbiddenError(f"A {caller} may not call this.")

    def _methods(self, path: str) -> dict[str, Collection[Role]] | None:
        methods = self._paths.get(path)
        if methods is not None and _PLACEHOLDER not in path:
            return methods
        for before, after in self._templates:
            segment = path[len(before) : len(path) - len(after)]
            if segment and "/" not in segment and path.startswith(before) and path.endswith(after):
                return self._paths[before + _PLACEHOLDER + after]
        return None
