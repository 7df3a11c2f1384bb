"""Who may do what: default deny, deny wins, and nothing outside a scope, by any way of asking."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from services.gateway.access.policy import (
    Coverage,
    RuleVerdict,
    ScopeTable,
    decide,
    is_allowed,
    listed,
    sees_bucket,
)
from shared.contracts.access import Action, Scope
from shared.errors import AccessDeniedError

ON_FILES = (Action.READ, Action.WRITE, Action.DELETE, Action.LIST)
BUCKETS = ("one", "two", "one-more")
PREFIXES = ("", "a/", "a/b/", "a/b/c/", "ab/", "b/", "a//")
KEYS = (
    "a",
    "a/",
    "a/b",
    "a/b/",
    "a/b/c",
    "a/b/c/d",
    "ab",
    "ab/",
    "ab/c",
    "b",
    "b/a",
    "a//b",
    "/a/b",
    "A/b",
    "a/bc",
    "z",
)


@dataclass(frozen=True)
class Somebody:
    """A principal, as the policy sees one."""

    table: ScopeTable = field(default_factory=lambda: ScopeTable([]))
    is_root: bool = False
    id: str = "5" * 64


def somebody(*scopes: Scope, is_root: bool = False) -> Somebody:
    return Somebody(ScopeTable(scopes), is_root)


def allow(bucket: str, prefix: str = "", *actions: Action) -> Scope:
    return Scope(actions=list(actions or ON_FILES), bucket=bucket, prefix=prefix)


def deny(bucket: str, prefix: str = "", *actions: Action) -> Scope:
    return Scope(effect="deny", actions=list(actions or ON_FILES), bucket=bucket, prefix=prefix)


@dataclass(frozen=True)
class Rules:
    """The rules of a bucket that say one thing of everything."""

    said: RuleVerdict

    def verdict(self, principal, action, bucket, key, version) -> RuleVerdict:
        return self.said


scopes = st.lists(
    st.builds(
        Scope,
        effect=st.sampled_from(["allow", "allow", "deny"]),
        actions=st.lists(st.sampled_from(list(Action)), min_size=1, max_size=3, unique=True),
        bucket=st.sampled_from([*BUCKETS, "*"]),
        prefix=st.sampled_from(PREFIXES),
    ),
    max_size=6,
)
names = st.one_of(st.sampled_from(KEYS), st.text("ab/", max_size=6))


def oracle(given_scopes: list[Scope], action: Action, bucket: str, key: str) -> bool:
    """Scope by scope, segment by segment: no table, no startswith."""

    def matches(scope: Scope) -> bool:
        if action not in scope.actions:
            return False
        if action is Action.CLUSTER_ADMIN:
            return scope.effect == "deny" or (scope.bucket == "*" and scope.prefix == "")
        if scope.bucket not in {"*", bucket}:
            return False
        if action is Action.BUCKET_ADMIN:
            return scope.effect == "deny" or scope.prefix == ""
        folders = scope.prefix.split("/")[:-1]
        segments = key.split("/")
        return segments[: len(folders)] == folders and len(segments) > len(folders)

    found = {scope.effect for scope in given_scopes if matches(scope)}
    return found == {"allow"}


@given(scopes, st.sampled_from(ON_FILES), st.sampled_from([*BUCKETS, "three"]), names)
def test_a_decision_is_that_of_the_scopes_one_by_one(given_scopes, action, bucket, key) -> None:
    """Against an oracle that knows neither tables nor string prefixes."""
    assert is_allowed(somebody(*given_scopes), action, bucket, key) == oracle(given_scopes, action, bucket, key)


@given(scopes, st.sampled_from([*BUCKETS, "three"]))
def test_administration_is_that_of_the_scopes_one_by_one(given_scopes, bucket) -> None:
    """A scope with a prefix allows none of it; a denial counts whatever it names."""
    who = somebody(*given_scopes)
    assert is_allowed(who, Action.BUCKET_ADMIN, bucket) == oracle(given_scopes, Action.BUCKET_ADMIN, bucket, "")
    assert is_allowed(who, Action.CLUSTER_ADMIN, "") == oracle(given_scopes, Action.CLUSTER_ADMIN, "", "")


@given(scopes, st.sampled_from(list(Action)), st.sampled_from(BUCKETS), names)
def test_nothing_outside_every_allowing_scope_is_allowed(given_scopes, action, bucket, key) -> None:
    """Whatever else is there."""
    if is_allowed(somebody(*given_scopes), action, bucket, key):
        assert any(
            scope.effect == "allow"
            and action in scope.actions
            and scope.bucket in {"*", bucket}
            and (key + "/").startswith(scope.prefix)
            for scope in given_scopes
        )


@given(scopes, scopes, st.sampled_from(list(Action)), st.sampled_from(BUCKETS), names)
def test_another_denial_never_allows_more(given_scopes, others, action, bucket, key) -> None:
    """And another scope that allows never allows less."""
    before = is_allowed(somebody(*given_scopes), action, bucket, key)
    denied = [scope.model_copy(update={"effect": "deny"}) for scope in others]
    allowed = [scope.model_copy(update={"effect": "allow"}) for scope in others]
    assert is_allowed(somebody(*given_scopes, *denied), action, bucket, key) <= before
    assert is_allowed(somebody(*given_scopes, *allowed), action, bucket, key) >= before


@given(scopes, st.sampled_from([*BUCKETS, "three"]), names, st.lists(names, max_size=12))
def test_a_list_shows_what_may_be_listed_one_by_one(given_scopes, bucket, prefix, keys) -> None:
    """No name outside, and none inside is kept back; it is refused when no name could be shown."""
    who = somebody(*given_scopes)
    mine = {key for key in keys if key.startswith(prefix) and is_allowed(who, Action.LIST, bucket, key)}
    try:
        view = listed(who, bucket, prefix)
    except AccessDeniedError:
        assert mine == set()
        return
    assert {key for key in keys if key.startswith(prefix) and view.covers(key)} == mine


@given(scopes, st.sampled_from(BUCKETS), names, st.lists(names, max_size=12))
def test_coverage_is_what_the_names_below_a_prefix_say(given_scopes, bucket, prefix, keys) -> None:
    """ALL: each of them is covered; NONE: none is; SOME: such a name exists, if not among these."""
    view = ScopeTable(given_scopes).prefixes(Action.LIST, bucket)
    coverage = view.coverage(prefix)
    note(f"{view} {coverage}")
    below = [prefix + key for key in keys] + [prefix]
    if coverage is Coverage.ALL:
        assert all(view.covers(name) for name in below)
    elif coverage is Coverage.NONE:
        assert not any(view.covers(name) for name in below)
    else:
        candidates = [prefix + "zz", *(scope.prefix + "zz" for scope in given_scopes)]
        assert any(view.covers(name) for name in candidates if name.startswith(prefix))


@given(scopes, st.sampled_from([*BUCKETS, "three"]), names, st.sampled_from(ON_FILES))
def test_a_bucket_is_shown_to_whoever_may_do_something_in_it(given_scopes, bucket, key, action) -> None:
    """And what may be done in a bucket that is not shown is nothing."""
    who = somebody(*given_scopes)
    if is_allowed(who, action, bucket, key):
        assert sees_bucket(who, bucket)


@pytest.mark.parametrize(
    ("prefix", "key", "is_inside"),
    [
        ("photos/", "photos/", True),
        ("photos/", "photos/cat.jpg", True),
        ("photos/", "photos", False),
        ("photos/", "photos-of-others/cat.jpg", False),
        ("photos/", "/photos/cat.jpg", False),
        ("photos/", "Photos/cat.jpg", False),
        ("photos/", "photos//cat.jpg", True),
        ("photos/", "photos%2Fcat.jpg", False),
        ("photos/*/", "photos/a/cat.jpg", False),
        ("", "photos", True),
    ],
)
def test_a_prefix_ends_at_a_slash(prefix, key, is_inside) -> None:
    """Keys are opaque: no case folding, no second decoding, no pattern."""
    assert is_allowed(somebody(allow("one", prefix)), Action.READ, "one", key) is is_inside


def test_nobody_may_do_anything_by_default() -> None:
    """Without a scope."""
    for action in Action:
        with pytest.raises(AccessDeniedError):
            decide(somebody(), action, "one", "a")


def test_a_refusal_names_action_and_bucket_and_no_key() -> None:
    """The key of a request may be somebody's secret."""
    with pytest.raises(AccessDeniedError) as caught:
        decide(somebody(), Action.READ, "one", "secret-name")
    assert caught.value.facts == {"action": "read", "bucket": "one"}
    assert "secret-name" not in str(caught.value.to_problem())


