"""The bytes of a proposal in the log: stable, compact, and refused when not understood."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.consensus.metadata.entries import (
    ATTEMPT_VERSION,
    KNOWN_ENTRY_VERSION,
    OBJECTS_VERSION,
    RUNS_VERSION,
    UnknownEntryError,
    decode_proposal,
    encode_proposal,
    fit,
)
from services.consensus.metadata.rows import decode_version, encode_version
from shared.contracts.files import FileVersion
from shared.contracts.metadata import CreateBucket, DeleteBucket, Proposal
from shared.errors import InvalidRequestError
from tests.unit.consensus.metadata.builders import content, publish, stamp

# Written by the first version of the format; every later version must read it.
GOLDEN = bytes.fromhex(
    "0183aa726571756573745f6964a27231a872657461696e5f73cd0258a7636f6d6d616e648da46b696e64ac7075626c6973685f66696c65"
    "a66275636b6574a764656661756c74ab696e6361726e6174696f6e01a36b6579a4c3a42f62a7636f6e74656e7484aa73697a655f627974"
    "6573cd05dcb06368756e6b5f73697a655f6279746573cd03e8ad6368756e6b5f64696765737473c4400101010101010101010101010101"
    "0101010101010101010101010101000000000101010101010101010101010101010101010101010101010101010100000001a664696765"
    "7374c4200101010101010101010101010101010101010101010101010101010101010101ac636f6e74656e745f74797065aa746578742f"
    "706c61696ead757365725f6d6574616461746181a6636f6c6f7572a4626c7565a465746167a6657461672d31ab73746172745f696e6465"
    "7801a565706f636803aa6475726162696c69747983a674617267657403ac61636b6e6f776c656467656402a56e6f64657392a973746f72"
    "6167652d31a973746f726167652d32ad707265636f6e646974696f6e7382a869665f6d61746368c0ad69665f6e6f6e655f6d6174636891"
    "a12aa57374616d7084ab6561726c696573745f6e73c0a96c61746573745f6e73c0a3686c63cf8000000000000000a57374617465a74c4f"
    "474943414c"
)

# The same format with a client's fingerprint, which came later.
MARKED_GOLDEN = bytes.fromhex(
    "0184aa726571756573745f6964a27231a872657461696e5f73cd0258ab66696e6765727072696e74a26631a7636f6d6d616e6483a46b"
    "696e64ad6372656174655f6275636b6574a66275636b6574a3616263a57374616d7084ab6561726c696573745f6e73c0a96c61746573"
    "745f6e73c0a3686c63cf0000000100000000a57374617465a74c4f474943414c"
)


def proposal(command) -> Proposal:
    return Proposal(request_id="r1", command=command)


@pytest.mark.parametrize(
    "command", [publish("ä/b", content=content(5000), if_match=["*"]), CreateBucket(bucket="abc", stamp=stamp(1 << 31))]
)
def test_a_proposal_survives_its_encoding(command):
    """What is decoded equals what was encoded."""
    assert decode_proposal(encode_proposal(proposal(command))) == proposal(command)


def test_the_first_format_is_read_for_ever():
    """Bytes that stand in a log today mean the same to this version, and this version still writes them."""
    command = publish("ä/b", content=content(1500), if_none_match=["*"], stamp=stamp(1 << 31))
    assert decode_proposal(GOLDEN) == proposal(command)
    assert encode_proposal(proposal(command)) == GOLDEN


def test_a_limit_on_buckets_makes_an_entry_of_the_second_version():
    """A member that does not know the field stops there instead of making another state; without it nothing changes."""
    plain = proposal(CreateBucket(bucket="abc", stamp=stamp()))
    limited = proposal(CreateBucket(bucket="abc", limit=5, stamp=stamp()))
    assert (encode_proposal(plain)[0], encode_proposal(limited)[0]) == (1, 2)
    assert b"limit" not in encode_proposal(plain)
    assert decode_proposal(encode_proposal(limited)) == limited


def test_a_bucket_is_deleted_with_its_uploads_by_an_entry_of_the_fourth_version():
    """Members of earlier versions know no uploads, so to them the plain entry means the same."""
    plain = proposal(DeleteBucket(bucket="abc", stamp=stamp()))
    marked = proposal(DeleteBucket(bucket="abc", aborts_uploads=True, stamp=stamp()))
    assert (encode_proposal(plain)[0], encode_proposal(marked)[0]) == (1, OBJECTS_VERSION)
    assert b"aborts_uploads" not in encode_proposal(plain)
    assert decode_proposal(encode_proposal(marked)) == marked
    assert (fit(marked, OBJECTS_VERSION), fit(marked, OBJECTS_VERSION - 1)) == (marked, plain)


def test_a_fingerprint_is_in_the_log_only_where_there_is_one():
    """So that members that do not know fingerprints yet can apply all other entries."""
    plain = proposal(CreateBucket(bucket="abc", stamp=stamp()))
    marked = plain.model_copy(update={"fingerprint": "f1"})
    assert b"fingerprint" not in encode_proposal(plain)
    assert decode_proposal(encode_proposal(marked)) == marked
    assert encode_proposal(marked) == MARKED_GOLDEN


def test_fences_are_left_out_for_members_that_do_not_know_them():
    """The entry is then one of the first version, which they apply as ever; nothing else is changed."""
    fenced = proposal(publish("a", fences={"storage-1": 1}))
    assert encode_proposal(fenced)[0] == RUNS_VERSION
    assert decode_proposal(encode_proposal(fenced)) == fenced
    assert fit(fenced, RUNS_VERSION) == fenced
    assert encode_proposal(fit(fenced, RUNS_VERSION - 1)) == encode_proposal(proposal(publish("a")))
    other = proposal(CreateBucket(bucket="abc", stamp=stamp()))
    assert fit(other, RUNS_VERSION - 1) == other


def test_digests_are_raw_bytes_in_the_log():
    """A chunk costs its 32 bytes, and the body's digest 32 and not 64."""
    small = encode_proposal(proposal(publish("a", content=content(1000))))
    large = encode_proposal(proposal(publish("a", content=content(11_000))))
    assert len(large) - len(small) < 10 * 32 + 8
    assert content().digest.encode() not in small


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes((KNOWN_ENTRY_VERSION + 1,)) + encode_proposal(proposal(publish("a")))[1:],
        encode_proposal(proposal(publish("a")))[:-1],
        encode_proposal(proposal(publish("a"))) + b"x",
        bytes((KNOWN_ENTRY_VERSION,)) + msgpack.packb([1, 2]),
        bytes((KNOWN_ENTRY_VERSION,))
        + msgpack.packb({"request_id": "r", "retain_s": 1, "command": {"kind": "explode"}}),
        bytes((KNOWN_ENTRY_VERSION,)) + msgpack.packb({"request_id": "r", "command": None}),
        encode_proposal(proposal(publish("a"))).replace(b"user_metadata", b"user_metadatb"),
    ],
    ids=["empty", "next version", "cut", "trailing", "no map", "unknown kind", "no command", "unknown field"],
)
def test_an_entry_that_is_not_understood_is_refused(payload):
    """The member must stop instead of guessing."""
    with pytest.raises(UnknownEntryError):
        decode_proposal(payload)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_else(garbage):
    """Whatever the bytes, the refusal is typed."""
    for payload in (garbage, bytes((KNOWN_ENTRY_VERSION,)) + garbage):
        with pytest.raises(UnknownEntryError):
            decode_proposal(payload)


