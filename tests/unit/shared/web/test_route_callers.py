"""`shared.web.route_callers`: a role may call what the table says, and nothing else is there."""

from __future__ import annotations

import pytest

from shared.errors import ForbiddenError, MethodNotAllowedError, NotFoundError
from shared.roles import Role
from shared.web.route_callers import RouteCallers

CALLERS = RouteCallers(
    {
        ("GET", "/v1/chunks"): {Role.OPERATOR},
        ("GET", "/v1/chunks/{}"): {Role.GATEWAY, Role.STORAGE},
        ("PUT", "/v1/chunks/{}"): {Role.GATEWAY},
        ("POST", "/v1/chunks/has"): {Role.STORAGE},
        ("POST", "/v1/nodes/{}/heartbeat"): {Role.STORAGE},
    }
)


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        (Role.OPERATOR, "GET", "/v1/chunks"),
        (Role.STORAGE, "GET", "/v1/chunks/abc"),
        (Role.STORAGE, "HEAD", "/v1/chunks/abc"),
        (Role.GATEWAY, "PUT", "/v1/chunks/abc"),
        (Role.STORAGE, "POST", "/v1/chunks/has"),
        (Role.STORAGE, "POST", "/v1/nodes/storage-1/heartbeat"),
    ],
)
def test_what_the_table_says_may_be_called(role: Role, method: str, path: str) -> None:
    """HEAD as GET."""
    CALLERS.check(role, method, path)


@pytest.mark.parametrize(
    ("role", "method", "path", "refusal"),
    [
        (Role.STORAGE, "PUT", "/v1/chunks/abc", ForbiddenError),
        (Role.GATEWAY, "POST", "/v1/chunks/has", ForbiddenError),
        (Role.GATEWAY, "POST", "/v1/nodes/storage-1/heartbeat", ForbiddenError),
        (Role.GATEWAY, "GET", "/v1/chunks", ForbiddenError),
        (Role.CLOCK, "GET", "/v1/chunks/abc", ForbiddenError),
        (Role.GATEWAY, "DELETE", "/v1/chunks/abc", MethodNotAllowedError),
        (Role.STORAGE, "HEAD", "/v1/chunks/has", MethodNotAllowedError),
        (Role.GATEWAY, "PUT", "/v1/chunks/abc/def", NotFoundError),
        (Role.GATEWAY, "PUT", "/v1/chunks/", NotFoundError),
        (Role.GATEWAY, "PUT", "//v1/chunks/abc", NotFoundError),
        (Role.GATEWAY, "GET", "/v1/chunks/{}/x", NotFoundError),
        (Role.OPERATOR, "GET", "/v1/chunks/", NotFoundError),
        (Role.STORAGE, "POST", "/v1/nodes/heartbeat", NotFoundError),
        (Role.STORAGE, "POST", "/v1/nodes//heartbeat", NotFoundError),
        (Role.STORAGE, "POST", "/v1/nodes/a/b/heartbeat", NotFoundError),
    ],
)
def test_everything_else_is_refused(role: Role, method: str, path: str, refusal: type[Exception]) -> None:
    """Also a path that a template almost fits."""
    with pytest.raises(refusal):
        CALLERS.check(role, method, path)


def test_the_template_itself_is_a_path_like_any_other() -> None:
    """A request may name anything."""
    CALLERS.check(Role.GATEWAY, "PUT", "/v1/chunks/{}")
    with pytest.raises(ForbiddenError):
        CALLERS.check(Role.STORAGE, "PUT", "/v1/chunks/{}")
