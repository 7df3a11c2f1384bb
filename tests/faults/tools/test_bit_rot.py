"""Flipped bits are as many as the probability says, and the same for the same seed."""

from __future__ import annotations

import random

from tests.faults.tools.bit_rot import flip_bits


def test_bits_flip_with_the_given_probability(tmp_path):
    """About a thousand of a million bytes at 1e-3, each by exactly one bit."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    flipped = flip_bits(path, 1e-3, random.Random(7))
    changed = [byte for byte in path.read_bytes() if byte]
    assert 850 < flipped < 1150
    assert len(changed) == flipped
    assert all(byte.bit_count() == 1 for byte in changed)


def test_only_the_given_part_is_touched(tmp_path):
    """First byte inclusive, last exclusive; with probability 1 every byte of it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert flip_bits(path, 1.0, random.Random(7), first=40, last=60) == 20
    body = path.read_bytes()
    assert not any(body[:40]) and all(body[40:60]) and not any(body[60:])  # noqa: PT018 one fact: the part


def test_a_seed_repeats_itself(tmp_path):
    """A failure can be seen again."""
    bodies = []
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(bytes(100_000))
        flip_bits(tmp_path / name, 1e-3, random.Random(3))
        bodies.append((tmp_path / name).read_bytes())
    assert bodies[0] == bodies[1]
