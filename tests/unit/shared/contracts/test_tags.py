"""How many tags a version may have, and how long: both sides of every edge."""

from __future__ import annotations

import pytest

from shared.contracts.names import TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX, check_tags
from shared.errors import InvalidTagsError


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {f"tag {number}": "" for number in range(TAGS_MAX)},
        {"k" * TAG_NAME_MAX: "v" * TAG_VALUE_MAX},
        {"é" * TAG_NAME_MAX: "é" * TAG_VALUE_MAX},
    ],
)
def test_what_a_version_may_have(tags) -> None:
    """They are returned as they are; lengths are in characters."""
    assert check_tags(tags) is tags


@pytest.mark.parametrize(
    "tags",
    [
        {f"tag {number}": "" for number in range(TAGS_MAX + 1)},
        {"": "no name"},
        {"k" * (TAG_NAME_MAX + 1): ""},
        {"k": "v" * (TAG_VALUE_MAX + 1)},
        {"line\n": ""},
        {"k": "\x00"},
        {"k": "\ud800"},
    ],
)
def test_what_a_version_may_not_have(tags) -> None:
    """One typed error, whatever it is."""
    with pytest.raises(InvalidTagsError) as caught:
        check_tags(tags)
    assert caught.value.definite
