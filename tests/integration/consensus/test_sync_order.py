"""What a member acknowledges is synced: read off the system calls of real members. Needs no root.

Two acknowledgements leave a member: a follower's answer to the leader, and the leader's to whoever proposed. With one of three
members gone, the leader may give its own only when its own log is synced, too.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shared.consensus_calls.client import ConsensusClient
from shared.contracts.access import BY_SYSTEM
from shared.contracts.metadata import CreateBucket
from shared.contracts.time import ClockState, Stamp
from shared.peer_calls.http_client import PeerClient
from tests.faults.tools.strace import Span, read_spans, recorder
from tests.integration.consensus.members import Members

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="NOT TESTED: the sync before a member acknowledges an entry: needs strace"
)

CALLS = "pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync"
LOG = "/raft_log.sqlite-wal"
PROPOSALS = 5
ALONE_WITHIN_S = 60.0
STAMP = Stamp(hlc=1 << 32, state=ClockState.LOGICAL)

_ANSWER = b"\xa4type\xb7append_entries_response"
"""How msgpack begins a follower's answer, behind the one byte that counts its fields."""


async def test_what_a_member_acknowledges_is_synced_in_its_log(tmp_path: Path) -> None:
    """The bytes of the entry written, a sync of that file that succeeded, then the answer: at the leader and at a follower."""
    traces = [tmp_path / f"consensus-{number + 1}.trace" for number in range(3)]
    members = Members(tmp_path)
    # Whole pages of the log, and whole batches of frames.
    members.wrappers = {number: recorder(trace, CALLS, max_text_bytes=1 << 18) for number, trace in enumerate(traces)}
    async with members.running() as (client, consensus):
        first = await members.leader(client)
        members.kill(next(number for number in range(3) if number != first))
        async with asyncio.timeout(ALONE_WITHIN_S):
            leader, proposed = await proposed_to_one_leader(members, client, consensus)
        follower = next(number for number in range(3) if number != leader and members.is_running(number))
    for number, acknowledges in ((leader, is_answer_to_client), (follower, is_answer_to_leader)):
        calls = read_spans(traces[number])
        for name, log_index in proposed.items():
            answer = next(call for call in calls if is_sent(call) and acknowledges(call, log_index))
            assert_synced_before(answer, calls, name)


async def proposed_to_one_leader(
    members: Members, client: PeerClient, consensus: ConsensusClient
) -> tuple[int, dict[str, int]]:
    """A leader, and the log indexes of the buckets that were made while nobody else led: who leads says who acknowledges what."""
    while True:
        term, leader = await led_by(members, client)
        proposed: dict[str, int] = {}
        for _ in range(PROPOSALS):
            name = f"bucket-{secrets.token_hex(8)}"
            creation = CreateBucket(bucket=name, stamp=STAMP)
            proposed[name] = (await consensus.propose(creation, requester=BY_SYSTEM)).log_index
        if await led_by(members, client) == (term, leader):
            return leader, proposed


async def led_by(members: Members, client: PeerClient) -> tuple[int, int]:
    """The term, and who leads in it."""
    leader = await members.leader(client)
    return (await members.status(client, leader)).term, leader


def is_sent(call: Span) -> bool:
    return call.name in {"write", "writev", "sendto", "sendmsg"} and "<socket:" in call.text


def is_answer_to_client(call: Span, log_index: int) -> bool:
    """Whether the call sends the result of the proposal at that index."""
    return b"HTTP/1.1 200" in call.data() and b'"log_index":%d,' % log_index in call.data()


def is_answer_to_leader(call: Span, log_index: int) -> bool:
    """Whether the call sends a follower's word that it holds everything up to that index."""
    return any(answer["success"] and answer["last_log_index"] >= log_index for answer in append_answers(call))


def append_answers(call: Span) -> Iterator[dict[str, Any]]:
    data = call.data()
    place = data.find(_ANSWER)
    while place > 0:
        unpacker = msgpack.Unpacker()
        unpacker.feed(data[place - 1 :])
        yield unpacker.unpack()
        place = data.find(_ANSWER, place + 1)


def assert_synced_before(answer: Span, calls: Sequence[Span], name: str) -> None:
    written = [call.ended for call in calls if call.is_write_to(LOG) and name.encode() in call.data()]
    assert written, f"the entry of {name} was not written"
    syncs = [call for call in calls if call.is_sync_of(LOG)]
    is_synced = any(min(written) < sync.began and sync.ended < answer.began for sync in syncs)
    assert is_synced, f"not synced before the answer: {answer.text[:200]}"
