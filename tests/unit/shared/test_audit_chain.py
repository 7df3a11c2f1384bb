"""Chained lines: whatever is done to them is found, and nothing in a row can pass for a line of its own."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shared.audit_chain import (
    NO_LINK,
    ChainBrokenError,
    ChainPoint,
    encode_row,
    follow,
    next_link,
    split_line,
    to_line,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


class Row(msgspec.Struct):
    index: int
    key: str


def chain(keys: list[str], *, step: int = 3) -> list[bytes]:
    lines, link = [], NO_LINK
    for number, key in enumerate(keys, start=1):
        row = encode_row(Row(number * step, key))
        link = next_link(link, row)
        lines.append(to_line(link, row))
    return lines


def test_a_link_is_the_hash_of_the_link_before_and_the_bytes_of_the_row():
    """As the documentation says, so that others can check a chain: with these exact bytes."""
    [first, second] = chain(["a", "b"])
    link = blake3(bytes(32) + b'{"index":3,"key":"a"}').digest()
    assert first == b'{"link":"%b","row":{"index":3,"key":"a"}}\n' % link.hex().encode()
    after = blake3(link + b'{"index":6,"key":"b"}').hexdigest()
    assert second == b'{"link":"%b","row":{"index":6,"key":"b"}}\n' % after.encode()


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("plain/~", b"plain/~"),
        ('quo"te\\', b'quo\\"te\\\\'),
        ("a\nb\r\t\x00\x1b[2J", b"a\\nb\\r\\t\\u0000\\u001b[2J"),
        ("\x7f", b"\\u007f"),
        ("ä\u2028\x85\x9b", b"\\u00e4\\u2028\\u0085\\u009b"),
        ("\U0001f600", b"\\ud83d\\ude00"),
    ],
)
def test_a_row_is_written_with_these_bytes_for_ever(key, written):
    """Members of all versions must come to the same bytes, and an exported file must stay provable."""
    assert encode_row(Row(1, key)) == b'{"index":1,"key":"%b"}' % written


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_nothing_in_a_row_ends_its_line(keys):
    """One line for each row, of printable ASCII, that reads back as it was."""
    lines = chain(keys)
    whole = b"".join(lines)
    assert all(32 <= byte < 127 or byte == 10 for byte in whole)
    assert [json.loads(line)["row"]["key"] for line in whole.decode("ascii").splitlines()] == keys
    assert follow(ChainPoint(), lines).index == 3 * len(keys)


@st.composite
def tampered(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], bytes]:
    """A chain, what became of it, and its last link, as somebody else knows it."""
    keys = draw(st.lists(TEXTS, min_size=2, max_size=8))
    lines = chain(keys)
    at = draw(st.integers(0, len(lines) - 1))
    changed = list(lines)
    match draw(st.sampled_from(["change", "relink", "remove", "swap", "insert", "repeat", "cut"])):
        case "change":
            link, row = split_line(lines[at])
            changed[at] = to_line(link, row.replace(b'"key":"', b'"key":"x', 1))
        case "relink":
            # With its own link made to fit: the next one does not, or the end differs.
            _, row = split_line(lines[at])
            before = split_line(lines[at - 1])[0] if at else NO_LINK
            row = row.replace(b'"key":"', b'"key":"x', 1)
            changed[at] = to_line(next_link(before, row), row)
        case "remove":
            del changed[at]
        case "swap":
            other = draw(st.integers(0, len(lines) - 1).filter(lambda other: other != at))
            changed[at], changed[other] = changed[other], changed[at]
        case "insert":
            before = split_line(lines[at - 1])[0] if at else NO_LINK
            row = encode_row(Row(3 * at + 1, "x"))
            changed.insert(at, to_line(next_link(before, row), row))
        case "repeat":
            changed.insert(at, lines[at])
        case "cut":
            changed = changed[:at]
    return lines, changed, split_line(lines[-1])[0]


@given(tampered())
def test_whatever_is_changed_is_found(case):
    """A row that is changed, removed, moved or put in breaks the chain, or it ends at another link than the known one."""
    lines, changed, known_link = case
    assert follow(ChainPoint(), lines).link == known_link
    try:
        end = follow(ChainPoint(), changed)
    except ChainBrokenError:
        return
    assert end.link != known_link


def test_a_chain_can_be_checked_from_any_of_its_points():
    """What was cut is proved by the link at which the rest begins."""
    lines = chain(list("abcdef"))
    whole = follow(ChainPoint(), lines)
    for at in range(len(lines) + 1):
        middle = follow(ChainPoint(), lines[:at])
        assert follow(middle, lines[at:]) == whole


def test_the_message_names_the_first_index_that_does_not_fit():
    """So that the place is found in a file of a gigabyte."""
    lines = chain(list("abcd"))
    with pytest.raises(ChainBrokenError, match=r"^index 9: its link does not follow that of index 3$"):
        follow(ChainPoint(), [lines[0], lines[2], lines[3]])
    with pytest.raises(ChainBrokenError, match=r"^index 3: it stands behind index 6$"):
        follow(ChainPoint(), [lines[0], lines[1], lines[0]])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}",
        b"no json",
        b'{"link":"' + b"0" * 64 + b'","row":{}',
        b'{"link":"' + b"g" * 64 + b'","row":{}}',
        b'{"link":"' + b"0" * 62 + b'","row":{}}',
        b' {"link":"' + b"0" * 64 + b'","row":{}}',
        b'{"link":"' + b"0" * 64 + b'","row":{"key":1}}',
    ],
)
def test_what_is_no_line_is_refused(line):
    """Typed, whatever it is."""
    with pytest.raises(ChainBrokenError):
        follow(ChainPoint(), [line])


@given(st.binary(max_size=120))
def test_any_bytes_are_a_line_or_refused(noise):
    """No other error comes out of a file from elsewhere."""
    for line in (noise, b'{"link":"' + noise, b'{"link":"' + b"0" * 64 + b'","row":' + noise + b"}}"):
        try:
            follow(ChainPoint(), [line])
        except ChainBrokenError:
            continue


def test_rows_of_a_chain_are_told_apart_by_what_stands_before():
    """Equal rows have different links."""
    links = [split_line(line)[0] for line in chain(["a"] * 5, step=1)]
    assert all(one != other for one, other in pairwise(sorted(links)))
