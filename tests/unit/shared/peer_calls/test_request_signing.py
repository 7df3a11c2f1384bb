"""`shared.peer_calls.request_signing`: a request is accepted once, by the one it was signed for, as it was signed."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cluster_keys import PAIRS, KeyRing, PeerKeys, SigningKey, derive_peer_keys, seals_of_0_2_0
from shared.errors import ForbiddenError, SignatureRejectedError
from shared.peer_address import PeerAddress
from shared.peer_calls.request_signing import (
    _MAX_SENDERS,
    _WINDOW,
    EMPTY_BODY_DIGEST,
    RequestSigner,
    RequestVerifier,
    parse_challenge,
)
from shared.roles import Role

OLD, NEW, FOREIGN = ("old-secret-" + "o" * 32, "new-secret-" + "n" * 32, "foreign-secret-" + "f" * 32)
TARGET = "/v1/chunks/abc?x=%2F"


def pair(
    signing: str = OLD, verifying: str = OLD, destination: str = "storage-2"
) -> tuple[RequestSigner, RequestVerifier]:
    """A signer that knows the verifier's boot id."""
    verifier = RequestVerifier(derive_peer_keys(verifying, Role.STORAGE), "storage-2")
    signer = RequestSigner(derive_peer_keys(signing, Role.GATEWAY))
    signer.learn(destination, verifier.boot_id)
    return signer, verifier


def signed(
    signer: RequestSigner, method: str, target: str, destination: str, digest: str, receiver: Role = Role.STORAGE
) -> str:
    """The Authorization header of a request."""
    return signer.sign(method, target, PeerAddress(destination, "", receiver), digest).authorization


def test_a_signed_request_is_accepted_once_and_its_replay_is_refused() -> None:
    """The same header a second time is a replay."""
    signer, verifier = pair()
    header = signed(signer, "PUT", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    verifier.verify("PUT", TARGET, header, EMPTY_BODY_DIGEST)
    with pytest.raises(SignatureRejectedError):
        verifier.verify("PUT", TARGET, header, EMPTY_BODY_DIGEST)


@pytest.mark.parametrize(
    ("method", "target", "digest"),
    [
        ("DELETE", TARGET, EMPTY_BODY_DIGEST),
        ("PUT", TARGET.replace("%2F", "/"), EMPTY_BODY_DIGEST),
        ("PUT", TARGET, "0" * 64),
    ],
)
def test_what_was_signed_cannot_be_changed(method: str, target: str, digest: str) -> None:
    """Method, raw target and body digest are all covered by the signature."""
    signer, verifier = pair()
    header = signed(signer, "PUT", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    with pytest.raises(SignatureRejectedError):
        verifier.verify(method, target, header, digest)
    verifier.verify("PUT", TARGET, header, EMPTY_BODY_DIGEST)  # a forgery does not use up the nonce


_PLACES = {"first": 0, "middle": 31, "last": 63}
_NEARLY_RIGHT = {
    "empty": lambda mac: "",
    **{f"the first {length} digits": lambda mac, n=length: mac[:n] for length in (1, 8, 63)},
    **{f"the {place} digit changed": lambda mac, at=at: changed_at(mac, at) for place, at in _PLACES.items()},
    "one digit appended": lambda mac: mac + "0",
    "all but the first digit": lambda mac: mac[1:],
    "in capitals": lambda mac: mac.upper(),
}


def changed_at(mac: str, at: int) -> str:
    """The MAC with one other digit."""
    return mac[:at] + ("1" if mac[at] == "0" else "0") + mac[at + 1 :]


def split_mac(header: str) -> tuple[str, str]:
    """What stands before the MAC, and the MAC."""
    start, _, mac = header.rpartition(",mac=")
    assert len(mac) == 64
    return start, mac


@pytest.mark.parametrize("forge", _NEARLY_RIGHT.values(), ids=_NEARLY_RIGHT.keys())
def test_a_mac_that_is_nearly_right_is_refused(forge) -> None:
    """On an otherwise right header; the right one is accepted afterwards, so nothing else was the reason."""
    signer, verifier = pair()
    start, mac = split_mac(header_with_a_letter_in_its_mac(signer))
    with pytest.raises(SignatureRejectedError):
        verifier.verify("PUT", TARGET, f"{start},mac={forge(mac)}", EMPTY_BODY_DIGEST)
    verifier.verify("PUT", TARGET, f"{start},mac={mac}", EMPTY_BODY_DIGEST)


def test_a_header_without_a_mac_is_refused() -> None:
    """Absent is not right."""
    signer, verifier = pair()
    start, mac = split_mac(header_with_a_letter_in_its_mac(signer))
    with pytest.raises(SignatureRejectedError):
        verifier.verify("PUT", TARGET, start, EMPTY_BODY_DIGEST)
    verifier.verify("PUT", TARGET, f"{start},mac={mac}", EMPTY_BODY_DIGEST)


def header_with_a_letter_in_its_mac(signer: RequestSigner) -> str:
    """A signed header whose MAC has a letter in it, so that capitals differ; nearly every one has."""
    while True:
        header = signed(signer, "PUT", TARGET, "storage-2", EMPTY_BODY_DIGEST)
        if not split_mac(header)[1].isdecimal():
            return header


CALLS = [
    (sender, receiver) for sender, receiver in PAIRS if sender is not Role.OPERATOR or receiver is not Role.OPERATOR
]


@given(st.sampled_from(CALLS), st.sampled_from(Role))
def test_a_request_signed_for_one_pair_is_refused_by_every_other_role(pair: tuple[Role, Role], other: Role) -> None:
    """The receiver takes it, and knows by the key who sent it."""
    sender, receiver = pair
    signer = RequestSigner(derive_peer_keys(OLD, sender))
    verifier = RequestVerifier(derive_peer_keys(OLD, other), "node-1")
    signer.learn("node-1", verifier.boot_id)
    header = signer.sign("GET", TARGET, PeerAddress("node-1", "", receiver), EMPTY_BODY_DIGEST).authorization
    if other is receiver:
        assert verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST).caller is sender
    else:
        with pytest.raises(SignatureRejectedError):
            verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)


