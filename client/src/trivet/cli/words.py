"""Sizes, times and names as people read and write them. Pure."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTPE]?)(I?)B?", re.IGNORECASE)
_DURATION: Final = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m(?:in)?)?(?:([0-9]+)s?)?")
_DAY_S: Final = 86_400
_SHORT_S: Final = 9.95


def size(size_bytes: float) -> str:
    """`1.5 GiB`."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def parse_size(text: str) -> int:
    """Bytes of `1048576`, `1MiB`, `1M` (powers of 1024) or `1MB` (of 1000). Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no size; write it as 500MB or 10GiB.")
    number, unit, binary = found.groups()
    is_decimal = bool(unit) and not binary and text.strip().upper().endswith("B")
    power = "KMGTPE".find(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1000 if is_decimal else 1024) ** power)


def parse_duration_s(text: str) -> int:
    """Seconds of `90`, `45m`, `12h`, `7d` or `1d12h`. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if not text.strip() or not found:
        raise ValueError(f"{text!r} is no length of time; write it as 45m, 12h or 7d.")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * _DAY_S + hours * 3600 + minutes * 60 + seconds


def duration(seconds: float) -> str:
    """`1 d 4 h`, `3 min 20 s`, `12 s`, `0.4 s`."""
    if seconds < _SHORT_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = [(whole // _DAY_S, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(place for place, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 file`, `12,000 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def moment(value: datetime) -> str:
    """In the time zone of this machine, to the minute."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M")


def rfc3339(value: datetime | str) -> str:
    """In UTC. A string is one already."""
    if isinstance(value, str):
        return value
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def visible(text: str) -> str:
    """With everything escaped that would not show, or would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def width_of(text: str) -> int:
    """Columns that it takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def json_value(value: Any) -> Any:
    """For `json.dumps(default=)`."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "__struct_fields__"):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    return str(value)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode() if char != "\\" else "\\\\"
