"""The base class of all wire models, so that its strictness is decided once.

Requests forbid unknown fields: what a service does not understand, it must not pretend to have done. Answers ignore them
(`parse_answer`), or a new field would make every caller of the version before fail.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import msgspec
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, PlainSerializer, PlainValidator, WithJsonSchema


class WireModel(BaseModel):
    """Immutable, refuses unknown fields, carries bytes as base64 in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    @classmethod
    def parse_answer(cls, content: bytes | bytearray) -> Self:
        """The JSON answer of a peer, without the fields that this version does not know.

        Raises:
            pydantic.ValidationError: it is no such answer.
        """
        return cls.model_validate_json(content, extra="ignore")


class WireRow(msgspec.Struct, frozen=True, gc=False):
    """What an answer carries by the thousand: made, written and read in a tenth of what a model costs.

    In JSON it is an object, as a model is, and fields that are not known are ignored. Models may have fields of it, and rows may
    have rows in them. Bytes are base64 of the standard alphabet.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """For models that contain rows: how to check, write and describe them."""
        row = Annotated[
            Any, PlainValidator(cls._of), PlainSerializer(msgspec.to_builtins), WithJsonSchema(_described(cls))
        ]
        return handler.generate_schema(row)

    @classmethod
    def _of(cls, value: Any) -> Self:
        try:
            return value if isinstance(value, cls) else msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error


def _described(row: type[WireRow]) -> dict[str, Any]:
    """The JSON schema of a row, with those of the rows in it where they stand: nothing else defines them."""
    definitions = msgspec.json.schema(row)["$defs"]

    def inline(schema: Any) -> Any:
        if isinstance(schema, list):
            return [inline(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        if "$ref" in schema:
            return inline(definitions[schema["$ref"].rpartition("/")[2]])
        return {name: inline(value) for name, value in schema.items()}

    described: dict[str, Any] = inline(definitions[row.__name__])
    return described
