"""Who may do what: one pure decision over principal, action, bucket, key and version, for every door and every command.

Default deny, and a denial wins over what allows. A scope covers the keys below its prefix, which ends with `/`: `photos/`
covers `photos/` and `photos/cat.jpg`, and neither `photos` nor `photos-of-others/cat.jpg`. `*` stands for every bucket, and is
never part of a pattern. Root may do everything, whatever its scopes say.

`bucket-admin` is about a whole bucket and `cluster-admin` about all of them: a scope with a prefix (for the latter, or of one
bucket) allows neither, and one that denies does so whatever it names.

Lists: see `listed`. What a bucket's own documents say (bucket policies, ACLs, the public block) comes in by `ResourceRules`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from shared.contracts.access import Action, Scope
from shared.errors import AccessDeniedError

EVERY_BUCKET: Final = "*"


class RuleVerdict(Enum):
    """What the rules of a resource say of one request."""

    ALLOW = "allow"
    DENY = "deny"
    SILENT = "silent"


class ResourceRules(Protocol):
    """What a bucket or a file says itself, beside the scopes of who asks. Pure: made of what the same read brought."""

    def verdict(self, principal: Subject, action: Action, bucket: str, key: str, version: int | None) -> RuleVerdict:
        """Of a list, `key` is its prefix. ALLOW adds to the scopes, and DENY wins over them.

        DENY holds for root, too, but for BUCKET_ADMIN, or a bucket could be locked for ever.
        """


class NoRules:
    """Nothing beside the scopes."""

    def verdict(self, principal: Subject, action: Action, bucket: str, key: str, version: int | None) -> RuleVerdict:  # noqa: ARG002 the port's
        """As `ResourceRules.verdict`."""
        return RuleVerdict.SILENT


NO_RULES: Final = NoRules()


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What begins with one of `allow` and with none of `deny`."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        """Whether `name` is among them."""
        return name.startswith(self.allow) and not name.startswith(self.deny)

    def coverage(self, prefix: str) -> Coverage:
        """How many of the names that begin with `prefix` are among them, `prefix` itself included."""
        if prefix.startswith(self.deny):
            return Coverage.NONE
        if prefix.startswith(self.allow):
            is_whole = not any(denied.startswith(prefix) for denied in self.deny)
            return Coverage.ALL if is_whole else Coverage.SOME
        below = (allowed for allowed in self.allow if allowed.startswith(prefix))
        return Coverage.SOME if any(not allowed.startswith(self.deny) for allowed in below) else Coverage.NONE


class Coverage(Enum):
    """How many of the names below a prefix a principal may see, were they all there."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


EVERYTHING: Final = Prefixes(allow=("",))
NOTHING: Final = Prefixes()


class ScopeTable:
    """The scopes of one identity, ready to be asked: a decision looks only at those of its action and bucket."""

    __slots__ = ("_of_every_bucket", "_of_named_bucket")

    def __init__(self, scopes: Iterable[Scope]) -> None:
        allowed: dict[tuple[Action, str], list[str]] = defaultdict(list)
        denied: dict[tuple[Action, str], list[str]] = defaultdict(list)
        for scope in scopes:
            for action in scope.actions:
                if scope.effect == "deny":
                    bucket = EVERY_BUCKET if action is Action.CLUSTER_ADMIN else scope.bucket
                    denied[action, bucket].append("" if action in _OF_WHOLE_BUCKETS else scope.prefix)
                elif _may_allow(action, scope):
                    allowed[action, scope.bucket].append(scope.prefix)
        self._of_every_bucket = {
            action: Prefixes(tuple(allowed[action, EVERY_BUCKET]), tuple(denied[action, EVERY_BUCKET]))
            for action in Action
        }
        self._of_named_bucket: dict[tuple[Action, str], Prefixes] = {}
        for action, bucket in allowed.keys() | denied.keys():
            every = self._of_every_bucket[action]
            self._of_named_bucket[action, bucket] = Prefixes(
                (*every.allow, *allowed.get((action, bucket), ())), (*every.deny, *denied.get((action, bucket), ()))
            )

    def prefixes(self, action: Action, bucket: str) -> Prefixes:
        """Keys of `bucket` with which `action` may be done; of the cluster as a whole, `bucket` is `EVERY_BUCKET`."""
        return self._of_named_bucket.get((action, bucket)) or self._of_every_bucket[action]


class Subject(Protocol):
    """Of a principal, what decides."""

    @property
    def id(self) -> str:
        """Of the identity; or `anonymous`, `system`."""

    @property
    def is_root(self) -> bool:
        """May do everything."""

    @property
    def table(self) -> ScopeTable:
        """Its scopes."""


