"""Records that keys are used: to the hour, each at most once an hour, many in one entry of the log."""

from __future__ import annotations

from typing import Final

import structlog

from services.gateway.access.key_table import KeyTable
from services.gateway.ports import Metadata
from shared.background_tasks import BackgroundTasks
from shared.contracts.access import BY_SYSTEM, KEY_USES_MAX, RecordKeyUse
from shared.contracts.time import TimeSource
from shared.errors import TrivetError

logger = structlog.get_logger(__name__)

INTERVAL_S: Final = 60.0
_KEYS_MAX: Final = 100_000
_HOUR_NS: Final = 3600 * 10**9


class KeyUse:
    """Invariant: every key in `_pending` is in `_noted`, which has those that were used in the hour `_hour`."""

    def __init__(self, metadata: Metadata, table: KeyTable, clock: TimeSource) -> None:
        self._metadata = metadata
        self._table = table
        self._clock = clock
        self._hour = 0
        self._noted: set[str] = set()
        self._pending: list[str] = []

    def used(self, key_id: str) -> None:
        """A request was made with that key."""
        if key_id in self._noted or len(self._noted) >= _KEYS_MAX:
            return
        self._noted.add(key_id)
        self._pending.append(key_id)

    def start(self, tasks: BackgroundTasks) -> None:
        """Record again and again."""
        tasks.every("use of keys", INTERVAL_S, self.record)

    async def record(self) -> None:
        """Have the log told what it does not know yet. What fails is tried again the next time."""
        stamp = self._clock.stamp()
        hour, recorded = stamp.approximate_ns // _HOUR_NS, set[str]()
        try:
            while self._pending:
                batch = self._pending[:KEY_USES_MAX]
                if keys := [key_id for key_id in batch if self._is_news(key_id, hour)]:
                    command = RecordKeyUse(keys=keys, hour=hour, stamp=stamp)
                    await self._metadata.propose(command, requester=BY_SYSTEM)
                recorded.update(batch)
                del self._pending[: len(batch)]
        except TrivetError as error:
            logger.info("the use of keys was not recorded", code=error.code, keys=len(self._pending))
            return
        if hour != self._hour:
            self._hour = hour
            self._noted = recorded

    def _is_news(self, key_id: str, hour: int) -> bool:
        key = self._table.find(key_id)
        return key is not None and (key.last_used_hour is None or key.last_used_hour < hour)
