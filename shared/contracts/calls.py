"""Queries that know the type of their answer, and commands that know that of their result.

    class GetBucket(Query[BucketAnswer]): ...
    answer, context = await client.read(GetBucket(bucket="default"))   # answer: BucketAnswer

What came over the wire is checked against that type in one place (`answer_to`, `Proposed.of`), by the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import ValidationError

from shared.contracts.base import WireModel
from shared.errors import InternalError

AnswerT = TypeVar("AnswerT", bound=WireModel)
ResultT = TypeVar("ResultT", bound=WireModel)


class Query(WireModel, Generic[AnswerT]):
    """A question to the state machine. Each kind is a subclass of `Query[its answer]`."""

    answer_type: ClassVar[type[WireModel]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if arguments := cls.__pydantic_generic_metadata__["args"]:
            cls.answer_type = arguments[0]


class Command(WireModel, Generic[ResultT]):
    """A change of the state machine. Each kind is a subclass of `Command[its result]`."""

    result_type: ClassVar[type[WireModel]]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if arguments := cls.__pydantic_generic_metadata__["args"]:
            cls.result_type = arguments[0]


class NoResult(WireModel):
    """The result of a command that has nothing to say but that it was applied."""


@dataclass(frozen=True, slots=True)
class Proposed(Generic[ResultT]):
    """A command that was applied, or had been applied under the same request id: by the entry at `log_index` of `term`."""

    log_index: int
    term: int
    result: ResultT

    @classmethod
    def of(
        cls, kind: type[Command[ResultT]], log_index: int, term: int, fields: Mapping[str, Any] | None
    ) -> Proposed[ResultT]:
        """From the JSON of the result of a command of that `kind`, without the fields that this version does not know.

        Raises:
            InternalError: it is no such result. The command was applied all the same: not definite.
        """
        try:
            result: Any = kind.result_type.model_validate(fields, extra="ignore")
        except ValidationError as error:
            raise InternalError("Consensus sent another result than that of the command.") from error
        return Proposed(log_index, term, result)


def answer_to(query: Query[AnswerT], answer: WireModel) -> AnswerT:
    """`answer` as what was asked for.

    Raises:
        InternalError: it answers another question; definite, since a read changes nothing.
    """
    if not isinstance(answer, query.answer_type):
        raise InternalError("Consensus answered another question than was asked.", definite=True)
    return cast("AnswerT", answer)