@pytest.mark.parametrize("thief", Role)
def test_what_a_role_has_proves_that_role_and_no_other(thief: Role) -> None:
    """With every key of its file, presented as any sender's: the receiver takes it for what it is, or refuses it."""
    stolen = {key for ring in derive_peer_keys(OLD, thief).pairs.values() for key in ring.keys}
    for receiver in set(Role) - {thief}:
        verifier = RequestVerifier(derive_peer_keys(OLD, receiver), "node-1")
        proved = set()
        for key in stolen:
            forger = RequestSigner(PeerKeys(Role.GATEWAY, {(Role.GATEWAY, receiver): KeyRing((key,))}))
            forger.learn("node-1", verifier.boot_id)
            header = signed(forger, "POST", "/v1/proposals", "node-1", "d", receiver)
            with suppress(SignatureRejectedError):
                proved.add(verifier.verify("POST", "/v1/proposals", header, "d").caller)
        assert proved == ({thief} if (thief, receiver) in PAIRS else set()), receiver


def test_a_storage_node_cannot_sign_a_proposal_of_a_gateway() -> None:
    """Not even with the key that gateways prove themselves to it by."""
    stolen = derive_peer_keys(OLD, Role.STORAGE).pairs[Role.GATEWAY, Role.STORAGE]
    forger = RequestSigner(PeerKeys(Role.GATEWAY, {(Role.GATEWAY, Role.CONSENSUS): stolen}))
    verifier = RequestVerifier(derive_peer_keys(OLD, Role.CONSENSUS), "consensus-1")
    forger.learn("consensus-1", verifier.boot_id)
    header = signed(forger, "POST", "/v1/proposals", "consensus-1", "d", Role.CONSENSUS)
    with pytest.raises(SignatureRejectedError, match="a key that this service does not have"):
        verifier.verify("POST", "/v1/proposals", header, "d")


def test_a_process_signs_nothing_for_a_role_that_it_never_calls() -> None:
    """There is no key; a clock calls nobody."""
    signer = RequestSigner(derive_peer_keys(OLD, Role.CLOCK))
    with pytest.raises(ForbiddenError, match="A clock has no key for calls to a consensus"):
        signed(signer, "POST", "/v1/proposals", "consensus-1", "d", Role.CONSENSUS)


def test_the_cluster_secret_itself_proves_nobody() -> None:
    """Version 0.2.0 signs with it: a version that is skipped is refused, with a sentence that names it."""
    verifier = RequestVerifier(derive_peer_keys(OLD, Role.STORAGE), "storage-2")
    old = RequestSigner(PeerKeys(Role.GATEWAY, {(Role.GATEWAY, Role.STORAGE): seals_of_0_2_0(OLD)}))
    old.learn("storage-2", verifier.boot_id)
    with pytest.raises(SignatureRejectedError, match=re.escape("0.2.0")):
        verifier.verify("GET", TARGET, signed(old, "GET", TARGET, "storage-2", ""), "")


def test_a_challenge_tells_0_3_0_that_pairs_are_known() -> None:
    """Without that it signs with the cluster secret where it still has one, from its own upgrade."""
    assert 'keys="pairs"' in RequestVerifier(derive_peer_keys(OLD, Role.STORAGE), "storage-2").challenge()


