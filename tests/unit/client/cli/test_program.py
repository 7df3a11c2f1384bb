"""The program itself: its commands, its options, and how it fails."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import NoReturn

import click
import pytest

from trivet.cli import main as program_module
from trivet.cli.lazy import Group
from trivet.cli.main import ENTRIES, SECTIONS, program, run
from trivet.cli.session import Options, Session


def commands(group: click.Group, path: str = "trivet"):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def test_every_command_stands_in_one_section_of_the_help() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_line_in_the_list_is_the_first_of_the_commands_help(name) -> None:
    """It stands in a table, so that the list imports nothing."""
    command = ENTRIES[name].load()
    assert (command.help or "").partition("\n")[0] == ENTRIES[name].summary


@pytest.mark.parametrize(
    ("path", "command"), list(commands(program)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_help_and_the_common_options(path, command) -> None:
    assert command.help, path
    names = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--quiet", "--verbose", "--profile", "--url", "--operations-url", "--key"} <= names, path
    mine = [parameter.name for parameter in command.params]
    assert len(set(mine)) == len(mine), f"{path}: two parameters of one name"


def test_common_options_stand_at_any_place(monkeypatch) -> None:
    """Before the command and behind it; the last one counts."""
    seen = []
    monkeypatch.setattr(click.Context, "ensure_object", lambda context, kind: context.find_object(kind))
    group = Group("trivet")

    @group.command("look")
    @click.pass_obj
    def look(session):
        """Look."""
        seen.append((session.options.json, session.options.url))

    monkeypatch.setattr(program_module, "program", group)
    for arguments in (
        ["--json", "look", "--url", "u"],
        ["--url", "u", "look", "--json"],
        ["--url", "x", "look", "--url", "u", "--json"],
    ):
        assert run(Session(), arguments) == 0
    assert seen == [(True, "u")] * 3


def failing(monkeypatch, error):
    group = Group("trivet")

    @group.command("fail")
    def fail():
        """Fail."""
        raise error

    monkeypatch.setattr(program_module, "program", group)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (click.Abort(), 130, "Interrupted."),
        (OSError(28, "No space left on device", "/x"), 1, "/x: No space left on device."),
        (RuntimeError("odd"), 1, "a defect of this program: RuntimeError: odd. -v shows where; please report it."),
    ],
)
def test_whatever_fails_is_one_line_and_no_traceback(monkeypatch, capsys, error, code, said) -> None:
    failing(monkeypatch, error)
    assert run(Session(), ["fail"]) == code
    assert capsys.readouterr() == ("", f"trivet: {said}\n")


@pytest.mark.parametrize("trusted", [{}, {"SSL_CERT_FILE": "/somewhere/ca.pem", "SSL_CERT_DIR": ""}])
async def test_what_a_person_says_about_certificates_is_there_when_it_is_asked_for(monkeypatch, trusted) -> None:
    """Also behind the import of the client, which is not to read them."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in trusted.items():
        monkeypatch.setenv(name, value)
    async with Session().client():
        assert [os.getenv(name) for name in names] == [trusted.get(name) for name in names]


@pytest.mark.parametrize(
    ("error", "found", "code"),
    [(None, 0, 0), (None, 3, 3), (BrokenPipeError(), 0, 141), (OSError(28, "full"), 0, 1), (OSError(28, "full"), 6, 6)],
)
def test_the_process_ends_when_all_is_written(monkeypatch, error, found, code) -> None:
    """And at once, with a code that tells where something could not be written."""

    class Stream(io.StringIO):
        def flush(self) -> None:
            if error is not None:
                raise error

    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(program_module, "run", lambda session, arguments: found)
    monkeypatch.setattr(program_module.gc, "set_threshold", lambda count: None)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(sys, "stdout", Stream())
    with pytest.raises(SystemExit) as ended:
        program_module.main()
    assert ended.value.code == code


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    session = Session()
    session.interrupted = "The same command goes on."
    assert run(session, ["fail"]) == 130
    assert capsys.readouterr().err == "\ntrivet: The same command goes on.\n", "behind the ^C"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "there is no command 'lss'. Did you mean ls? trivet --help shows all."),
        (["cp"], "Missing argument 'SOURCE...'. trivet cp --help shows how to call it."),
        (["cat", "photos"], "'photos' names a bucket and no file in it; write trivet://photos/KEY."),
        (["cp", "./a", "./b"], "both are on this machine."),
        (["sync", "trivet://b/*", "./x"], "is a pattern"),
        (["share", "b/k", "--for", "8d"], "seven days"),
        (["cat", "b/k", "--range", "x"], "is no range"),
        (["keys", "create", "n", "--allow", "fly@b"], "'fly' is no action"),
        (["keys", "create", "n"], "it could do nothing"),
        (["profile", "add", "n"], "needs the address"),
        (["rm", "b/*", "--version", "3"], "--version is of one file"),
    ],
)
def test_a_wrong_call_is_found_before_anything_is_asked(capsys, arguments, said) -> None:
    """The code is 2, and no client was opened."""
    session = Session()
    session.client = None
    assert run(session, arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["keys"], ["buckets"]])
def test_a_group_without_a_command_shows_its_help(capsys, arguments) -> None:
    """As `--help` does, lines and all; nothing was asked for, so it is no result and no success."""
    assert run(Session(), [*arguments, "--help"]) == 0
    said = capsys.readouterr().out
    assert run(Session(), arguments) == 2
    assert capsys.readouterr() == ("", said)


def test_a_group_without_a_command_is_one_document_with_json(capsys) -> None:
    """Of which a program reads every line."""
    assert run(Session(), ["--json", "keys"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


async def test_what_the_client_logs_is_a_remark_of_the_program(capsys) -> None:
    """Such as that it waits for the store; not with --quiet, and not behind the end of the client."""
    for options in (Options(), Options(quiet=True)):
        async with Session(options).client():
            logging.getLogger("trivet").warning("%s; trying again.", "it refuses")
    assert capsys.readouterr().err == "trivet: it refuses; trying again.\n"


def test_the_reader_of_a_pipe_may_go_away(monkeypatch, capfd) -> None:
    monkeypatch.setattr(program_module, "_silence", lambda stream: None)
    failing(monkeypatch, BrokenPipeError())
    assert run(Session(), ["fail"]) == 141
    assert capfd.readouterr() == ("", "")
