"""Turns a request into its principal, or an error: once, before anything else is decided, and nowhere else.

The signature of the head is proved whatever form the body has. Only then its clock, its headers and the form of the body count,
and nothing of the body is asked for before. The rows of keys are as new as `AccessControl` says.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from starlette.types import Scope

from services.gateway.access.context import AccessContext
from services.gateway.access.control import AccessControl, KeySecret
from services.gateway.access.credentials import invalid_credential
from services.gateway.access.links import Now
from services.gateway.access.principal import UNKNOWN
from services.gateway.access.transport import FORWARDED_BY_PROXY, Peer
from services.gateway.s3.bodies import BodyForm, body_form, body_of_request, without_framing
from services.gateway.s3.errors import S3Error
from services.gateway.s3.post_forms import open_post_form, take_form
from services.gateway.s3.post_policies import post_policy
from services.gateway.s3.requests import S3Request
from services.gateway.s3.rules import S3Rules
from services.gateway.s3.signatures import (
    PAYLOAD_HEADER,
    UNSIGNED_PAYLOAD,
    RawHead,
    SignatureChain,
    SignedHead,
    SigningKeys,
    is_policy_proved,
    is_proved,
    signed_form,
    signed_head,
    signing_key,
    unsigned_headers,
)
from shared.errors import CredentialInvalidError
from shared.units import NANOSECONDS_PER_SECOND

SKEW_MAX_S: Final = 15 * 60
"""Between the moment that a head was signed at and true time, at most."""

_NO_SECRET: Final = "-" * 40
"""Signs for a key that is not there."""


class Authentication:
    """Of one gateway. Remembers the keys that were derived."""

    def __init__(self) -> None:
        self._signing_keys = SigningKeys()

    async def authenticate(self, request: S3Request, control: AccessControl, rules: S3Rules) -> AccessContext:
        """Who makes the request; its `body` is there afterwards, and its `headers` say nothing of the body's framing.

        Raises:
            S3Error: nobody who is known, or not in a way that is taken here; nothing of the body was read.
            UnauthenticatedError: it has no credential, and may do nothing without one; definite.
            TrivetError: as a metadata read.
        """
        scope = request.scope
        head = RawHead(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"])
        peer = peer_of(request)
        context = AccessContext(UNKNOWN, peer.address, request.request_id)
        signed = signed_head(head)
        if request.operation.has_form:
            await self._take_form(request, context, control, rules, signed)
            return context
        if signed is None:
            _enter_anonymous(context, control, rules, peer)
            form, chain = _unsigned_form(request), None
        else:
            key = await self._prove(context, control, signed, lambda key: is_proved(signed, head, key))
            _check_region(signed, rules)
            _check_clock(signed, Now.of(request.services.clock))
            form = _signed_form(signed, head, request)
            request.signed_headers = signed.headers
            chain = SignatureChain(signed.moment, signed.scope, signed.signature, key)
        request.body = body_of_request(scope, request.receive, form, chain)
        request.headers = without_framing(request.headers)
        return context

    async def _take_form(
        self,
        request: S3Request,
        context: AccessContext,
        control: AccessControl,
        rules: S3Rules,
        head: SignedHead | None,
    ) -> None:
        """The same of a form, whose fields take the place of headers. Of its body they are all that is read."""
        if head is not None:
            raise S3Error("InvalidArgument", "Only one auth mechanism allowed: a form is signed by its policy alone.")
        form = await open_post_form(request)
        signed, policy = signed_form(form.fields), None
        if signed is None:
            _enter_anonymous(context, control, rules, peer_of(request))
        else:
            text = form.fields["policy"]
            await self._prove(context, control, signed, lambda key: is_policy_proved(text, signed.signature, key))
            _check_region(signed, rules)
            now_s = Now.of(request.services.clock).latest_ns / NANOSECONDS_PER_SECOND
            policy = post_policy(text)
            policy.check(form.fields, bucket=request.bucket, key=form.key, now_s=now_s)
        take_form(request, form, policy)

    async def _prove(
        self, context: AccessContext, control: AccessControl, signed: SignedHead, is_right: Callable[[bytes], bool]
    ) -> bytes:
        """Have `context` be that of whoever signed. Returns the key that signs for the rest of the request."""
        proof = _Proof(signed, is_right, self._signing_keys)
        try:
            await control.identify_by_signature(context, signed.key, proof.check)
        except CredentialInvalidError as error:
            raise proof.refusal() from error
        return proof.signing_key


def peer_of(request: S3Request) -> Peer:
    """How the request came."""
    scope: Scope = request.scope
    client = scope.get("client")
    return Peer(
        "" if client is None else client[0],
        is_tls=scope.get("scheme") == "https",
        forwarded_proto=request.headers.get("x-forwarded-proto"),
        is_forwarded=not FORWARDED_BY_PROXY.isdisjoint(request.headers),
    )


def _enter_anonymous(context: AccessContext, control: AccessControl, rules: S3Rules, peer: Peer) -> None:
    context.principal = rules.transport.anonymous_from(peer)
    control.enter(context)
    context.require_anybody()


class _Proof:
    """Of one signature, which is right where `is_right` of the signing key. `signing_key`: as it was found last."""

    def __init__(self, signed: SignedHead, is_right: Callable[[bytes], bool], keys: SigningKeys) -> None:
        self._signed = signed
        self._is_right = is_right
        self._keys = keys
        self._is_key_known = False
        self.signing_key = b""

    def check(self, secret: KeySecret | None) -> None:
        """See `SignatureCheck`."""
        signed = self._signed
        known = None if secret is None else self._keys.find(signed, secret.sealed)
        plain = None if secret is None or known is not None else secret.plain()
        self._is_key_known = known is not None or plain is not None
        self.signing_key = known or signing_key(_NO_SECRET if plain is None else plain, signed.date, signed.region)
        if not self._is_right(self.signing_key) or secret is None or not self._is_key_known:
            raise invalid_credential()
        if known is None:
            self._keys.put(signed, secret.sealed, self.signing_key)

    def refusal(self) -> S3Error:
        """Why it was refused last."""
        if self._is_key_known:
            return S3Error(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )
        return S3Error(
            "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records, or is not active."
        )


def _check_region(signed: SignedHead, rules: S3Rules) -> None:
    if rules.is_region_strict and signed.region != rules.region:
        by_query = "AuthorizationQueryParametersError"
        raise S3Error(
            "AuthorizationHeaderMalformed" if signed.expires_s is None else by_query,
            f"The region '{signed.region}' is wrong; expecting '{rules.region}'.",
            Region=rules.region,
        )


def _check_clock(signed: SignedHead, now: Now) -> None:
    """`now` is an interval: only what is wrong at each of its moments is."""
    earliest_s, latest_s = now.earliest_ns // NANOSECONDS_PER_SECOND, now.latest_ns // NANOSECONDS_PER_SECOND
    if signed.expires_s is None:
        if not earliest_s - SKEW_MAX_S <= signed.moment_s <= latest_s + SKEW_MAX_S:
            raise S3Error(
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
                RequestTime=signed.moment,
                ServerTime=_iso(latest_s),
                MaxAllowedSkewMilliseconds=str(SKEW_MAX_S * 1000),
            )
    elif signed.moment_s > latest_s + SKEW_MAX_S:
        raise S3Error("AccessDenied", "Request is not valid yet", ServerTime=_iso(latest_s))
    elif latest_s >= signed.moment_s + signed.expires_s:
        # What may have expired has: a link is a promise that it does.
        expires = _iso(signed.moment_s + signed.expires_s)
        raise S3Error("AccessDenied", "Request has expired", Expires=expires, ServerTime=_iso(latest_s))


def _iso(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _signed_form(signed: SignedHead, head: RawHead, request: S3Request) -> BodyForm:
    """The form of the body of a signed head.

    Raises:
        S3Error: AccessDenied where a header counts that nobody has signed; as `body_form`.
    """
    names = unsigned_headers(signed, head)
    sent = request.headers.get(PAYLOAD_HEADER, signed.payload)
    form = body_form(sent, request.headers)
    # Beside a link that does not sign it, it may say what the body hashes to: that only refuses one more.
    if sent != signed.payload and (signed.payload != UNSIGNED_PAYLOAD or form.sha256 is None):
        names.append(PAYLOAD_HEADER)
    if names:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(names),
        )
    return form


def _unsigned_form(request: S3Request) -> BodyForm:
    form = body_form(request.headers.get(PAYLOAD_HEADER, UNSIGNED_PAYLOAD), request.headers)
    if form.has_signatures:
        raise S3Error("InvalidRequest", "A body with signatures needs a signed head.")
    return form