def test_a_request_for_another_destination_is_refused() -> None:
    """What was signed for storage-1 is worth nothing at storage-2."""
    signer, verifier = pair(destination="storage-1")
    header = signed(signer, "GET", TARGET, "storage-1", EMPTY_BODY_DIGEST)
    with pytest.raises(SignatureRejectedError):
        verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)


def test_a_request_from_before_a_restart_is_refused_and_the_challenge_says_how_to_sign_anew() -> None:
    """A recorded request is worthless after a restart; the 401 names the new boot."""
    signer, before = pair()
    header = signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    after = RequestVerifier(derive_peer_keys(OLD, Role.STORAGE), "storage-2")
    assert before.boot_id != after.boot_id
    with pytest.raises(SignatureRejectedError):
        after.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)
    challenge = parse_challenge(after.challenge())
    assert challenge == after.boot_id
    signer.learn("storage-2", challenge)
    after.verify("GET", TARGET, signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST), EMPTY_BODY_DIGEST)


@pytest.mark.parametrize(
    ("signing", "verifying", "is_accepted"),
    [
        (OLD, f"{OLD}\n{NEW}", True),
        (f"{NEW}\n{OLD}", f"{OLD}\n{NEW}", True),
        (f"{NEW}\n{OLD}", NEW, True),
        (OLD, NEW, False),
        (FOREIGN, f"{OLD}\n{NEW}", False),
    ],
)
def test_two_keys_let_the_secret_be_rotated(signing: str, verifying: str, is_accepted: bool) -> None:
    """Every step of old -> old+new -> new+old -> new is accepted; a foreign secret never is."""
    signer, verifier = pair(signing, verifying)
    header = signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    if is_accepted:
        verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)
    else:
        with pytest.raises(SignatureRejectedError):
            verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)


@given(st.permutations(range(12)))
def test_requests_may_overtake_each_other(order: list[int]) -> None:
    """Parallel connections deliver out of order; each arrival is accepted once, whatever the order."""
    signer, verifier = pair()
    headers = [signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST) for _ in order]
    for index in order:
        verifier.verify("GET", TARGET, headers[index], EMPTY_BODY_DIGEST)
    for header in headers:
        with pytest.raises(SignatureRejectedError):
            verifier.verify("GET", TARGET, header, EMPTY_BODY_DIGEST)


@pytest.mark.parametrize(("overtaken_by", "is_accepted"), [(_WINDOW - 1, True), (_WINDOW, False)])
def test_the_replay_window_has_an_exact_edge(overtaken_by: int, is_accepted: bool) -> None:
    """A request overtaken by as many others as the window holds is refused, one fewer is not."""
    signer, verifier = pair()
    late = signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    for _ in range(overtaken_by - 1):
        signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)  # signed, lost on the way
    newest = signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    verifier.verify("GET", TARGET, newest, EMPTY_BODY_DIGEST)
    if is_accepted:
        verifier.verify("GET", TARGET, late, EMPTY_BODY_DIGEST)
    else:
        with pytest.raises(SignatureRejectedError):
            verifier.verify("GET", TARGET, late, EMPTY_BODY_DIGEST)


def test_more_senders_than_are_remembered_change_the_boot_instead_of_letting_replays_in() -> None:
    """Memory is bounded, and forgetting a sender never makes its old requests good again."""
    signer, verifier = pair()
    recorded = signed(signer, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST)
    verifier.verify("GET", TARGET, recorded, EMPTY_BODY_DIGEST)
    boot = verifier.boot_id
    for _ in range(_MAX_SENDERS - 1):
        other = RequestSigner(derive_peer_keys(OLD, Role.GATEWAY))
        other.learn("storage-2", boot)
        verifier.verify("GET", TARGET, signed(other, "GET", TARGET, "storage-2", ""), "")
    one_too_many = RequestSigner(derive_peer_keys(OLD, Role.GATEWAY))
    one_too_many.learn("storage-2", boot)
    with pytest.raises(SignatureRejectedError):
        verifier.verify("GET", TARGET, signed(one_too_many, "GET", TARGET, "storage-2", ""), "")
    assert verifier.boot_id != boot
    with pytest.raises(SignatureRejectedError):
        verifier.verify("GET", TARGET, recorded, EMPTY_BODY_DIGEST)


