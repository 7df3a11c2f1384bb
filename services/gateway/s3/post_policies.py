"""The policy of a browser's form: what it says, and whether a form keeps to it. Pure.

Source: "Creating a POST Policy (AWS Signature Version 4)" of the S3 API reference. The policy is all that is signed of a form,
so every field must be one that it speaks of. The bucket that counts is that of the URL, and the key the one that is used: a form
that names others proves nothing about them (CVE-2023-43040, CVE-2023-28434).
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from services.gateway.s3.errors import S3Error

_UNSIGNED: Final = frozenset({"policy", "x-amz-signature", "file"})
_IGNORED: Final = "x-ignore-"
_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?Z")
_SIZE: Final = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Condition:
    """Of the field `name`, in lower case: it is `value`, or begins with it."""

    name: str
    value: str
    is_prefix: bool = False

    def holds(self, values: Mapping[str, str]) -> bool:
        """A field that is not there is empty."""
        found = values.get(self.name, "")
        return found.startswith(self.value) if self.is_prefix else found == self.value


@dataclass(frozen=True, slots=True)
class PostPolicy:
    """What a form may say until `expires_s`, in Unix seconds; and how long its file may be, in bytes."""

    expires_s: float
    conditions: tuple[Condition, ...]
    least_bytes: int = 0
    most_bytes: int | None = None

    def check(self, fields: Mapping[str, str], *, bucket: str, key: str, now_s: float) -> None:
        """Return when the form keeps to it.

        Args:
            fields: by lower-case names.
            bucket, key: those that are used.
            now_s: the latest that true time may be.

        Raises:
            S3Error: AccessDenied.
        """
        if now_s >= self.expires_s:
            raise _denied("Policy expired.")
        if fields.get("bucket", bucket) != bucket:
            raise _denied("The field bucket names another bucket than the URL.")
        values = {**fields, "bucket": bucket, "key": key}
        covered = {condition.name for condition in self.conditions}
        for name in values:
            if name not in covered and name not in _UNSIGNED and not name.startswith(_IGNORED):
                raise _denied(f"Extra input fields: {name[:64]}")
        for condition in self.conditions:
            if not condition.holds(values):
                raise _denied(f"Policy Condition failed: {condition.name[:64]}")


def post_policy(text: str) -> PostPolicy:
    """The policy in the field of that name: JSON in base64.

    Raises:
        S3Error: InvalidPolicyDocument.
    """
    try:
        policy = json.loads(b64decode(text, validate=True), object_pairs_hook=_once, parse_constant=_malformed)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _invalid("It is not JSON in base64.") from error
    if not isinstance(policy, dict) or policy.keys() != {"expiration", "conditions"}:
        raise _invalid("It has expiration and conditions, and nothing else.")
    expiration, conditions = policy["expiration"], policy["conditions"]
    if not isinstance(expiration, str) or not _MOMENT.fullmatch(expiration) or not isinstance(conditions, list):
        raise _invalid("expiration is a moment in UTC, and conditions are a list.")
    try:
        # Fractions of more than six digits are cut off, which is earlier.
        expires_s = datetime.fromisoformat(expiration).timestamp()
    except ValueError as error:
        raise _invalid("expiration is no moment.") from error
    found: list[Condition] = []
    least_bytes, most_bytes = 0, None
    for each in conditions:
        if isinstance(each, dict):
            found += [Condition(name.lower(), _text(value)) for name, value in each.items()]
        elif not isinstance(each, list) or len(each) != 3:
            raise _invalid("A condition is an object, or a list of three.")
        elif each[0] == "content-length-range":
            least, most = _size(each[1]), _size(each[2])
            least_bytes, most_bytes = max(least_bytes, least), most if most_bytes is None else min(most_bytes, most)
        else:
            found.append(_condition(*map(_text, each)))
    return PostPolicy(expires_s, tuple(found), least_bytes, most_bytes)


def _condition(operator: str, name: str, value: str) -> Condition:
    if operator not in {"eq", "starts-with"} or not name.startswith("$"):
        raise _invalid("A condition is eq, starts-with or content-length-range, of a $field.")
    return Condition(name[1:].lower(), value, is_prefix=operator == "starts-with")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _malformed(text: str) -> NoReturn:
    raise ValueError(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _invalid("The value of a condition is a text.")
    return value


def _size(value: object) -> int:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _SIZE.fullmatch(text):
        raise _invalid("content-length-range has two numbers of bytes.")
    return int(text)


def _invalid(message: str) -> S3Error:
    return S3Error(
        "InvalidPolicyDocument", f"The content of the form does not meet the conditions of a policy. {message}"
    )


def _denied(message: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {message}")
