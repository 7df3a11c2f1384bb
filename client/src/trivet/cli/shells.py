"""Completion in bash, which puts what it is given into the line as it is: whatever is in a key has to be quoted before.

zsh and fish quote by themselves. click's own script for bash also splits names at backslashes and takes stars for patterns.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from click.shell_completion import BashComplete, CompletionItem, add_completion_class

# A letter of another alphabet means nothing to a shell.
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9._/@%+=:,\-\u0080-\U0010ffff]")

_SCRIPT: Final = r"""
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain)
                COMPREPLY+=("$value")
                # A folder goes on; a space behind it would have to be taken away again.
                [[ $value != */ ]] || compopt -o nospace ;;
            file) COMPREPLY=(); compopt -o default ;;
            dir) COMPREPLY=(); compopt -o dirnames ;;
        esac
    done < <(IFS=$'\n'; env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" %(complete_var)s=bash_complete "$1")
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """As click's, for names that anybody may have chosen."""

    source_template: ClassVar[str] = _SCRIPT

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """One line for the script."""
        return f"{item.type},{quoted(item.value)}"


def register() -> None:
    """Have click take these instead of its own."""
    add_completion_class(Bash, "bash")


def quoted(name: str) -> str:
    r"""`name` as a word of bash.

    Every character by itself, behind a backslash: within quotes that somebody has begun this may be another name, but nothing of
    it is ever run, as it could be with `$'…'`.
    """
    return _SPECIAL.sub(r"\\\g<0>", name)
