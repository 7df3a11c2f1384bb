"""A request that is proposed again, by its id, fingerprint and attempt: what is stored, and what the answer is."""

from shared.contracts.files import Durability
from shared.contracts.metadata import (
    CreateBucket,
    DeleteFile,
    GetFile,
    GetRequest,
    ListFiles,
    RemoveNode,
    RequestAnswer,
)
from tests.unit.consensus.metadata.builders import content, publish, stamp


def test_a_repeated_request_gets_the_stored_result_and_changes_nothing(log):
    """A success, a plain result and a rejection are each repeated word for word."""
    log.apply(publish("a"))
    for request_id, command in (
        ("published", publish("b", content=content(2500))),
        ("replaced", publish("a", content=content(500))),
        ("plain", DeleteFile(bucket="default", key="a", stamp=stamp())),
        ("rejected", publish("c", if_match=["*"])),
    ):
        first = log.propose(command, request_id=request_id, term=3)
        before = log.store.highest_hlc(), log.ask(ListFiles(bucket="default")).files
        assert log.propose(publish("other"), request_id=request_id, term=9) == first
        assert (log.store.highest_hlc(), log.ask(ListFiles(bucket="default")).files) == before
        assert first.term == 3


def test_a_repeated_publish_is_answered_after_it_was_replaced_and_deleted(log):
    """The stored result outlives the version's place in the bucket."""
    first = log.propose(publish("a"), request_id="once")
    log.apply(publish("a", etag="etag-2"))
    log.apply(DeleteFile(bucket="default", key="a", stamp=stamp()))
    assert log.propose(publish("a"), request_id="once") == first


def test_a_rejection_stands_even_if_the_reason_is_gone(log):
    """Its proposer was told that it certainly did not happen; a late duplicate must not make it happen."""
    first = log.propose(publish("a", bucket="photos", incarnation=3), request_id="once")
    assert first.problem["code"] == "bucket_not_found"
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    assert log.propose(publish("a", bucket="photos", incarnation=3), request_id="once") == first


def test_a_remembered_id_is_not_lent_to_another_fingerprint(log):
    """The other proposal is rejected and changes nothing; the first one's result stays."""
    first = log.propose(publish("a"), request_id="once", fingerprint="f1")
    for other in ("f2", None):
        refused = log.propose(publish("a", etag="etag-2"), request_id="once", fingerprint=other)
        assert refused.problem["code"] == "idempotency_key_reused"
        assert refused.problem["definite"]
    assert log.propose(publish("a"), request_id="once", fingerprint="f1") == first
    assert log.ask(GetFile(bucket="default", key="a")).file.etag == "etag-1"


def test_what_became_of_a_request_can_be_asked(log):
    """Result and fingerprint, a rejection included; nothing for an unknown id."""
    published = log.propose(publish("a"), request_id="published", fingerprint="f1")
    rejected = log.propose(publish("b", if_match=["*"]), request_id="rejected")
    assert log.ask(GetRequest(request_id="published")) == RequestAnswer(result=published, fingerprint="f1")
    assert log.ask(GetRequest(request_id="rejected")) == RequestAnswer(result=rejected)
    assert log.ask(GetRequest(request_id="unknown")) == RequestAnswer()


def test_a_result_that_nobody_wants_kept_is_not_stored(log):
    """Retention 0 costs no row: the same id is a new proposal."""
    assert log.apply(publish("a"), request_id="x", retain_s=0)["created"]
    assert not log.apply(publish("a"), request_id="x", retain_s=0)["created"]


def test_a_transient_refusal_is_not_stored_under_the_key_of_a_client(log):
    """The next attempt may succeed; the refused one never happens any more, however late it is sent again."""
    log.apply(RemoveNode(node_id="storage-2", stamp=stamp()))
    late = publish("a")
    first = log.propose(late, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    assert first.problem["code"] == "node_removed"
    assert log.ask(GetRequest(request_id="key")) == RequestAnswer()
    retry = publish("a", durability=Durability(target=3, acknowledged=2, nodes=["storage-1", "storage-3"]))
    second = log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a2")
    assert second.problem is None
    assert log.ask(GetRequest(request_id="key")) == RequestAnswer(result=second, fingerprint="f1")
    assert log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a2") == second
    assert log.propose(late, request_id="key", fingerprint="f1", attempt_id="a1") == first
    assert log.propose(retry, request_id="key", fingerprint="f1", attempt_id="a3") == second


def test_a_refused_attempt_that_is_sent_again_stays_refused(log):
    """Also when it would succeed by now: its proposer was told that it certainly did not happen."""
    command = publish("a", bucket="photos", incarnation=1)
    log.apply(CreateBucket(bucket="photos", stamp=stamp()))
    first = log.propose(command, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    assert first.problem["code"] == "bucket_recreated"
    sound = publish("a")
    assert log.propose(sound, request_id="key", fingerprint="f1", attempt_id="a1") == first


def test_a_final_refusal_is_stored_under_the_key_whatever_the_attempt(log):
    """Precondition, absence: the repeat hears the same, though things have changed."""
    missing = DeleteFile(bucket="default", key="a", stamp=stamp())
    first = log.propose(missing, request_id="key", fingerprint="f1", attempt_id="a1")
    assert first.problem is not None
    log.apply(publish("a"))
    assert log.propose(missing, request_id="key", fingerprint="f1", attempt_id="a2") == first
    held = publish("b", if_match=["other"])
    refused = log.propose(held, request_id="key-2", fingerprint="f1", attempt_id="a3")
    assert refused.problem is not None
    assert refused.problem["code"] == "precondition_failed"
    assert log.propose(held, request_id="key-2", fingerprint="f1", attempt_id="a4") == refused


def test_the_attempt_of_a_reused_key_is_told_so(log):
    """422 comes before anything is run."""
    log.propose(publish("a"), request_id="key", fingerprint="f1", attempt_id="a1")
    other = log.propose(publish("b"), request_id="key", fingerprint="f2", attempt_id="a2")
    assert other.problem is not None
    assert other.problem["code"] == "idempotency_key_reused"