def test_a_sender_cannot_use_up_the_counters_of_one_with_another_key() -> None:
    """A storage node sees what a gateway calls itself, and may call other storage nodes."""
    gateway, verifier = pair()
    gateway.learn("storage-1", "0" * 16)
    seen = signed(gateway, "GET", TARGET, "storage-1", EMPTY_BODY_DIGEST)
    node = RequestSigner(derive_peer_keys(OLD, Role.STORAGE))
    node.learn("storage-2", verifier.boot_id)
    node._instance = seen.partition("nonce=")[2].partition(".")[0]
    node._counter = itertools.count(10**19)
    verifier.verify("GET", TARGET, signed(node, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST), EMPTY_BODY_DIGEST)
    verifier.verify("GET", TARGET, signed(gateway, "GET", TARGET, "storage-2", EMPTY_BODY_DIGEST), EMPTY_BODY_DIGEST)


@given(st.one_of(st.none(), st.text(max_size=600), st.text(max_size=100).map(lambda text: f"Trivet-HMAC {text}")))
def test_no_header_is_accepted_by_chance_and_none_breaks_the_verifier(header: str | None) -> None:
    """Whatever stands in Authorization, the answer is a refusal and never another error."""
    with pytest.raises(SignatureRejectedError):
        RequestVerifier(derive_peer_keys(OLD, Role.STORAGE), "storage-2").verify(
            "GET", TARGET, header, EMPTY_BODY_DIGEST
        )


def test_a_signature_that_is_not_ascii_is_refused_and_not_an_error() -> None:
    """Headers are bytes from anybody; knowing a key's public id must not be enough to cause a 500."""
    signer, verifier = pair()
    header = signed(signer, "GET", TARGET, "storage-2", "")
    with pytest.raises(SignatureRejectedError):
        verifier.verify("GET", TARGET, header.replace("mac=", "mac=é"), "")


@pytest.mark.parametrize(("length", "is_accepted"), [(512, True), (513, False)])
def test_a_long_header_is_not_taken_apart(length: int, *, is_accepted: bool) -> None:
    """Whoever is not authenticated yet costs little; fields that mean nothing are ignored up to the edge."""
    signer, verifier = pair()
    scheme, _, rest = signed(signer, "GET", TARGET, "storage-2", "").partition(" ")
    header = f"{scheme} {rest},x=".ljust(len(scheme) + 1 + length, "a")
    if is_accepted:
        verifier.verify("GET", TARGET, header, "")
    else:
        with pytest.raises(SignatureRejectedError):
            verifier.verify("GET", TARGET, header, "")


@pytest.mark.parametrize("nonce_counter", ["", "-1", "1.5", "x", "9" * 21])
def test_a_nonce_that_is_no_small_number_is_refused(nonce_counter: str) -> None:
    """Even when it is signed with the right key: a broken sender must not become an exception of ours."""
    signer, verifier = pair()
    signer._counter = iter([nonce_counter])  # type: ignore[assignment]
    header = signed(signer, "GET", TARGET, "storage-2", "")
    with pytest.raises(SignatureRejectedError):
        verifier.verify("GET", TARGET, header, "")


@pytest.mark.parametrize("text", ["", "short", "x" * 31, f"{OLD}\n{NEW}\n{FOREIGN}", f"{OLD}\nshort"])
def test_a_weak_or_missing_secret_is_refused(text: str) -> None:
    """There is no default secret, and no line of it may be short."""
    with pytest.raises(ValueError, match="cluster secret"):
        derive_peer_keys(text, Role.CLOCK)


def test_a_secret_of_the_shortest_permitted_length_is_taken() -> None:
    """The other side of the edge."""
    assert derive_peer_keys("x" * 32, Role.CLOCK).role is Role.CLOCK


def test_a_key_does_not_print_its_secret() -> None:
    """Logs and tracebacks show the key's id only."""
    key = SigningKey.of(OLD.encode(), Role.GATEWAY)
    assert OLD not in repr(key)
    assert key.id in repr(key)
    assert OLD not in repr(KeyRing((key,)))


def test_a_secret_that_the_receiver_does_not_have_is_told_from_no_secret() -> None:
    """In a rotation in the wrong order the sentence names the order; a stranger without a signature learns nothing of it."""
    receiver = RequestVerifier(derive_peer_keys("old " * 10, Role.STORAGE), "storage-1")
    sender = RequestSigner(derive_peer_keys("new " * 10 + "\n" + "old " * 10, Role.GATEWAY))
    with pytest.raises(
        SignatureRejectedError, match="in a rotation it signs with a new key before every service accepts that"
    ):
        receiver.verify("GET", "/v1/x", signed(sender, "GET", "/v1/x", "storage-1", "d"), "d")
    for nothing in (None, "", "Bearer x", "Trivet-HMAC"):
        with pytest.raises(SignatureRejectedError, match="with a key of this cluster only"):
            receiver.verify("GET", "/v1/x", nothing, "d")