def test_a_proposal_that_cannot_be_written_is_refused_before_the_log():
    """A digest that is not hex and a number beyond 64 bits stop at the proposer."""
    bad = content().model_copy(update={"digest": "zz"})
    for command in (publish("a", content=bad), publish("a", epoch=1 << 64)):
        with pytest.raises(InvalidRequestError):
            encode_proposal(proposal(command))


def version() -> FileVersion:
    command = publish("ä", content=content(2500))
    fields = command.model_dump(exclude={"kind", "incarnation", "start_index", "preconditions", "fences", "tags"})
    return FileVersion(**fields, version=7, term=3, modified_ns=5)


def test_a_version_survives_its_encoding():
    """What a reader gets equals what was published."""
    assert decode_version(encode_version(version())) == version()


def test_an_attempt_is_an_entry_of_the_second_version():
    """A member of the first version would not know the field; without one, nothing changes in the log."""
    plain = proposal(CreateBucket(bucket="abc", stamp=stamp()))
    attempt = plain.model_copy(update={"attempt_id": "a1"})
    assert b"attempt_id" not in encode_proposal(plain)
    assert (encode_proposal(plain)[0], encode_proposal(attempt)[0]) == (1, ATTEMPT_VERSION)
    assert decode_proposal(encode_proposal(attempt)) == attempt
