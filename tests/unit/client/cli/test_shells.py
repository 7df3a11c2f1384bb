"""What a shell gets to complete."""

from __future__ import annotations

import subprocess

import pytest

from trivet.cli.shells import quoted


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_no_name_is_more_than_a_word_to_bash(tmp_path, quote, locale) -> None:
    """Each is the word that it was; within quotes it may be another one, and nothing of it is run."""
    command = "touch\u00a0RUN;touch RUN"
    names = [f"a$({command})", f"ä`{command}`", f'"$({command})', f"'\"$({command})ä", f"\\$({command})", f";{command}"]
    names += [
        f"&{command}&",
        f"|{command}",
        f">{command}",
        f"<({command})",
        "~",
        "{a,b}",
        "*",
        "?[a]",
        "a b,c!!",
        "#",
        "a\\",
    ]
    words = " ".join(f"{quote}b/{quoted(name)}{quote}" for name in names)
    environment = {"LC_ALL": locale, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
        timeout=5,
    )
    assert list(tmp_path.iterdir()) == []
    if not quote:
        assert done.stdout.decode().split("\0")[:-1] == [f"b/{name}" for name in names]
