"""Messages are the bytes that version 0.2.0 wrote and reads; what another version adds or leaves out disturbs nobody."""

from __future__ import annotations

import msgpack
import pytest

from services.consensus.raft.messages import (
    KINDS,
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    MalformedMessageError,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
    decode,
    encode,
    vote_request_of_raftos,
)
from services.consensus.raft.ports import Entry, EntryKind, SnapshotFields

DIGEST = b"d" * 32

# Captured from version 0.2.0.
GOLDEN: list[tuple[bytes, Message]] = [
    (
        (
            b"\x88\xa4type\xaeappend_entries\xa4term\x03\xa9leader_id\xa2m2\xaccommit_index\x04\xaarequest_id\x01"
            b"\xaeprev_log_index\x02\xadprev_log_term\x02"
            b"\xa7entries\x92\x93\x02\x01\xc4\x08\x93\xa2r1\xa1x\xa11\x93\x03\x00\xc4\x00"
        ),
        AppendEntries(3, "m2", 4, 1, 2, 2, [Entry(2, EntryKind.COMMAND, b"\x93\xa2r1\xa1x\xa11"), Entry(3, 0, b"")]),
    ),
    (
        (
            b"\x88\xa4type\xaeappend_entries\xa4term\x02\xa9leader_id\xa2m1\xaccommit_index\x03\xaarequest_id\t"
            b"\xaeprev_log_index\x03\xadprev_log_term\x02\xa7entries\x90"
        ),
        AppendEntries(2, "m1", 3, 9, 3, 2, []),
    ),
    (
        (
            b"\x88\xa4type\xb7append_entries_response\xa4term\x03\xaarequest_id\xcd\x01,\xaeprev_log_index\xce\x00\x01\x11p"
            b"\xa7success\xc3\xaeis_low_on_disk\xc2\xb6majority_round_trip_ms\x07\xaelast_log_index\x00"
        ),
        AppendEntriesResponse(3, 300, 70_000, True, False, majority_round_trip_ms=7, last_log_index=0),
    ),
    (
        (
            b"\x89\xa4type\xb7append_entries_response\xa4term\x03\xaarequest_id\x01\xaeprev_log_index\x00\xa7success\xc2"
            b"\xaeis_low_on_disk\xc2\xb6majority_round_trip_ms\x07\xaeneeds_snapshot\x05\xa4hint\x00"
        ),
        AppendEntriesResponse(3, 1, 0, False, False, majority_round_trip_ms=7, needs_snapshot=5, hint=0),
    ),
    (
        b"\x86\xa4type\xb0install_snapshot\xa4term\x03\xa9leader_id\xa2m1\xa8snapshot\x96\x05\x03\x01\xc4\x02cc\x14\xc4 "
        + DIGEST
        + b"\xa6offset\x00\xa4data\xc4\x03abc",
        InstallSnapshot(3, "m1", SnapshotFields(5, 3, 1, b"cc", 20, DIGEST), 0, b"abc"),
    ),
    (
        b"\x85\xa4type\xb9install_snapshot_response\xa4term\x03\xa6digest\xc4 "
        + DIGEST
        + b"\xaereceived_bytes\xcf\x00\x00\x00\x02\x00\x00\x00\x00\xafinstalled_index\xcd\x01,",
        InstallSnapshotResponse(3, DIGEST, 1 << 33, 300),
    ),
    (
        b"\x86\xa4type\xb9install_snapshot_response\xa4term\x03\xa6digest\xc4 "
        + DIGEST
        + b"\xaereceived_bytes\x00\xafinstalled_index\x00\xaeneeds_snapshot\t",
        InstallSnapshotResponse(3, DIGEST, 0, 0, needs_snapshot=9),
    ),
    (
        b"\x86\xa4type\xb9install_snapshot_response\xa4term\x03\xa6digest\xc4 "
        + DIGEST
        + b"\xaereceived_bytes\x00\xafinstalled_index\x00\xaais_refused\xc3",
        InstallSnapshotResponse(3, DIGEST, 0, 0, is_refused=True),
    ),
    (
        b"\x84\xa4type\xb0request_pre_vote\xa4term\x02\xaelast_log_index\x01\xadlast_log_term\x01",
        RequestPreVote(2, 1, 1),
    ),
    (
        b"\x83\xa4type\xb9request_pre_vote_response\xa4term\x02\xacvote_granted\xc3",
        RequestPreVoteResponse(2, vote_granted=True),
    ),
    (
        b"\x85\xa4type\xacrequest_vote\xa4term\x02\xaccandidate_id\xa2m3\xaelast_log_index\x01\xadlast_log_term\x01",
        RequestVote(2, "m3", 1, 1),
    ),
    (
        (
            b"\x86\xa4type\xacrequest_vote\xa4term\x02\xaccandidate_id\xa2m1\xaelast_log_index\x01\xadlast_log_term\x01"
            b"\xa8transfer\xc3"
        ),
        RequestVote(2, "m1", 1, 1, transfer=True),
    ),
    (
        b"\x83\xa4type\xb5request_vote_response\xa4term\x03\xacvote_granted\xc2",
        RequestVoteResponse(3, vote_granted=False),
    ),
    (b"\x82\xa4type\xabtimeout_now\xa4term\x03", TimeoutNow(3)),
]