@pytest.mark.parametrize("action", list(Action))
def test_an_action_is_not_another_one(action) -> None:
    """Of a scope with one action, no other is allowed."""
    who = somebody(allow("*", "", action))
    assert {each for each in Action if is_allowed(who, each, "one")} == {action}


def test_root_may_do_everything_whatever_its_scopes_say() -> None:
    """A root that is denied everything could never be given it back."""
    who = somebody(deny("*", "", *Action), is_root=True)
    assert all(is_allowed(who, action, "one", "a") for action in Action)
    assert listed(who, "one", "a").covers("z")
    assert sees_bucket(who, "one")


@pytest.mark.parametrize("bucket", ["", "*"])
def test_what_is_no_bucket_is_refused(bucket) -> None:
    """A decision about `*` would pass over what is denied for one bucket."""
    for who in (somebody(allow("*")), somebody(is_root=True)):
        assert not is_allowed(who, Action.READ, bucket, "a")
        with pytest.raises(AccessDeniedError):
            listed(who, bucket, "")


@pytest.mark.parametrize("scope", [allow("one", "", Action.CLUSTER_ADMIN), allow("*", "a/", Action.CLUSTER_ADMIN)])
def test_a_part_of_the_cluster_is_not_administered(scope) -> None:
    """A scope that names a bucket or a prefix was not meant to give away everything."""
    assert not is_allowed(somebody(scope), Action.CLUSTER_ADMIN, "")


