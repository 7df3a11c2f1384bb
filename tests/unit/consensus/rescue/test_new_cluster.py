"""What a cluster that is made of another one's state takes along."""

from __future__ import annotations

import json
from pathlib import Path

from services.consensus.metadata.store import MetadataStore
from services.consensus.persistence.state_files import StateFiles
from services.consensus.rescue.new_cluster import make_folder
from shared.audit_chain import ChainPoint, follow
from shared.contracts.access import Requester
from shared.contracts.audit import AuditPage, ListAudit
from shared.contracts.cluster import ConsensusMember
from tests.unit.consensus.metadata.builders import Log, entry, publish

ANN = Requester(principal="a" * 64, request="req-1", address="192.0.2.7")
MEMBERS = (ConsensusMember(id="consensus-1", url="http://h1:1", peer_address="h1:2"),)


def test_a_new_cluster_goes_on_with_the_trail_of_the_old_one(tmp_path: Path) -> None:
    """Rescued or restored: one chain from the first change on, over the step of the indexes."""
    log = Log(tmp_path / "old", entry_version=4)
    log.propose(publish("before"), requester=ANN)
    make_folder(log.path, tmp_path / "new", cluster_id="another", members=MEMBERS, record={})
    log.store.close()
    store = MetadataStore.open(StateFiles(tmp_path / "new").current)
    store.apply_batch([entry(store.last_applied + 1, publish("after"), requester=ANN)])
    page = store.answer([ListAudit()], term=1).results[0].answer
    assert isinstance(page, AuditPage)
    lines = page.lines.encode().splitlines()
    end = follow(ChainPoint(), lines)
    assert [json.loads(line)["row"]["key"] for line in lines] == ["before", "after"]
    assert (end.index, end.link) == store.summary().trail.head[::2]
    store.close()
