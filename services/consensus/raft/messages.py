"""Every message between members: what it says, as a frozen class, and its bytes.

One place encodes and decodes them, so that a field that travels has a type wherever it is read, and a peer's message that
is not one is one error. A message is a msgpack map whose `type` names its kind, with the names of raftos' vocabulary.

Members of two versions speak to each other during an upgrade: a field that is not known here is ignored, one that is missing
has its default, and a kind that is not known here is no message at all. So a new field needs a default that means what its
absence meant, and is not sent while it has that value.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar, get_args

import msgspec

from services.consensus.raft.ports import Entry, SnapshotFields


class MalformedMessageError(Exception):
    """An authenticated member sent what is no message of its kind; definite."""


class Message(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    """What every message says.

    Attributes:
        term: the sender's; of a pre-vote, the term for which it would campaign.
    """

    term: int

    @property
    def kind(self) -> str:
        """Its name on the wire."""
        return str(self.__struct_config__.tag)


class RequestVote(Message, tag="request_vote", frozen=True):
    """Figure 2, RequestVote.

    Attributes:
        transfer: the leader asked for this election, so nobody insists on that leader.
    """

    candidate_id: str
    last_log_index: int
    last_log_term: int
    transfer: bool = False


class RequestVoteResponse(Message, tag="request_vote_response", frozen=True):
    """A vote, or none; also what a message of an old term is answered with."""

    vote_granted: bool


class RequestPreVote(Message, tag="request_pre_vote", frozen=True):
    """Thesis, 9.6: would you vote for me in `term`?"""

    last_log_index: int
    last_log_term: int


class RequestPreVoteResponse(Message, tag="request_pre_vote_response", frozen=True):
    """Granted: `term` is that of the request. Refused: it is the sender's."""

    vote_granted: bool


class TimeoutNow(Message, tag="timeout_now", frozen=True):
    """Thesis, 3.10: campaign now, the leader hands over."""


class AppendEntries(Message, tag="append_entries", frozen=True):
    """Figure 2, AppendEntries.

    Attributes:
        request_id: of the quorum round that an answer counts for.
        entries: those behind `prev_log_index`, in order; none in a heartbeat.
    """

    leader_id: str
    commit_index: int
    request_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[Entry]


class AppendEntriesResponse(Message, tag="append_entries_response", frozen=True):
    """A follower's answer: it counts for the round, whether the entries fitted or not.

    Attributes:
        success: the logs agree at `prev_log_index`, and up to `last_log_index` they do so durably.
        is_installing: the follower's log is about to be replaced by a snapshot; nothing was taken.
        is_low_on_disk: it should not lead.
        majority_round_trip_ms: how soon a majority answers it; None when it does not know.
        needs_snapshot: it lacks the state up to this index, which its log no longer has; 0 when it lacks none.
        hint: when refused, where its log may agree (`decide.match_append`).
    """

    request_id: int
    prev_log_index: int
    success: bool
    is_low_on_disk: bool
    majority_round_trip_ms: int | None = None
    is_installing: bool = False
    needs_snapshot: int = 0
    hint: int | None = None
    last_log_index: int | None = None


class InstallSnapshot(Message, tag="install_snapshot", frozen=True):
    """Section 7: one piece of a snapshot; without bytes it asks how much the follower has."""

    leader_id: str
    snapshot: SnapshotFields
    offset: int
    data: bytes


class InstallSnapshotResponse(Message, tag="install_snapshot_response", frozen=True):
    """How far a follower is with a snapshot.

    Attributes:
        digest: names the snapshot.
        installed_index: the follower's state is at least there; 0 while it has only `received_bytes` of it.
        needs_snapshot: this one is older than what its log has cut away; it needs one up to this index. 0 otherwise.
        is_refused: it has checked the snapshot and cannot use it.
    """

    digest: bytes
    received_bytes: int
    installed_index: int
    needs_snapshot: int = 0
    is_refused: bool = False


MessageT_co = TypeVar("MessageT_co", bound=Message, covariant=True)


class Received(msgspec.Struct, Generic[MessageT_co], frozen=True, gc=False):
    """A message, and the authenticated member that sent it.

    raftos' dispatch and vote counting read a message as a dict, so its fields can be subscribed as well.
    """

    sender: str
    message: MessageT_co

    def __getitem__(self, field: str) -> object:
        """For raftos."""
        return self.message.kind if field == "type" else getattr(self.message, field)

    def get(self, field: str) -> object:
        """For raftos."""
        return getattr(self.message, field, None)


_AnyMessage = (
    RequestVote
    | RequestVoteResponse
    | RequestPreVote
    | RequestPreVoteResponse
    | TimeoutNow
    | AppendEntries
    | AppendEntriesResponse
    | InstallSnapshot
    | InstallSnapshotResponse
)


class _MessageKind(msgspec.Struct, frozen=True):
    type: str


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_AnyMessage)
_KIND_DECODER: Final = msgspec.msgpack.Decoder(_MessageKind)
KINDS: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(_AnyMessage))


def encode(message: Message) -> bytes:
    """Its bytes."""
    return _ENCODER.encode(message)


def decode(payload: bytes, sender: str) -> Received[Message] | None:
    """The inverse of `encode`; None for a kind that only members of a later version know.

    Raises:
        MalformedMessageError: it is none of any version.
    """
    try:
        return Received(sender, _DECODER.decode(payload))
    except msgspec.MsgspecError as error:
        if _is_of_a_later_version(payload):
            return None
        raise MalformedMessageError(f"{sender} sent what is no message: {error}") from error


def _is_of_a_later_version(payload: bytes) -> bool:
    try:
        return _KIND_DECODER.decode(payload).type not in KINDS
    except msgspec.MsgspecError:
        return False


def vote_request_of_raftos(data: object, *, is_transfer: bool) -> RequestVote:
    """raftos' candidate builds its vote request as a dict."""
    request = msgspec.convert(data, RequestVote)
    return msgspec.structs.replace(request, transfer=True) if is_transfer else request
