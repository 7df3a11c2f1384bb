"""What the kernel was asked for between a small put and its answer, read off a real node's system calls. Needs no root."""

from __future__ import annotations

import shutil

import pytest

from tests.chance import random_bytes
from tests.faults.tools.strace import read_spans, recorder

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="NOT TESTED: the sync before the answer to a small put: needs strace"
)

CALLS = "pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync"
PUTS = 5


async def test_the_answer_to_a_small_put_leaves_after_the_sync_of_the_write_ahead_file(start_node, client_of, tmp_path):
    """Frames written, then a sync of that file that succeeded, then the answer. What the disk makes of it no trace can tell."""
    trace = tmp_path / "trace"
    node = start_node(mode="disk", wrapper=recorder(trace, CALLS))
    client = client_of(node)
    for _ in range(PUTS):
        assert (await client.put(random_bytes(1000)))["created"] is True
    node.stop()
    calls = read_spans(trace)
    answers = [call for call in calls if '"HTTP/1.1 201' in call.text]
    assert len(answers) == PUTS
    frames = [call for call in calls if call.is_write_to("/catalog.sqlite-wal")]
    syncs = [call for call in calls if call.is_sync_of("/catalog.sqlite-wal")]
    earlier = 0
    for answer in answers:
        written = [call.ended for call in frames if earlier < call.began and call.ended < answer.began]
        assert written, "no frame was written for this put"
        is_synced = any(max(written) < sync.began and sync.ended < answer.began for sync in syncs)
        assert is_synced, f"not synced before the answer: {answer.text}"
        earlier = answer.ended
