"""`trivet completion`: what makes a shell complete commands, buckets and keys."""

from __future__ import annotations

import click

from trivet.cli.lazy import Command
from trivet.cli.session import Session

_HOW = {
    "bash": 'Add to ~/.bashrc:  eval "$(trivet completion bash)"',
    "zsh": 'Add to ~/.zshrc:  eval "$(trivet completion zsh)"',
    "fish": "Once:  trivet completion fish > ~/.config/fish/completions/trivet.fish",
}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(_HOW)))
@click.pass_obj
def completion(session: Session, shell: str) -> None:
    r"""Print what makes a shell complete commands, options, buckets and keys.

    \b
    bash   eval "$(trivet completion bash)"     in ~/.bashrc
    zsh    eval "$(trivet completion zsh)"      in ~/.zshrc
    fish   trivet completion fish > ~/.config/fish/completions/trivet.fish
    """
    from click.shell_completion import get_completion_class

    from trivet.cli import shells
    from trivet.cli.main import COMPLETE_VARIABLE, program

    shells.register()
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(program, {}, "trivet", COMPLETE_VARIABLE).source().strip()
    session.output.result(script)
    if session.output.is_terminal:
        session.output.say(_HOW[shell])