# Version 0.2.0 wrote these with one field more, or in another order; both versions read either.
EQUIVALENT: list[tuple[bytes, Message]] = [
    (
        (
            b"\x88\xa4type\xb7append_entries_response\xa4term\x02\xaarequest_id\x01\xaeprev_log_index\x01\xa7success\xc3"
            b"\xaeis_low_on_disk\xc2\xb6majority_round_trip_ms\xc0\xaelast_log_index\x02"
        ),
        AppendEntriesResponse(2, 1, 1, True, False, last_log_index=2),
    ),
    (
        (
            b"\x87\xa4type\xb7append_entries_response\xa4term\x03\xaarequest_id\x01\xaeprev_log_index\x04\xa7success\xc2"
            b"\xadis_installing\xc3\xaeis_low_on_disk\xc3"
        ),
        AppendEntriesResponse(3, 1, 4, False, True, is_installing=True),
    ),
]


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, Message) else ""


@pytest.mark.parametrize(("raw", "message"), GOLDEN, ids=_name)
def test_a_message_is_the_bytes_of_version_0_2_0(raw: bytes, message: Message) -> None:
    """In both directions, to the byte."""
    assert encode(message) == raw
    received = decode(raw, "m1")
    assert received is not None
    assert (received.sender, received.message) == ("m1", message)


@pytest.mark.parametrize(("raw", "message"), EQUIVALENT, ids=_name)
def test_what_version_0_2_0_wrote_otherwise_means_the_same(raw: bytes, message: Message) -> None:
    """Nothing that it reads by subscription is missing from what is written now."""
    received = decode(raw, "m1")
    assert received is not None
    assert received.message == message
    was, now = msgpack.unpackb(raw), msgpack.unpackb(encode(message))
    assert now == {name: value for name, value in was.items() if value is not None}


def test_every_kind_has_golden_bytes() -> None:
    """A new kind is added here as well."""
    assert {message.kind for _, message in GOLDEN} == KINDS


@pytest.mark.parametrize(("raw", "message"), GOLDEN, ids=_name)
def test_a_field_of_a_later_version_is_ignored(raw: bytes, message: Message) -> None:
    """A member of that version sends it while this one is not upgraded yet."""
    received = decode(msgpack.packb(msgpack.unpackb(raw) | {"of_a_later_version": [1]}), "m1")
    assert received is not None
    assert received.message == message


def test_a_kind_of_a_later_version_is_no_message() -> None:
    """It is passed over; the link stands."""
    assert decode(msgpack.packb({"type": "of_a_later_version", "term": 9}), "m1") is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"term": 1}),
        msgpack.packb({"type": 7, "term": 1}),
        msgpack.packb({"type": "timeout_now"}),
        msgpack.packb({"type": "timeout_now", "term": "1"}),
        msgpack.packb({"type": "request_vote_response", "term": 1}),
        encode(GOLDEN[0][1])[:-1],
    ],
)
def test_what_is_no_message_is_one_error_that_names_its_sender(raw: bytes) -> None:
    """Whoever reads the log knows where to look."""
    with pytest.raises(MalformedMessageError, match="m7 sent"):
        decode(raw, "m7")


def test_raftos_reads_a_message_as_a_dict() -> None:
    """Its dispatch by `type`, its term check by subscription, its vote counting by `get`."""
    received = decode(encode(RequestVoteResponse(4, vote_granted=True)), "m2")
    assert received is not None
    assert (received["type"], received["term"]) == ("request_vote_response", 4)
    assert (received.get("vote_granted"), received.get("success")) == (True, None)


@pytest.mark.parametrize("is_transfer", [False, True])
def test_the_vote_request_that_raftos_builds_is_typed(is_transfer: bool) -> None:
    """With what it says of a transfer, which raftos does not know."""
    data = {"type": "request_vote", "term": 2, "candidate_id": "m1", "last_log_index": 3, "last_log_term": 1}
    request = vote_request_of_raftos(data, is_transfer=is_transfer)
    assert request == RequestVote(2, "m1", 3, 1, transfer=is_transfer)