_OF_WHOLE_BUCKETS: Final = frozenset({Action.BUCKET_ADMIN, Action.CLUSTER_ADMIN})


def decide(
    principal: Subject,
    action: Action,
    bucket: str,
    key: str = "",
    *,
    version: int | None = None,
    rules: ResourceRules = NO_RULES,
) -> None:
    """Return when the principal may do `action`; what is touched is named as it will be used, decoded and canonical.

    Raises:
        AccessDeniedError: it may not; definite.
    """
    if not is_allowed(principal, action, bucket, key, version=version, rules=rules):
        raise refusal(action, bucket)


def is_allowed(
    principal: Subject,
    action: Action,
    bucket: str,
    key: str = "",
    *,
    version: int | None = None,
    rules: ResourceRules = NO_RULES,
) -> bool:
    """Whether the principal may do `action`; `bucket` and `key` are empty for CLUSTER_ADMIN, `key` for BUCKET_ADMIN."""
    if action is Action.CLUSTER_ADMIN:
        return principal.is_root or principal.table.prefixes(action, EVERY_BUCKET).covers("")
    if bucket in _NO_BUCKETS:
        return False
    verdict = rules.verdict(principal, action, bucket, key, version)
    if verdict is RuleVerdict.DENY:
        return principal.is_root and action is Action.BUCKET_ADMIN
    if principal.is_root:
        return True
    prefixes = principal.table.prefixes(action, bucket)
    if verdict is RuleVerdict.ALLOW:
        return not key.startswith(prefixes.deny)
    return prefixes.covers(key)


def listed(principal: Subject, bucket: str, prefix: str, *, rules: ResourceRules = NO_RULES) -> Prefixes:
    """The names that a list of what begins with `prefix` may show: those that the principal may list one by one.

    So a list is allowed when its prefix lies within an allowed scope, and then shows all but what is denied; or when it lies
    above one, and then shows what is in that scope alone, as if nothing else were there. A common prefix is shown where a
    name that is there, and that the list may show, begins with it.

    Raises:
        AccessDeniedError: no name that begins with `prefix` may be shown; definite.
    """
    names = _names(principal, Action.LIST, bucket, prefix, rules)
    if names.coverage(prefix) is Coverage.NONE:
        raise refusal(Action.LIST, bucket)
    return names


def may_with_all(
    principal: Subject, action: Action, bucket: str, prefix: str, *, rules: ResourceRules = NO_RULES
) -> bool:
    """Whether the principal may do `action` with every key that begins with `prefix`."""
    return _names(principal, action, bucket, prefix, rules).coverage(prefix) is Coverage.ALL


def _names(principal: Subject, action: Action, bucket: str, prefix: str, rules: ResourceRules) -> Prefixes:
    if bucket in _NO_BUCKETS:
        return NOTHING
    verdict = rules.verdict(principal, action, bucket, prefix, None)
    if verdict is RuleVerdict.DENY:
        return NOTHING
    if principal.is_root:
        return EVERYTHING
    names = principal.table.prefixes(action, bucket)
    return Prefixes((prefix,), names.deny) if verdict is RuleVerdict.ALLOW else names


def sees_bucket(principal: Subject, bucket: str, *, rules: ResourceRules = NO_RULES) -> bool:
    """Whether the list of buckets shows `bucket`: the principal may do something in it."""
    return any(
        may_somewhere(principal, action, bucket, rules=rules) for action in Action if action is not Action.CLUSTER_ADMIN
    )


def may_somewhere(principal: Subject, action: Action, bucket: str, *, rules: ResourceRules = NO_RULES) -> bool:
    """Whether there is a key in `bucket` with which the principal may do `action`, as long as its name is not known."""
    if is_allowed(principal, action, bucket, rules=rules):
        return True
    return principal.table.prefixes(action, bucket).coverage("") is not Coverage.NONE


def refusal(action: Action, bucket: str = "") -> AccessDeniedError:
    """The refusal. It names no key: a message must not tell one that somebody else's request brought along."""
    facts: dict[str, Any] = {"bucket": bucket} if bucket else {}
    return AccessDeniedError("The principal of this request may not do this.", action=action.value, **facts)


def _may_allow(action: Action, scope: Scope) -> bool:
    if action is Action.CLUSTER_ADMIN:
        return scope.bucket == EVERY_BUCKET and not scope.prefix
    return action is not Action.BUCKET_ADMIN or not scope.prefix


_NO_BUCKETS: Final = frozenset({"", EVERY_BUCKET})
"""Never the name of one: a decision about them would pass over what is denied for one bucket."""
