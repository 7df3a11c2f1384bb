"""The door of a gateway: who a request is made by is decided before its body is taken, and before anything behind sees it.

ASGI middleware in front of the fast path and FastAPI, on both listeners. It knows every route (`door_routes`), and one that it
does not know is not reached. It turns a request into an `AccessContext`, or answers with an error. What the path names is
decided here, so that a refused upload sends no byte: asking for the first one is what sends `100 Continue`. Everything is
decided again by the exact command or query (`access.authorized_metadata`).
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.access import context as access
from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl
from services.gateway.access.credentials import refuse_two_credentials
from services.gateway.access.links import SignedLink, link_in
from services.gateway.access.principal import UNKNOWN
from services.gateway.access.refusals import caller_of
from services.gateway.access.transport import FORWARDED_BY_PROXY, Peer, TransportRules
from services.gateway.access_log import About
from services.gateway.api.answers import RawHeaders
from services.gateway.api.door_routes import RouteTable, Rule
from services.gateway.api.early_refusal import WatchedBody, announces_body
from services.gateway.api.problems import problem_answer
from services.gateway.api.services import RunningGateway
from services.gateway.semantics.raw_names import FileName
from shared.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError, TrivetError
from shared.web.http_exchange import exchange_of
from shared.web.tracing import working_for

Marks = Callable[[Scope], RawHeaders]
"""What every answer of the listener carries, refusals included."""

Check = Callable[[Scope], None]
"""Raises TrivetError for a request that is refused whoever made it."""

SERVER_ERROR: Final = 500
_READS: Final = frozenset({"GET", "HEAD"})
REQUEST_ID_HEADER: Final = b"x-trivet-request-id"
_PREFLIGHT: Final = b"access-control-request-method"


class Door:
    """ASGI middleware behind `RawPaths`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        gateway: RunningGateway,
        routes: RouteTable,
        rules: TransportRules,
        marks: Marks,
        check: Check | None = None,
    ) -> None:
        self._app = app
        self._gateway = gateway
        self._routes = routes
        self._rules = rules
        self._marks = marks
        self._check = check
        self._boot = secrets.token_hex(8)
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in for its principal, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = _Head(scope)
        rule = self._routes.rule(scope)
        # A preflight has no credentials, and is answered by the rules of origins or not at all.
        if (rule is not None and rule.is_open) or (scope["method"] == "OPTIONS" and head.is_preflight):
            await self._app(scope, receive, send)
            return
        try:
            context = await self._admitted(scope, head, rule)
        except TrivetError as error:
            await self._refuse(error, scope, receive, send)
            return
        if head.link is not None:
            # What is behind the door asks what else the query says, and knows no links.
            scope = {**scope, "query_string": head.link.rest}
        token = access.access_context.set(context)
        try:
            with working_for(context.request_id, scope["method"], scope["headers"]):
                await self._app(scope, receive, send)
        finally:
            access.access_context.reset(token)

    async def _admitted(self, scope: Scope, head: _Head, rule: Rule | None) -> AccessContext:
        """Whom the request is made by.

        Raises:
            TrivetError: by nobody who may do what the route does with what the path names; definite.
            TooManyRequestsError: by a principal that asks more often than it may; definite.
        """
        services = self._gateway.services
        control = services.access
        context = AccessContext(UNKNOWN, head.address, self._new_request_id())
        if (exchange := exchange_of(scope)) is not None:
            exchange.mark_answer(REQUEST_ID_HEADER, context.request_id.encode())
        try:
            head.link = link_in(scope["query_string"]) if scope["query_string"] else None
            if not self._is_known(control, head, context):
                await self._identify(control, scope, head, rule, context)
            # Whatever it may do: what is refused costs a read of the log.
            context.pace = services.rates.admit(context.principal, context.address)
            if rule is None:
                raise self._unknown_route(scope)
            context.operation = rule.action
            if rule.target is not None:
                context.bucket, context.key = rule.target(scope["raw_path"])
            if not control.is_allowed(context, AccessContext.require_target):
                await control.decide(context, AccessContext.require_target)
        except TrivetError as error:
            if error.status < SERVER_ERROR:
                control.refusals.refused(error.code, context, _about(scope, context))
            raise
        if services.access_log.has_reads and scope["method"] in _READS:
            services.access_log.read(caller_of(context), _about(scope, context))
        return context

    def _is_known(self, control: AccessControl, head: _Head, context: AccessContext) -> bool:
        """A bearer that was right before, and no other credential beside it: most requests, without a coroutine."""
        if len(head.authorization) != 1 or head.link is not None:
            return False
        self._rules.check_secret_from(head.peer)
        return control.recognise(context, head.authorization[0])

    async def _identify(
        self, control: AccessControl, scope: Scope, head: _Head, rule: Rule | None, context: AccessContext
    ) -> None:
        refuse_two_credentials(head.authorization, has_link=head.link is not None)
        if head.authorization:
            # Before it is compared: what others may have read is not a proof, be it right or wrong.
            self._rules.check_secret_from(head.peer)
            await control.identify(context, head.authorization[0])
        elif head.link is not None:
            await self._identify_by_link(control, scope, head.link, rule, context)
        else:
            context.principal = self._rules.anonymous_from(head.peer)
            control.enter(context)
            context.require_anybody()

    async def _identify_by_link(
        self, control: AccessControl, scope: Scope, link: SignedLink, rule: Rule | None, context: AccessContext
    ) -> None:
        if rule is None or not rule.takes_links or rule.target is None:
            raise InvalidRequestError("A signed link is for one file, under /v1/files/.")
        bucket, key = rule.target(scope["raw_path"])
        name = FileName(bucket, key or "")
        await control.identify_by_link(context, link, method=scope["method"], name=name, raw_headers=scope["headers"])

    def _unknown_route(self, scope: Scope) -> TrivetError:
        """As the router says it, which is not asked."""
        if methods := self._routes.methods(scope):
            allowed = ", ".join(sorted({*methods, *({"HEAD"} if "GET" in methods else ())}))
            return MethodNotAllowedError(f"This path takes {allowed}.", allow=allowed)
        return NotFoundError("There is nothing at this path.")

    async def _refuse(self, error: TrivetError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with `error`, and end the connection where a body was on its way.

        What is behind the door checks by itself what it is sent, so whatever is refused for another reason as well is told that
        one here: a foreign page learns the same with a key and without.
        """
        if self._check is not None:
            try:
                self._check(scope)
            except TrivetError as earlier:
                error = earlier
        if announces_body(scope):
            body = WatchedBody(scope, receive, send)
            receive, send = body.receive, body.send
        answer = problem_answer(scope, error)
        if isinstance(error, MethodNotAllowedError):
            answer.headers["allow"] = error.facts["allow"]
        answer.raw_headers.extend(self._marks(scope))
        await answer(scope, receive, send)

    def _new_request_id(self) -> str:
        return f"{self._boot}-{next(self._count):x}"


class _Head:
    """What the door looks at of a request."""

    __slots__ = ("address", "authorization", "is_preflight", "link", "peer")

    def __init__(self, scope: Scope) -> None:
        self.authorization: list[bytes] = []
        self.is_preflight = False
        self.link: SignedLink | None = None
        protos: list[str] = []
        is_forwarded = False
        for name, value in scope["headers"]:
            if name not in _LOOKED_AT:
                continue
            if name == b"authorization":
                self.authorization.append(value)
            elif name == _PREFLIGHT:
                self.is_preflight = True
            else:
                is_forwarded = True
                if name == _FORWARDED_PROTO:
                    protos.append(value.decode("latin-1").strip().lower())
        self.address = _address(scope)
        self.peer = Peer(
            self.address,
            is_tls=scope.get("scheme") == "https",
            forwarded_proto=", ".join(protos) if protos else None,
            is_forwarded=is_forwarded,
        )


_FORWARDED_PROTO: Final = b"x-forwarded-proto"
_LOOKED_AT: Final = frozenset({b"authorization", _PREFLIGHT, *(name.encode() for name in FORWARDED_BY_PROXY)})


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return "" if client is None else client[0]


def _about(scope: Scope, context: AccessContext) -> About:
    action = "" if context.operation is None else context.operation.value
    return About(scope["method"], scope["path"], action, context.bucket or "", context.key or "")
