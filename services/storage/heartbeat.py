"""Heartbeats to consensus: this node lives, where it is, how full it is.

At start failures are retried quickly, so that a new cluster is ready in seconds. Later failures are retried with exponential
back-off and full jitter, so that nodes that lost their leader together do not come back together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from shared.background_tasks import BackgroundTasks
from shared.backoff import Backoff
from shared.consensus_calls.leader_tracker import LeaderTracker
from shared.contracts.cluster import Heartbeat, HeartbeatResponse
from shared.errors import (
    ClusterMismatchError,
    InvalidRequestError,
    NotLeaderError,
    RunSupersededError,
    SignatureRejectedError,
    TrivetError,
)
from shared.peer_address import PeerAddress
from shared.peer_calls.http_client import PeerClient

logger = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 2.0
_SUSPICION_S: Final = 5.0
_START_BASE_S: Final = 0.2
_START_CAP_S: Final = 1.0
_RETRY_CAP_S: Final = 60.0
_CHANGE_CHECK_INTERVAL_S: Final = 1.0
_UNSETTLED_S: Final = 1.0
"""Between heartbeats until the log has recorded this run, because only from then on is another disk under this name noticed,
and until the leader was told all that it understands."""


class HeartbeatSender:
    """Sends heartbeats for ever; `was_accepted` says whether a leader has accepted one since the start.

    `describe` makes a heartbeat; `news` tells cheaply, by being another value, that what it would say has changed.
    """

    def __init__(
        self,
        node_id: str,
        members: list[PeerAddress],
        client: PeerClient,
        describe: Callable[[], Awaitable[Heartbeat]],
        metrics: StorageMetrics,
        *,
        news: Callable[[], object],
        incarnation: Incarnation,
        interval_s: float,
        retry_base_s: float,
    ) -> None:
        self._path = f"/v1/nodes/{node_id}/heartbeat"
        self._member_count = len(members)
        self._leader = LeaderTracker(members)
        self._client = client
        self._describe = describe
        self._news = news
        self._incarnation = incarnation
        self._metrics = metrics
        self._interval_s = interval_s
        self._start_retry = Backoff(_START_BASE_S, _START_CAP_S - _START_BASE_S, random.random)
        self._retry = Backoff(retry_base_s, _RETRY_CAP_S, random.random)
        self._is_settled = False
        self._takes_reports = False
        self.was_accepted = False
        self.refusal: str | None = None
        self._told: object = None
        self._sending = asyncio.Lock()
        """One at a time: an answer must not be taken for a later one's."""

    def start(self, tasks: BackgroundTasks) -> None:
        """Send heartbeats at their interval, and one more when there is news."""
        tasks.every("heartbeat", self._interval_s, self.beat, first_after_s=0)
        tasks.every("heartbeat on change", _CHANGE_CHECK_INTERVAL_S, self.send_news)

    async def beat(self) -> float:
        """One heartbeat, and the pause after it unless it failed: how long to wait until the next."""
        self._incarnation.heartbeat_wanted.clear()
        if not await self.send():
            return self._retry_pause_s()
        self._retry.succeeded()
        await self._pause(self._interval_s if self._is_settled else min(_UNSETTLED_S, self._interval_s))
        return 0.0

    async def send_news(self) -> None:
        """One heartbeat more, at once, when there is news, such as that the node is full."""
        if self._told is not None and self._news() != self._told:
            await self.send()

    async def _pause(self, pause_s: float) -> None:
        """Cut short when what consensus knows of this run is out of date."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._incarnation.heartbeat_wanted.wait()

    async def send(self) -> bool:
        """One heartbeat, offered to one member after another until the leader accepts it; False when none did."""
        async with self._sending:
            return await self._send()

    async def _send(self) -> bool:
        # Before the description: what changes meanwhile is told once more, and not forgotten.
        news = self._news()
        try:
            heartbeat = await self._describe()
        except (TrivetError, OSError) as error:
            # A catalog or file system that cannot be asked now may be asked later; without heartbeats the node is lost.
            logger.warning("heartbeat not sent: the node cannot describe itself", error=str(error))
            self._metrics.heartbeat_failures.inc()
            return False
        # A member that does not lead may name the leader, so each may be asked, and then be asked to be followed.
        for _ in range(2 * self._member_count):
            member = self._leader.choose(time.monotonic())
            if await self._offer(member, heartbeat if self._takes_reports else heartbeat.without_reports()):
                self._told = news
                return True
        self._metrics.heartbeat_failures.inc()
        return False

    async def _offer(self, member: PeerAddress, heartbeat: Heartbeat) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._client.call(
                    member, "POST", self._path, HeartbeatResponse, body=heartbeat, timeout_s=_TIMEOUT_S
                )
        except NotLeaderError as error:
            facts = error.facts
            self._leader.redirected(member, facts.get("leader_id"), facts.get("leader_url"), time.monotonic())
            return False
        except (ClusterMismatchError, RunSupersededError) as error:
            if isinstance(error, RunSupersededError):
                self._incarnation.supersede()
            self._record_refusal(error.message)
            self._leader.failed(member, time.monotonic(), _SUSPICION_S)
            return False
        except (TrivetError, TimeoutError, ValueError) as error:
            # A signature is refused later, too, for a moment, by a member that has just restarted.
            if isinstance(error, SignatureRejectedError) and not self.was_accepted:
                self._record_refusal(error.message)
            if isinstance(error, InvalidRequestError):
                if not self._takes_reports:
                    self._record_refusal(error.message)
                # In the middle of an upgrade a member of the version before may lead again.
                self._takes_reports = False
            logger.debug("heartbeat not accepted", member=member.id, error=str(error))
            self._leader.failed(member, time.monotonic(), _SUSPICION_S)
            return False
        self._incarnation.record(heartbeat.run, answer)
        self._record_answer(member, answer)
        return True

    def _record_answer(self, member: PeerAddress, answer: HeartbeatResponse) -> None:
        self._leader.led(member)
        self.refusal = None
        # Without admission there is nothing to record: the operator's act is waited for as long as it takes.
        is_run_recorded = answer.is_run_recorded or not answer.is_admitted
        self._is_settled = is_run_recorded and answer.takes_reports == self._takes_reports
        # A leader of an older version refuses heartbeats with more than it knows, so the first one goes without.
        self._takes_reports = answer.takes_reports
        if not self.was_accepted:
            logger.info("consensus knows this node", is_admitted=answer.is_admitted, epoch=answer.epoch)
        self.was_accepted = True

    def _record_refusal(self, reason: str) -> None:
        if self.refusal != reason:
            logger.error("consensus refuses this node", reason=reason)
        self.refusal = reason

    def _retry_pause_s(self) -> float:
        return self._retry.failed() if self.was_accepted else _START_BASE_S + self._start_retry.failed()
