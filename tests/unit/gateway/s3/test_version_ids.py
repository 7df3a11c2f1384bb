"""Version ids that clients keep."""

from __future__ import annotations

import random

import pytest

from services.gateway.s3.errors import S3Error
from services.gateway.s3.version_ids import VersionIds

IDS = VersionIds("a" * 32)
PINNED = ["cf9b33c42a90aeba", "52c47c8d8e274088", "7957a247f1222006"]


def test_an_id_opens_to_the_version_that_it_was_made_of() -> None:
    chance = random.Random(3)
    versions = [1, 2, 3, 2**32 - 1, 2**32, 2**63 - 1, *(chance.randrange(1, 2**63) for _ in range(500))]
    sealed = [IDS.seal(version, is_null=False) for version in versions]
    assert [IDS.open(text) for text in sealed] == versions
    assert len(set(sealed)) == len(set(versions))
    assert all(len(text) == 16 for text in sealed)


def test_ids_stay_what_they_are() -> None:
    """Clients keep them: a change of the permutation would lose every version that they know."""
    assert [IDS.seal(version, is_null=False) for version in (1, 2, 123_456_789)] == PINNED


def test_the_null_version_is_called_so() -> None:
    assert IDS.seal(7, is_null=True) == "null"
    assert IDS.open("null") == "null"


@pytest.mark.parametrize("text", ["", "x", "0" * 15, "0" * 17, "G" * 16, "ABCDEF0123456789", "NULL", "\u0660" * 16])
def test_what_no_version_is_called_is_an_invalid_argument(text) -> None:
    with pytest.raises(S3Error) as refused:
        IDS.open(text)
    assert refused.value.code == "InvalidArgument"


def test_an_id_of_another_cluster_names_no_version_of_this_one() -> None:
    """It opens to a number that is out of reach, or to none."""
    other = VersionIds("b" * 32)
    opened = [_opened(other.seal(version, is_null=False)) for version in range(1, 200)]
    assert all(version is None or version > 2**32 for version in opened)


def _opened(text: str) -> int | None:
    """None where the id names no version of this cluster."""
    try:
        version = IDS.open(text)
    except S3Error:
        return None
    assert version != "null"
    return version