def test_a_bucket_may_allow_what_scopes_do_not() -> None:
    """The port for bucket policies; but never against a scope that denies."""
    rules = Rules(RuleVerdict.ALLOW)
    who = somebody(deny("one", "a/"))
    assert is_allowed(who, Action.READ, "one", "b", rules=rules)
    assert not is_allowed(who, Action.READ, "one", "a/b", rules=rules)
    view = listed(who, "one", "", rules=rules)
    assert (view.covers("b"), view.covers("a/b")) == (True, False)
    assert not is_allowed(who, Action.CLUSTER_ADMIN, "", rules=rules)


def test_a_bucket_may_deny_even_root_but_for_its_own_settings() -> None:
    """Or nobody could take the denial back."""
    rules = Rules(RuleVerdict.DENY)
    for who in (somebody(allow("*", "", *Action)), somebody(is_root=True)):
        allowed = {action for action in Action if is_allowed(who, action, "one", rules=rules)}
        assert allowed == ({Action.CLUSTER_ADMIN, Action.BUCKET_ADMIN} if who.is_root else {Action.CLUSTER_ADMIN})
        with pytest.raises(AccessDeniedError):
            listed(who, "one", "", rules=rules)


def test_nobody_lists_where_nothing_may_be_shown() -> None:
    """Below a scope and above it there is something; beside it, and below what is denied, nothing."""
    who = somebody(allow("one", "a/b/"), deny("one", "a/b/c/"))
    for prefix in ("", "a", "a/", "a/b", "a/b/", "a/b/x", "a/b/c"):
        listed(who, "one", prefix)
    for bucket, prefix in (("one", "b"), ("one", "a/c"), ("one", "a/b/c/"), ("one", "a/b/c/d"), ("two", "a/b/")):
        with pytest.raises(AccessDeniedError):
            listed(who, bucket, prefix)


def test_a_denial_wins_over_everything_that_allows() -> None:
    """Below its prefix, whichever of the two names the bucket and whichever every one."""
    for scopes in (
        [allow("one"), deny("one", "a/")],
        [deny("one", "a/"), allow("one"), allow("one", "a/")],
        [allow("one", "a/"), allow("one"), deny("*", "a/")],
        [allow("*"), deny("one", "a/")],
    ):
        who = somebody(*scopes)
        assert is_allowed(who, Action.READ, "one", "b")
        assert not is_allowed(who, Action.READ, "one", "a/b")


def test_a_bucket_is_not_administered_by_a_prefix() -> None:
    """Nor is it shown for that."""
    who = somebody(allow("one", "a/", Action.BUCKET_ADMIN))
    assert not is_allowed(who, Action.BUCKET_ADMIN, "one")
    assert not is_allowed(who, Action.BUCKET_ADMIN, "one", "a/b")
    assert not sees_bucket(who, "one")
