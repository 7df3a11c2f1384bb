"""The JSON bodies of the calls about identities, access keys and signed links."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, SecretStr, model_validator

from services.gateway.access.policy import EVERY_BUCKET
from services.gateway.access.principal import Principal
from services.gateway.api.models import UsageInfo, example
from services.gateway.identities import CreatedKey, IdentityWithKeys
from services.gateway.listings import IdentityListPage
from shared.contracts.access import (
    SCOPES_MAX,
    AccessKey,
    Action,
    Identity,
    IdentityLimits,
    IdentityName,
    KeyId,
    Never,
    Scope,
)
from shared.contracts.base import WireModel
from shared.contracts.names import check_bucket_name, check_key
from shared.contracts.time import rfc3339
from shared.contracts.usage import UsageOf
from shared.links import HEADERS_MAX, LIFETIME_MAX_S, LinkMethod
from shared.units import NANOSECONDS_PER_SECOND

_HOUR_NS: Final = 3600 * NANOSECONDS_PER_SECOND
_ID: Final = "9c1f0a6d2b8e4c7f9c1f0a6d2b8e4c7f9c1f0a6d2b8e4c7f9c1f0a6d2b8e4c7f"
_KEY_ID: Final = "TV4Q7PZK2M9D0C8RW1XB"
_SCOPE: Final[dict[str, Any]] = {
    "effect": "allow",
    "actions": ["read", "write", "list"],
    "bucket": "photos",
    "prefix": "2026/",
}
_LIMITS: Final[dict[str, Any]] = {
    "quota_bytes": 10_737_418_240,
    "quota_files": None,
    "requests_per_s": 100,
    "bytes_per_s": None,
}
_IDENTITY: Final[dict[str, Any]] = {
    "id": _ID,
    "name": "camera",
    "is_root": False,
    "state": "active",
    "scopes": [_SCOPE],
    "limits": _LIMITS,
    "created": "2026-11-25T16:35:12.104417Z",
}
_KEY: Final[dict[str, Any]] = {
    "id": _KEY_ID,
    "identity": _ID,
    "state": "active",
    "created": "2026-11-25T16:35:12.104417Z",
    "expires": None,
    "last_used_hour": "2026-11-25T16:00:00.000000Z",
    "sealing_key": "5a0f1c9e",
}

State = Literal["active", "disabled"]


def _meaningful(scope: Scope) -> Scope:
    """`scope` itself, when it says what it seems to say."""
    if scope.bucket != EVERY_BUCKET:
        check_bucket_name(scope.bucket)
    if scope.prefix:
        check_key(scope.prefix)
    if (
        scope.effect == "allow"
        and Action.CLUSTER_ADMIN in scope.actions
        and (scope.bucket != EVERY_BUCKET or scope.prefix)
    ):
        raise ValueError("cluster-admin is allowed with the bucket '*' and without a prefix")
    if scope.effect == "allow" and Action.BUCKET_ADMIN in scope.actions and scope.prefix:
        raise ValueError("bucket-admin is allowed without a prefix")
    return scope


Scopes = Annotated[
    list[Annotated[Scope, AfterValidator(_meaningful)]],
    Field(
        max_length=SCOPES_MAX,
        description="What may be done, and with `deny` what may not, whatever else allows it. Nothing is allowed by default.",
    ),
]


class IdentityRequest(WireModel):
    """A person or program. It has no key yet."""

    model_config = example(name="camera", scopes=[_SCOPE], limits=_LIMITS)

    name: IdentityName
    is_root: bool = Field(default=False, description="May do everything, whatever its scopes say.")
    scopes: Scopes = Field(default_factory=list)
    limits: IdentityLimits = IdentityLimits()


class IdentityChange(WireModel):
    """What is named is replaced."""

    model_config = example(state="disabled")

    name: IdentityName | None = None
    state: State | None = Field(default=None, description="The keys of a disabled identity open nothing.")
    scopes: Scopes | None = None
    limits: IdentityLimits | None = None

    @model_validator(mode="after")
    def _check_change(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed")
        return self


class IdentityInfo(WireModel):
    """An identity, without its keys."""

    model_config = example(**_IDENTITY)

    id: str
    name: str
    is_root: bool
    state: State
    scopes: list[Scope]
    limits: IdentityLimits
    created: str

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """As the log knows it."""
        return cls(**_identity_fields(identity))


class KeyInfo(WireModel):
    """An access key, without its secret."""

    model_config = example(**_KEY)

    id: str
    identity: str
    state: State
    created: str
    expires: str | None
    last_used_hour: str | None = Field(description="The hour in which it was last used, as far as that is recorded.")
    sealing_key: str = Field(description="Id of the sealing key under which its secret stands in the log.")

    @classmethod
    def of(cls, key: AccessKey) -> Self:
        """As the log knows it."""
        return cls(**_key_fields(key))


class IdentityDetails(IdentityInfo):
    """An identity and its keys."""

    model_config = example(**_IDENTITY, keys=[_KEY], usage={"size_bytes": 1_048_576, "files": 3})

    keys: list[KeyInfo]
    usage: UsageInfo | None = Field(
        description="Of what it wrote, for its quotas, when it is described; null in the answer to a change."
    )

    @classmethod
    def with_keys(cls, found: IdentityWithKeys, usage: UsageOf | None = None) -> Self:
        """As the log knows it."""
        return cls(
            **_identity_fields(found.identity),
            keys=[KeyInfo.of(key) for key in found.keys],
            usage=None if usage is None else UsageInfo.of(usage),
        )


class IdentityList(WireModel):
    """One page of identities, by id."""

    model_config = example(identities=[_IDENTITY], cursor=None)

    identities: list[IdentityInfo]
    cursor: str | None = Field(description="For the next page; null on the last one.")

    @classmethod
    def of(cls, page: IdentityListPage) -> Self:
        """As the log knows them."""
        return cls(identities=[IdentityInfo.of(identity) for identity in page.identities], cursor=page.cursor)


class KeyList(WireModel):
    """The keys of one identity, by id."""

    model_config = example(keys=[_KEY])

    keys: list[KeyInfo]


def _storable(moment: datetime) -> datetime:
    if not 0 <= unix_ns(moment) < 2**63:
        raise ValueError("a key ends between the years 1970 and 2262, or never")
    return moment


Expiry = Annotated[AwareDatetime, AfterValidator(_storable)]
"""A moment that nanoseconds of 63 bits can say."""


class KeyRequest(WireModel):
    """A new key. With `id` and `secret`: one that another store gave out, so that clients can keep theirs."""

    model_config = example(expires="2027-01-01T00:00:00Z")

    expires: Expiry | None = Field(default=None, description="When it ends to open anything; null for never.")
    id: KeyId | None = None
    secret: SecretStr | None = Field(default=None, description="32-128 visible ASCII characters.")

    @model_validator(mode="after")
    def _check_import(self) -> Self:
        if (self.id is None) != (self.secret is None):
            raise ValueError("id and secret are given together, or neither of them")
        return self

    @property
    def imported(self) -> tuple[str, str] | None:
        """Id and secret of a key that exists elsewhere."""
        return None if self.id is None or self.secret is None else (self.id, self.secret.get_secret_value())


class KeyCreated(KeyInfo):
    """A key and its secret. No other answer ever shows the secret: keep it."""

    model_config = example(**(_KEY | {"last_used_hour": None, "secret": "shown once, and never again"}))

    secret: str

    @classmethod
    def with_secret(cls, created: CreatedKey) -> Self:
        """The one answer that shows it."""
        return cls(**_key_fields(created.key), secret=created.secret)


class KeyChange(WireModel):
    """What is named is replaced."""

    model_config = example(state="disabled")

    state: State | None = None
    expires: Expiry | None = Field(default=None, description="Null for never.")

    @model_validator(mode="after")
    def _check_change(self) -> Self:
        if self.state is None and self.expires_ns is None:
            raise ValueError("nothing is to be changed")
        return self

    @property
    def expires_ns(self) -> int | Never | None:
        """None where it stays as it is."""
        if "expires" not in self.model_fields_set:
            return None
        return "never" if self.expires is None else unix_ns(self.expires)


class CallerInfo(WireModel):
    """Who this request was made by, and what that may do."""

    model_config = example(id=_ID, name="camera", is_root=False, key=_KEY_ID, scopes=[_SCOPE], limits=_LIMITS)

    id: str = Field(description="Of the identity, or `anonymous`.")
    name: str
    is_root: bool
    key: str | None = Field(description="By which it proved itself.")
    scopes: list[Scope]
    limits: IdentityLimits

    @classmethod
    def of(cls, principal: Principal) -> Self:
        """As this gateway knows it."""
        return cls(
            id=principal.id,
            name=principal.name,
            is_root=principal.is_root,
            key=principal.key,
            scopes=list(principal.scopes),
            limits=principal.limits,
        )


class LinkRequest(WireModel):
    """One request that whoever has the link may make."""

    model_config = example(method="GET", bucket="default", key="hello.txt", expires_in_s=3600)

    method: LinkMethod = Field(default="GET", description="GET is good for HEAD, too.")
    bucket: Annotated[str, AfterValidator(check_bucket_name)]
    key: Annotated[str, AfterValidator(check_key), Field(description="1-1024 bytes of UTF-8.")]
    expires_in_s: int = Field(default=3600, ge=1, le=LIFETIME_MAX_S, strict=True)
    version: int | None = Field(default=None, ge=1, lt=2**63, strict=True)
    headers: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")],
        Annotated[str, Field(pattern=r"^[\x20-\x7e]*$", max_length=2048)],
    ] = Field(
        default_factory=dict,
        max_length=HEADERS_MAX,
        description="The request must carry them, with these values. Content-Type and X-Trivet-* may be sent in no other way.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if len({name.lower() for name in self.headers}) < len(self.headers):
            raise ValueError("a header is given twice")
        return self


class LinkMade(WireModel):
    """A link. Whoever has it may make that request until it expires, or until the key that made it is disabled."""

    model_config = example(
        path="/v1/files/default/hello.txt?link-key=" + _KEY_ID + "&link-expires=1795628112&link-signature=" + "0" * 64,
        expires="2026-11-25T17:35:12.000000Z",
    )

    path: str = Field(description="Put the address of a gateway before it.")
    expires: str


def unix_ns(moment: datetime) -> int:
    """Nanoseconds since the Unix epoch, exact to the microsecond."""
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NANOSECONDS_PER_SECOND + since.microseconds * 1000


def _identity_fields(identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.id,
        "name": identity.name,
        "is_root": identity.is_root,
        "state": identity.state,
        "scopes": identity.scopes,
        "limits": identity.limits,
        "created": rfc3339(identity.created_ns),
    }


def _key_fields(key: AccessKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "identity": key.identity,
        "state": key.state,
        "created": rfc3339(key.created_ns),
        "expires": None if key.expires_ns is None else rfc3339(key.expires_ns),
        "last_used_hour": None if key.last_used_hour is None else rfc3339(key.last_used_hour * _HOUR_NS),
        "sealing_key": key.secret.sealing_key,
    }
