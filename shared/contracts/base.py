"""The base class of all wire models, so that its strictness is decided once.

Requests forbid unknown fields: what a service does not understand, it must not pretend to have done. Answers ignore them
(`parse_answer`), or a new field would make every caller of the version before fail.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict


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
