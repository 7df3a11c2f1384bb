"""Metadata that asks the policy first: every read and every change of a gateway goes through here.

A read is decided, asked, and decided again if its answer says that somebody's rights changed since; only then is it handed
out. So whatever is answered out of a cache after such a question, a record or a chunk, goes to who may have it now. A change
carries whom it is made for and by which rows that was decided; where they have changed the log refuses it, and it is decided
and proposed anew.

What Trivet does by itself says so (`as_system`). Without anything said, nothing is read or changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, cast, get_args

from services.gateway.access.context import AccessContext, current_access
from services.gateway.access.control import AccessControl, Decision
from services.gateway.access.policy import sees_bucket
from services.gateway.access.principal import ITSELF
from services.gateway.access.requirements import COMMANDS, QUERIES, Requirement, UploadCommand, names_to_show
from services.gateway.access.visible_lists import read_visible, visible_buckets
from services.gateway.access_log import About
from services.gateway.ports import Metadata
from services.gateway.semantics.raw_names import FileName
from shared.consensus_calls.client import DEFAULT_RETAIN_S, ReadContext
from shared.contracts.access import Action, Requester
from shared.contracts.base import WireModel
from shared.contracts.calls import AnswerT, Command, Proposed, Query, ResultT
from shared.contracts.files import FileVersion, Published
from shared.contracts.metadata import BucketsAnswer
from shared.contracts.uploads import BeginUpload, BegunUpload, CompleteUpload, GetUpload, Upload, UploadAnswer
from shared.errors import AccessChangedError, AccessDeniedError, InternalError, UnauthenticatedError, UnavailableError

ATTEMPTS_MAX: Final = 4
_UPLOADS_MAX: Final = 4096

_UPLOAD_COMMANDS: Final[frozenset[type]] = frozenset(get_args(UploadCommand))
_NAMED_BY_RESULT: Final[frozenset[type]] = frozenset({BeginUpload, CompleteUpload})
_DECIDED_BY_ANSWER: Final[frozenset[type]] = frozenset({UploadAnswer, BucketsAnswer})
"""Looked up by type first: to ask a model whether it is an instance costs more than the decision."""

_UploadKey = tuple[int, str]
"""Index and nonce."""


class AuthorizedMetadata:
    """`ports.Metadata` in front of another one, for whoever `context.current_access` says."""

    def __init__(self, metadata: Metadata, control: AccessControl) -> None:
        self._metadata = metadata
        self._control = control
        self._uploads: OrderedDict[_UploadKey, FileName] = OrderedDict()
        """What files they will be, which never changes; the most recently used last."""

    def forget(self) -> None:
        """Begin anew: for another cluster."""
        self._uploads.clear()

    async def propose(
        self,
        command: Command[ResultT],
        *,
        request_id: str | None = None,
        retain_s: int = DEFAULT_RETAIN_S,
        fingerprint: str | None = None,
        requester: Requester | None = None,  # noqa: ARG002 it is that of the context, whatever the caller says
        deadline_s: float | None = None,
    ) -> Proposed[ResultT]:
        """As `Metadata.propose`.

        Raises:
            AccessDeniedError, UnauthenticatedError: the principal may not do this, or not any more; definite.
            TrivetError: as `Metadata.propose`.
        """
        context = current_access()
        try:
            return await self._propose(
                context,
                command,
                request_id=request_id,
                retain_s=retain_s,
                fingerprint=fingerprint,
                deadline_s=deadline_s,
            )
        except (AccessDeniedError, UnauthenticatedError) as error:
            self._count_refusal(context, error)
            raise

    async def _propose(
        self,
        context: AccessContext,
        command: Command[ResultT],
        *,
        request_id: str | None,
        retain_s: int,
        fingerprint: str | None,
        deadline_s: float | None,
    ) -> Proposed[ResultT]:
        attempts_left = ATTEMPTS_MAX
        while True:
            attempts_left -= 1
            await self._authorize(context, command)
            try:
                outcome = await self._metadata.propose(
                    command,
                    request_id=request_id,
                    retain_s=retain_s,
                    fingerprint=fingerprint,
                    requester=context.requester(),
                    deadline_s=deadline_s,
                )
            except AccessChangedError:
                if attempts_left == 0 or context.principal is ITSELF:
                    raise
                await self._control.after_change(context)
                continue
            if type(command) not in _NAMED_BY_RESULT:
                return outcome
            if isinstance(command, BeginUpload) and isinstance(outcome.result, BegunUpload):
                self._learn((outcome.result.upload, command.nonce), FileName(command.bucket, command.key))
            elif isinstance(command, CompleteUpload) and isinstance(outcome.result, Published):
                # One that was no longer under way has only given the answer of the first time.
                await self._require_write(context, _name_of(outcome.result.version))
            return outcome

    async def read(self, query: Query[AnswerT], *, deadline_s: float | None = None) -> tuple[AnswerT, ReadContext]:
        """As `Metadata.read`.

        Raises:
            AccessDeniedError, UnauthenticatedError: the principal may not do this, or not any more; definite.
            TrivetError: as `Metadata.read`.
        """
        context, asked_s = current_access(), time.monotonic()
        if context.principal is ITSELF:
            answer, read = await self._metadata.read(query, deadline_s=deadline_s)
            self._control.table.heard(read.access_index, asked_s)
            return answer, read
        try:
            return await self._read(context, query, asked_s, deadline_s)
        except (AccessDeniedError, UnauthenticatedError) as error:
            self._count_refusal(context, error)
            raise

    async def _read(
        self, context: AccessContext, query: Query[AnswerT], asked_s: float, deadline_s: float | None
    ) -> tuple[AnswerT, ReadContext]:
        control = self._control
        decision = partial(_requirement(QUERIES, type(query)), asked=query)
        for _ in range(ATTEMPTS_MAX):
            if not control.is_allowed(context, decision):
                await control.decide(context, decision)
            names = names_to_show(context, query)
            answer: AnswerT
            if names is None:
                answer, read = await self._metadata.read(query, deadline_s=deadline_s)
            else:
                answer, read = await read_visible(self._metadata, cast("Any", query), names)
            control.table.heard(read.access_index, asked_s)
            if not control.is_current(context, read.access_index):
                await control.decide_again(context, decision, read.access_index)
            if names_to_show(context, query) != names:
                # A list that was read for less, or more, than the principal may see now.
                continue
            if type(answer) in _DECIDED_BY_ANSWER:
                return cast("AnswerT", await self._shown(context, answer)), read
            return answer, read
        raise UnavailableError("Who may see what changed with every attempt.", definite=True, retry_after_s=1)

    def _count_refusal(self, context: AccessContext, error: AccessDeniedError | UnauthenticatedError) -> None:
        about = About(action=error.facts.get("action", ""), bucket=error.facts.get("bucket", ""))
        self._control.refusals.refused(error.code, context, about)

    async def _authorize(self, context: AccessContext, command: Command[Any]) -> None:
        if context.principal is ITSELF:
            return
        decision = partial(_requirement(COMMANDS, type(command)), asked=command)
        if not self._control.is_allowed(context, decision):
            await self._control.decide(context, decision)
        if type(command) not in _UPLOAD_COMMANDS:
            return
        if isinstance(command, UploadCommand) and (name := await self._name_of_upload(command)) is not None:
            # Both by the rows that the log is told of: they may have become others while the name was asked for.
            await self._control.decide(context, partial(_decide_both, decision=decision, name=name))

    async def _require_write(self, context: AccessContext, name: FileName) -> None:
        await self._control.decide(context, lambda context: context.require(Action.WRITE, name.bucket, name.key))

    async def _name_of_upload(self, command: UploadCommand) -> FileName | None:
        """The file that an upload will be; None where it is not under way, and the command can have no effect any more."""
        key = (command.upload, command.nonce)
        if (name := self._uploads.get(key)) is not None:
            self._uploads.move_to_end(key)
            return name
        answer, _ = await self._metadata.read(GetUpload(upload=command.upload, nonce=command.nonce, limit=1))
        return None if answer.upload is None else self._learn(key, _name_of(answer.upload))

    def _learn(self, key: _UploadKey, name: FileName) -> FileName:
        self._uploads[key] = name
        if len(self._uploads) > _UPLOADS_MAX:
            self._uploads.popitem(last=False)
        return name

    async def _shown(self, context: AccessContext, answer: WireModel) -> WireModel:
        """What of an answer the principal may see."""
        if isinstance(answer, UploadAnswer) and answer.upload is not None:
            upload = answer.upload
            await self._require_write(context, self._learn((upload.upload, upload.nonce), _name_of(upload)))
        elif isinstance(answer, BucketsAnswer):
            return await visible_buckets(self._metadata, answer, partial(sees_bucket, context.principal))
        return answer


def _requirement(table: Mapping[type, Requirement], kind: type) -> Requirement:
    requirement = table.get(kind)
    if requirement is None:
        raise InternalError(f"Nothing says what {kind.__name__} needs.")
    return requirement


def _decide_both(context: AccessContext, decision: Decision, name: FileName) -> None:
    decision(context)
    context.require(Action.WRITE, name.bucket, name.key)


def _name_of(made: Upload | FileVersion) -> FileName:
    return FileName(made.bucket, made.key)
