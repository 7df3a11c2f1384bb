"""Bugs planted here to test the schedules: `python -m tests.simulation.garbage.planted_bugs` prints the table.

Each is patched in from outside, for the length of one search. Those that concern the log change functions of the state
machine itself, those of a node's decisions the product's rules; the rest changes the model of the loop around them. A bug is
caught when a schedule breaks a promise with it that holds without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from services.consensus.metadata import nodes, stored_content, uploads, versions
from services.consensus.metadata.apply_context import ApplyContext
from services.consensus.metadata.garbage import Garbage
from services.consensus.metadata.manifests import Manifests
from services.consensus.metadata.older_versions import OlderRow
from services.consensus.metadata.pieces import ChunkList, Piece, PieceList
from services.consensus.metadata.retention import Sweep
from services.consensus.metadata.rows import NodeRow, PastRow, RunRow, decode_content
from services.consensus.metadata.tables import distinct_chunks
from services.consensus.metadata.upload_records import UploadRow
from services.gateway.replicas.confirmations import Confirmation, Confirmations
from services.storage.reconcile import rules
from shared.contracts.cluster import NodeState, StorageNode
from shared.contracts.etags import list_digest
from shared.contracts.metadata import PublishFile, RemovalProof
from shared.errors import NodeReplacedError
from tests.simulation.garbage.gateway import Context, Gateway, Memory, Record
from tests.simulation.garbage.kernel import Pause, Steps
from tests.simulation.garbage.leader import Leader
from tests.simulation.garbage.log import REFERENCE_RETENTION_S
from tests.simulation.garbage.node import Node
from tests.simulation.garbage.objects import Name
from tests.simulation.garbage.oracle import LookedUp, ViolationError
from tests.simulation.garbage.scenarios import (
    Stage,
    backup_of_a_deleted_file,
    backup_of_an_upload,
    composition_that_is_being_read,
    copied_part_of_a_deleted_file,
    file_of_two_parts,
    part_on_too_few_nodes,
    pieces_after_a_restore,
    pull_before_an_old_condemnation,
    read_after_a_lost_disk,
    refused_part,
    refused_publish,
    restore_at_the_same_addresses,
    surplus_on_an_old_replica,
    surplus_that_is_missed,
    two_epochs_in_flight,
    upload_of_what_was_confirmed,
    version_that_is_current_again,
    violation_of,
)
from tests.simulation.garbage.world import EVERYTHING, FLAPPING_NODES, ISOLATED_NODE, Profile, World, live

SEEDS: Final = range(300)
"""As many as every test run lives."""

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class PlantedBug:
    """One bug.

    Attributes:
        name: what is wrong, in words.
        how: it is patched in, for the table.
        plant: patches it in.
        scenario: the written schedule that catches it, where random ones are not relied on.
        profile: random schedules of this one catch it, too, or sooner.
    """

    name: str
    how: str
    plant: Plant
    scenario: Callable[[Stage], None] | None = None
    profile: Profile | None = None


def _grace_0(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "reference_retention_s", 0)


def _recorded_index_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "may_delete_condemned", lambda _recorded, condemned_index: condemned_index > 0)


def _surplus_dropped_before_confirmed(patch: pytest.MonkeyPatch) -> None:
    right = rules.may_drop_surplus
    patch.setattr(rules, "may_drop_surplus", lambda **facts: right(**facts | {"confirmed_by": facts["expected"]}))


def _confirmation_of_another_epoch(patch: pytest.MonkeyPatch) -> None:
    right = rules.may_drop_surplus
    patch.setattr(rules, "counts_as_confirmation", lambda *, is_verified, **_: is_verified)
    patch.setattr(
        rules, "may_drop_surplus", lambda **facts: right(**facts | {"current_epoch": facts["decision_epoch"]})
    )


def _incarnation_ignored(patch: pytest.MonkeyPatch) -> None:
    right = stored_content.check_acknowledging_nodes

    def check(command: PublishFile, node_rows: Mapping[str, NodeRow], runs: Mapping[str, RunRow]) -> None:
        try:
            right(command, node_rows, runs)
        except NodeReplacedError:
            right(command.model_copy(update={"fences": None, "epoch": 1 << 40}), node_rows, runs)

    patch.setattr(stored_content, "check_acknowledging_nodes", check)


def _hit_not_verified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "is_verified", lambda _self, _replica: True)


def _removal_without_proof(patch: pytest.MonkeyPatch) -> None:
    def proof_of(_self: Leader, node: StorageNode, _drained: Any) -> RemovalProof | None:
        return RemovalProof(log_index=1, epoch=0, incarnation=0) if node.state == NodeState.DRAINING else None

    patch.setattr(Leader, "proof_of", proof_of)
    patch.setattr(nodes, "check_removal", lambda *_, **__: None)


def _absence_from_a_page_deletes(patch: pytest.MonkeyPatch) -> None:
    def condemn(self: Node, _held: Any, digests: list[str], *_: Any) -> Steps:
        for digest in digests:
            self.disk.chunks.pop(digest, None)
            yield Pause()

    patch.setattr(Node, "_condemn", condemn)


def _pin_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Garbage, "backups", lambda _self: [])


def _pulled_without_its_start_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules, "pulled_start_index", lambda _source, _reference: 0)


def _surplus_asked_without_its_start_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "record_start_index", lambda _self, _replica, _start_index: None)


def _condemned_chunk_published(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stored_content, "check_not_condemned", lambda _command, _garbage: None)


def _published_again_without_a_put(patch: pytest.MonkeyPatch) -> None:
    right = Gateway._put_all

    def put_all(self: Gateway, chunks: list[str], context: Context, earlier: Any, *, must_fetch: bool) -> Steps:
        return earlier or (yield from right(self, chunks, context, earlier, must_fetch=must_fetch))

    patch.setattr(Gateway, "_put_all", put_all)


def _confirmation_counted_by_a_write(patch: pytest.MonkeyPatch) -> None:
    right = Gateway._put_at

    def put_at(self: Gateway, node_id: str, digest: str, context: Context, tally: Any) -> Steps:
        known = self.memory.answers.get((digest, node_id))
        if known is None:
            yield from right(self, node_id, digest, context, tally)
        else:
            tally.fences[node_id], tally.acks[node_id] = known

    patch.setattr(Gateway, "_put_at", put_at)


def _confirmation_of_an_older_incarnation(patch: pytest.MonkeyPatch) -> None:
    right = Confirmations.holders

    def holders(self: Confirmations, digest: str, expected: Sequence[StorageNode]) -> list[Confirmation]:
        return right(self, digest, [node.model_copy(update={"incarnation": 0}) for node in expected])

    patch.setattr(Confirmations, "holders", holders)


def _cache_of_another_cluster(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "see_cluster", lambda _self, _cluster_id: False)


def _doomed_manifest_reused(patch: pytest.MonkeyPatch) -> None:
    right = uploads._own_piece

    def own_piece(context: ApplyContext, upload: UploadRow, chunks: ChunkList, skip: int, take: int) -> Piece:
        known = context.tables.database.one(
            "SELECT max(manifest) FROM manifests WHERE chunk_digests=?", (chunks.chunk_digests,)
        )
        if known is None or known[0] is None:
            return right(context, upload, chunks, skip, take)
        Manifests(context.tables).refer(upload.upload, {known[0]})
        return Piece(known[0], skip, take, chunks.chunk_size_bytes, list_digest(chunks.chunk_digests))

    patch.setattr(uploads, "_own_piece", own_piece)


def _condemned_chunk_in_a_manifest(patch: pytest.MonkeyPatch) -> None:
    right = stored_content.check_not_condemned

    def check(command: Any, garbage: Garbage) -> None:
        if isinstance(command, PublishFile):
            right(command, garbage)

    patch.setattr(stored_content, "check_not_condemned", check)


def _composition_counted_as_one_piece(patch: pytest.MonkeyPatch) -> None:
    right = PieceList.manifests

    def manifests(self: PieceList) -> set[int]:
        return {piece.manifest for piece in self.between(0, 1)} if len(self) else right(self)

    patch.setattr(PieceList, "manifests", manifests)


def _copied_part_without_a_reference(patch: pytest.MonkeyPatch) -> None:
    right = Manifests.refer

    def refer(self: Manifests, owner: int, manifests: Iterable[int]) -> None:
        known = "SELECT 1 FROM manifest_refs WHERE manifest=? LIMIT 1"
        right(self, owner, {each for each in manifests if self._one(known, (each,)) is None})

    patch.setattr(Manifests, "refer", refer)


def _promoted_without_references(patch: pytest.MonkeyPatch) -> None:
    right = versions._promote

    def promote(context: ApplyContext, row: OlderRow, vacated: Any) -> None:
        right(context, row, vacated)
        content = context.tables.version(context.index).content
        if content.composition is None:
            context.tables.remove_refs((context.index, distinct_chunks(content)))
        else:
            Manifests(context.tables).drop_composition_ref(content.composition, context.index)

    patch.setattr(versions, "_promote", promote)


def _pin_without_manifests(patch: pytest.MonkeyPatch) -> None:
    right = Sweep.uploads

    def sweep(self: Sweep, lived_ms: int, _unneeded_index: int) -> None:
        right(self, lived_ms, self._history.index_at(max(lived_ms - REFERENCE_RETENTION_S * 1000, 0)))

    patch.setattr(Sweep, "uploads", sweep)


def _no_hold_for_compositions(patch: pytest.MonkeyPatch) -> None:
    right, right_each = Garbage.release, Garbage.release_each

    def is_composed(garbage: Garbage, version: int) -> bool:
        row = garbage._one("SELECT body FROM versions WHERE version=?", (version,))
        return row is not None and decode_content(row[0]).composition is not None

    def release(self: Garbage, version: int, log_index: int) -> None:
        right(self, version, 0 if is_composed(self, version) else log_index)

    def release_each(self: Garbage, past: Sequence[PastRow]) -> None:
        right_each(self, [row._replace(deleted_index=0) if is_composed(self, row.version) else row for row in past])

    patch.setattr(Garbage, "release", release)
    patch.setattr(Garbage, "release_each", release_each)


def _kept_version_released(patch: pytest.MonkeyPatch) -> None:
    right = Garbage.unheld

    def unheld(self: Garbage, past: Sequence[PastRow]) -> list[PastRow]:
        kept = "SELECT 1 FROM older_versions WHERE incarnation=? AND key=? AND version=?"
        found = right(self, past)
        return [row for row in past if row in found or self._one(kept, (row.incarnation, row.key, row.version))]

    patch.setattr(Garbage, "unheld", unheld)


def _removed_version_never_released(patch: pytest.MonkeyPatch) -> None:
    def remove(context: ApplyContext, row: OlderRow) -> None:
        context.older.remove(row)

    patch.setattr(versions, "remove_for_good", remove)


def _replaced_part_never_released(patch: pytest.MonkeyPatch) -> None:
    right = Garbage.release

    def release(self: Garbage, version: int, log_index: int) -> None:
        if self._one("SELECT 1 FROM manifests WHERE manifest=?", (version,)) is None:
            right(self, version, log_index)

    patch.setattr(Garbage, "release", release)


def _parts_not_listed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Manifests, "between", lambda _self, _after, _end: (each for each in ()))


def _patched_record_from_the_cache(patch: pytest.MonkeyPatch) -> None:
    right = World.look_up

    def look_up(self: World, name: Name, version: int | None, known: Record | None) -> LookedUp:
        return right(self, name, version, known and replace(known, patch_index=None))

    patch.setattr(World, "look_up", look_up)


BUGS: Final = (
    PlantedBug("grace 0", "the leader proposes PassTime with reference_retention_s = 0", _grace_0),
    PlantedBug(
        "recorded index not checked", "rules.may_delete_condemned: every condemned chunk", _recorded_index_not_checked
    ),
    PlantedBug(
        "surplus dropped before confirmed",
        "rules.may_drop_surplus takes the expected holders for those that confirmed",
        _surplus_dropped_before_confirmed,
        surplus_that_is_missed,
    ),
    PlantedBug(
        "confirmation of another epoch counted",
        "rules: whoever holds a chunk confirms it, and a confirmation outlives the epoch of the decision",
        _confirmation_of_another_epoch,
        two_epochs_in_flight,
        FLAPPING_NODES,
    ),
    PlantedBug(
        "incarnation ignored", "stored_content.check_acknowledging_nodes compares no fences", _incarnation_ignored
    ),
    PlantedBug("hit not verified", "the node takes every replica for verified", _hit_not_verified, profile=EVERYTHING),
    PlantedBug(
        "removal without proof",
        "nodes.check_removal checks nothing, and the leader removes whatever drains",
        _removal_without_proof,
    ),
    PlantedBug(
        "absence from a page deletes", "the node deletes what no page lists, young or old", _absence_from_a_page_deletes
    ),
    PlantedBug("pin ignored", "Garbage.backups lists none", _pin_ignored, backup_of_a_deleted_file),
    PlantedBug(
        "pulled without its start index",
        "rules.pulled_start_index is 0",
        _pulled_without_its_start_index,
        pull_before_an_old_condemnation,
    ),
    PlantedBug(
        "surplus asked without its start index",
        "the holder confirms and records nothing",
        _surplus_asked_without_its_start_index,
        surplus_on_an_old_replica,
        ISOLATED_NODE,
    ),
    PlantedBug(
        "condemned chunk published",
        "stored_content.check_not_condemned checks nothing",
        _condemned_chunk_published,
        refused_publish,
    ),
    PlantedBug(
        "publish again with a newer start index and no new put",
        "the gateway counts the acknowledgements of the attempt that was refused",
        _published_again_without_a_put,
        refused_publish,
    ),
    PlantedBug(
        "remembered confirmation counted by a write",
        "the gateway does not put where a node said earlier that it holds the chunk",
        _confirmation_counted_by_a_write,
        upload_of_what_was_confirmed,
    ),
    PlantedBug(
        "confirmation of an older incarnation counted",
        "Confirmations.holders compares no fence with the node map's incarnations",
        _confirmation_of_an_older_incarnation,
        read_after_a_lost_disk,
    ),
    PlantedBug(
        "cache of another cluster used after a restore",
        "the gateway does not look at the cluster's id in answers",
        _cache_of_another_cluster,
        restore_at_the_same_addresses,
    ),
    PlantedBug(
        "pages of another cluster used after a restore",
        "as the one before, for what a gateway knows of pieces",
        _cache_of_another_cluster,
        pieces_after_a_restore,
    ),
    PlantedBug(
        "doomed manifest reused",
        "a part with the chunks of a manifest that is there, living or not, gets that one",
        _doomed_manifest_reused,
    ),
    PlantedBug(
        "condemned chunk in a manifest not checked",
        "stored_content.check_not_condemned checks files and no parts",
        _condemned_chunk_in_a_manifest,
        refused_part,
    ),
    PlantedBug(
        "a composition counted as one piece",
        "PieceList.manifests: that of the first piece",
        _composition_counted_as_one_piece,
        file_of_two_parts,
    ),
    PlantedBug(
        "a copied part without a reference",
        "Manifests.refer leaves out what something refers to already",
        _copied_part_without_a_reference,
        copied_part_of_a_deleted_file,
    ),
    PlantedBug(
        "a promoted version's references dropped",
        "versions._promote makes the version current and refers to nothing",
        _promoted_without_references,
        version_that_is_current_again,
    ),
    PlantedBug(
        "a pin ignores manifests",
        "Sweep.uploads forgets closed uploads as if no backup lived",
        _pin_without_manifests,
        backup_of_an_upload,
    ),
    PlantedBug(
        "a reader's hold ignored for compositions",
        "Garbage.release gives composed versions up at once",
        _no_hold_for_compositions,
        composition_that_is_being_read,
    ),
    PlantedBug(
        "a kept version released with its list",
        "Garbage.unheld does not look at older versions",
        _kept_version_released,
    ),
    PlantedBug(
        "a removed version never released",
        "versions.remove_for_good releases nothing",
        _removed_version_never_released,
    ),
    PlantedBug(
        "a replaced part never released", "Garbage.release releases no manifests", _replaced_part_never_released
    ),
    PlantedBug(
        "references of parts not listed",
        "Manifests.between lists none",
        _parts_not_listed,
        part_on_too_few_nodes,
    ),
    PlantedBug(
        "patched record served from the cache",
        "the gateway asks for the version and not for its patch index",
        _patched_record_from_the_cache,
    ),
)


@contextmanager
def planted(bug: PlantedBug) -> Iterator[None]:
    """The bug is there inside the block, and gone after it."""
    with pytest.MonkeyPatch.context() as patch:
        bug.plant(patch)
        yield


def first_seed(seeds: Iterable[int], profile: Profile | None = None) -> tuple[int, str] | None:
    """The first seed whose schedule breaks a promise, with its complaint. Errors of other kinds are raised."""
    for seed in seeds:
        try:
            live(seed, profile)
        except ViolationError as violation:
            return seed, str(violation)
    return None


def main() -> int:
    """Print the table; 1 when a bug was not caught."""
    missed = 0
    for bug in BUGS:
        began, written = time.monotonic(), None
        with planted(bug):
            found = first_seed(SEEDS, bug.profile)
        verdict = f"schedule {found[0] + 1}: {found[1]}" if found else f"not by {len(SEEDS)} schedules"
        if bug.scenario is not None:
            with planted(bug):
                written = violation_of(bug.scenario)
            verdict = f"{bug.scenario.__name__}: {written}; at random {verdict}"
        missed += found is None and written is None
        sys.stdout.write(f"{bug.name:40} {bug.how}\n    {verdict} ({time.monotonic() - began:.1f} s)\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
