"""Who differs from whom, and who is in the minority."""

import pytest

from services.consensus.duties.state_comparison import differing


@pytest.mark.parametrize(
    ("own", "others", "who", "is_outvoted"),
    [
        ({1: "a"}, {}, [], False),
        ({1: "a"}, {"two": {1: "a"}, "three": {1: "a"}}, [], False),
        ({1: "a"}, {"two": {2: "b"}, "three": {}}, [], False),
        ({1: "a", 2: "b"}, {"two": {1: "a", 2: "x", 3: "c"}}, ["two"], False),
        ({1: "a"}, {"two": {1: "x"}, "three": {1: "a"}}, ["two"], False),
        ({1: "a"}, {"two": {1: "x"}, "three": {1: "x"}}, ["three", "two"], True),
        ({1: "a"}, {"two": {1: "x"}, "three": {1: "y"}}, ["three", "two"], False),
        ({1: "a"}, {"two": {1: "x"}, "three": {1: "x"}, "four": {1: "a"}}, ["three", "two"], False),
        ({1: "a"}, {"2": {1: "x"}, "3": {1: "x"}, "4": {1: "a"}, "5": {1: "x"}}, ["2", "3", "5"], True),
    ],
)
def test_a_member_differs_when_both_know_the_index_and_is_outvoted_by_more_than_agree(own, others, who, is_outvoted):
    """Only states at one index are compared, the latest that both know."""
    verdicts, outvoted = differing(own, others)
    assert (sorted(verdicts), outvoted) == (who, is_outvoted)
