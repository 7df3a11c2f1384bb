"""Backups under way, as a gateway begins, lists, renews and ends them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from services.gateway.api.models import BackupBegin
from shared.errors import BackupNotFoundError


@pytest.fixture
async def upgraded(world):
    await world.metadata.upgrade(world.clock)
    return world


async def test_a_backup_begins_is_listed_renewed_and_ended(upgraded) -> None:
    """Each has an id of its own, the index since which it keeps chunks, and what is left of its lease."""
    backups = upgraded.services.backups
    first, second = await backups.begin("to tape", 100), await backups.begin("to disk", 200)
    assert second.log_index > first.log_index
    listed = {backup.backup_id: backup for backup in await backups.list()}
    assert listed.keys() == {first.backup_id, second.backup_id}
    assert listed[first.backup_id].owner == "to tape"
    assert (listed[first.backup_id].log_index, listed[first.backup_id].expires_in_s) == (first.log_index, 100)
    assert (await backups.renew(first.backup_id, 300)).log_index == first.log_index
    await backups.end(second.backup_id)
    (left,) = await backups.list()
    assert (left.backup_id, left.expires_in_s) == (first.backup_id, 300)


@pytest.mark.parametrize("backup_id", ["0" * 16, "x" * 64, "x" * 65, "x" * 10_000, "ü/../%00"])
async def test_a_backup_that_is_not_under_way_is_refused(upgraded, backup_id: str) -> None:
    """It was never begun, has ended, or is no id at all; whoever copies hears that what it copied may lack chunks."""
    for act in (upgraded.services.backups.end(backup_id), upgraded.services.backups.renew(backup_id, 100)):
        with pytest.raises(BackupNotFoundError) as refused:
            await act
        assert refused.value.definite


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "to tape\x1b[31m"},
        {"owner": "to\ntape"},
        {"owner": "\x85"},
        {"owner": "to tape", "lease_s": True},
        {"owner": "to tape", "lease_s": "60"},
    ],
)
def test_an_owner_is_for_people_and_a_lease_is_a_number(wrong: dict[str, object]) -> None:
    """What is listed goes to terminals, and `true` is no lease of a second."""
    with pytest.raises(ValidationError):
        BackupBegin.model_validate_json(json.dumps(wrong))


def test_an_owner_may_be_written_in_any_script() -> None:
    """The refusal is of control characters only."""
    assert BackupBegin.model_validate_json(json.dumps({"owner": "nächtlich nach 磁带 ✓", "lease_s": 60})).lease_s == 60
