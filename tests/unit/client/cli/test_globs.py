"""Patterns of keys and paths."""

from __future__ import annotations

import click
import pytest

from trivet.cli import globs


@pytest.mark.parametrize(
    ("pattern", "matches", "differs"),
    [
        ("a/*.txt", ["a/b.txt", "a/.txt"], ["a/b/c.txt", "a/b.txt.gz", "b.txt"]),
        ("a/**/x", ["a/x", "a/b/x", "a/b/c/x"], ["a/bx", "b/a/x"]),
        ("**", ["a", "a/b/c"], []),
        ("?.log", ["a.log"], ["/.log", "ab.log", ".log"]),
        ("[a-c]1", ["a1", "c1"], ["d1", "-1"]),
        ("[!a-c]1", ["d1"], ["a1", "/1"]),
        ("[]x]1", ["]1", "x1"], ["[1"]),
        ("star[*]", ["star*"], ["starx", "star"]),
        ("a.b+c(d)", ["a.b+c(d)"], ["axb+c(d)"]),
        ("*\n", ["a\n"], ["a"]),
    ],
)
def test_a_pattern_matches_whole_names(pattern, matches, differs) -> None:
    """`*` stays between two slashes, and nothing else of a regular expression means anything."""
    compiled = globs.compile_pattern(pattern)
    assert [name for name in matches + differs if compiled.fullmatch(name)] == matches


def test_the_literal_beginning_is_what_the_store_is_asked_for() -> None:
    assert globs.literal_prefix("2026/0[12]/*.jpg") == "2026/0"
    assert globs.literal_prefix("star[*]/x*") == "star*/x"
    assert globs.base("2026/0[12]/*.jpg") == "2026/"
    assert globs.base("*.jpg") == ""


def test_a_star_in_brackets_is_no_pattern() -> None:
    assert not globs.has_pattern("star[*].txt")
    assert globs.literal("star[*].txt") == "star*.txt"
    assert globs.has_pattern("star[*]?.txt")


def test_a_class_that_matches_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(click.UsageError, match="no pattern"):
        globs.compile_pattern("[z-a]")


def test_local_matches_leave_hidden_names_and_links_to_folders_alone(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.txt", "a/2.txt", "a/.hidden.txt", "b.txt"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = [str(path.relative_to(tmp_path)) for path in globs.local_matches(f"{tmp_path}/**/*.txt")]
    assert found == ["a/1.txt", "a/2.txt", "b.txt"]
    assert [path.name for path in globs.local_matches(f"{tmp_path}/a/.*")] == [".hidden.txt"]
