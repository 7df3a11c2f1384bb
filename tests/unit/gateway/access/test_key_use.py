"""That keys are used is told to the log: by the hour, many in one entry, and again after a failure."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.access.key_use import KeyUse
from shared.contracts.access import BY_SYSTEM, KEY_USES_MAX, RecordKeyUse
from shared.contracts.time import ClockState, Stamp
from shared.errors import LeaderUnavailableError
from tests.unit.gateway.access.test_key_table import key

FIRST, SECOND, THIRD = (key(number).id for number in (1, 2, 3))


class Surroundings:
    """The log, the copy of the rows, which does not hear of uses, and the clock, in hours."""

    def __init__(self) -> None:
        self.hour = 5
        self.is_away = False
        self.rows = {row.id: row for row in map(key, range(1, KEY_USES_MAX + 2))}
        self._taken: list[tuple[int, list[str]]] = []

    def find(self, key_id: str) -> Any:
        return self.rows.get(key_id)

    def stamp(self) -> Stamp:
        return Stamp(hlc=(self.hour * 3600 + 60) << 32, state=ClockState.LOGICAL)

    async def propose(self, command: RecordKeyUse, *, requester: object) -> None:
        assert requester == BY_SYSTEM
        if self.is_away:
            raise LeaderUnavailableError("Nobody leads.", definite=True)
        self._taken.append((command.hour, list(command.keys)))

    def told(self) -> list[tuple[int, list[str]]]:
        """Hour and keys of each entry since the last call."""
        told, self._taken = self._taken, []
        return told


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


@pytest.fixture
async def use(around: Surroundings) -> KeyUse:
    """In mid-hour: it has recorded one key before."""
    use = KeyUse(around, around, around)  # type: ignore[arg-type] - these parts of them are asked
    use.used(THIRD)
    await use.record()
    assert around.told() == [(5, [THIRD])]
    return use


async def test_a_key_that_is_used_all_the_time_is_told_once_an_hour(use: KeyUse, around: Surroundings) -> None:
    """However often; and nothing is proposed where nothing was used."""
    for _ in range(3):
        for key_id in (FIRST, FIRST, SECOND):
            use.used(key_id)
        await use.record()
    assert around.told() == [(5, [FIRST, SECOND])]
    around.hour = 6
    await use.record()
    assert around.told() == []
    for _ in range(3):
        use.used(FIRST)
        await use.record()
    assert around.told() == [(6, [FIRST])]


async def test_what_other_gateways_told_is_not_told_again(use: KeyUse, around: Surroundings) -> None:
    """Nor is a key that is gone; a use that was recorded for an earlier hour is none of this one."""
    around.rows |= {FIRST: key(1, last_used_hour=5), SECOND: key(2, last_used_hour=4)}
    del around.rows[key(4).id]
    for key_id in (FIRST, SECOND, key(4).id):
        use.used(key_id)
    await use.record()
    assert around.told() == [(5, [SECOND])]


async def test_many_keys_take_few_entries(use: KeyUse, around: Surroundings) -> None:
    """As many in one as an entry may have."""
    used = [key_id for key_id in around.rows if key_id != THIRD]
    around.rows[key(KEY_USES_MAX + 2).id] = key(KEY_USES_MAX + 2)
    used.append(key(KEY_USES_MAX + 2).id)
    for key_id in used:
        use.used(key_id)
    await use.record()
    assert around.told() == [(5, used[:KEY_USES_MAX]), (5, used[KEY_USES_MAX:])]


async def test_what_could_not_be_told_is_told_later(use: KeyUse, around: Surroundings) -> None:
    """No error gets out of it, and the hour is that in which it is told."""
    use.used(FIRST)
    around.is_away = True
    await use.record()
    around.is_away, around.hour = False, 6
    use.used(SECOND)
    await use.record()
    assert around.told() == [(6, [FIRST, SECOND])]
    await use.record()
    assert around.told() == []


async def test_what_was_told_as_the_first_of_an_hour_is_not_told_again_in_it(use: KeyUse, around: Surroundings) -> None:
    """The copy of the rows does not say that it was used."""
    for _ in range(2):
        use.used(THIRD)
        await use.record()
        assert around.told() == []
        around.hour += 1
        use.used(FIRST)
        await use.record()
        told = around.told()
        use.used(FIRST)
        use.used(THIRD)
        await use.record()
        assert [key_id for _, keys in told + around.told() for key_id in keys] == [FIRST, THIRD]
