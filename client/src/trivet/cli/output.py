"""What the program prints: results on standard output, everything else on standard error.

Results are records with stable field names. A terminal gets a table of them, sizes and times for people in it; anything else gets
lines with tabs and no heading, sizes in bytes and times in RFC 3339; `--json` gives the records themselves. Rows are printed as
they come: a list of a million files needs no more memory than one of a hundred.

A name from the store may have any character in it, also those that steer a terminal, and so may what a server says: these are
shown escaped, in JSON as JSON does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO

import click

from trivet.cli import words

Record = Mapping[str, Any]

_ROWS_AT_ONCE: Final = 500
_GAP: Final = 2
COLOURS: Final = {"good": "green", "warn": "yellow", "bad": "red", "dim": "bright_black", "strong": "cyan"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        field: of the records.
        kind: `text`, `bytes`, `time`, `count` or `yes` (shown by its name where it is true): how a value is written.
        title: on a terminal; the field's name with spaces if not given.
        is_minor: left out on a terminal that is too narrow, the last one first.
        colour: of a value, a name of `COLOURS`, or None.
    """

    field: str
    kind: str = "text"
    title: str | None = None
    is_minor: bool = False
    colour: Callable[[Any], str | None] | None = None

    @property
    def is_right(self) -> bool:
        """Whether it is aligned to the right."""
        return self.kind in {"bytes", "count"}

    @property
    def heading(self) -> str:
        """What stands above it on a terminal."""
        return self.label.upper()

    @property
    def label(self) -> str:
        """What stands before it, where each field has a line."""
        text = self.title if self.title is not None else self.field.replace("_", " ")
        return text[:1].upper() + text[1:]


class Output:
    """The two streams of one call."""

    def __init__(
        self,
        *,
        is_json: bool = False,
        is_quiet: bool = False,
        is_verbose: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose
        self._out = stdout or sys.stdout
        self._err = stderr or sys.stderr
        self.is_terminal = self._out.isatty()
        self.shows_progress = self._err.isatty() and not is_quiet and not _is_dumb()
        self._has_colour = self.is_terminal and _may_colour()
        self._err_has_colour = self._err.isatty() and _may_colour()

    @property
    def width(self) -> int:
        """Of the terminal, in characters."""
        return shutil.get_terminal_size().columns

    def record(self, record: Record, columns: Sequence[Column]) -> None:
        """One thing: a line for each of its fields, or one JSON document."""
        if self.is_json:
            self._write(json_text(record))
            return
        shown = [column for column in columns if record.get(column.field) is not None]
        width = max((len(column.heading) for column in shown), default=0) + _GAP
        for column in shown:
            value = record[column.field]
            if self.is_terminal:
                title = self._paint(column.label.ljust(width), "dim")
                self._write(
                    title + self._paint(_for_people(value, column.kind), column.colour and column.colour(value))
                )
            else:
                self._write(f"{column.field}\t{_for_programs(value, column.kind)}")

    def records(self, records: Iterable[Record], columns: Sequence[Column], *, has_heading: bool = True) -> None:
        """Several things, a row or a JSON line for each."""
        table = self.table(columns, has_heading=has_heading)
        for record in records:
            table.add(record)
        table.finish()

    def table(self, columns: Sequence[Column], *, has_heading: bool = True) -> Table:
        """As `records`, for rows that come one by one."""
        return Table(self, columns, has_heading=has_heading)

    def result(self, text: str) -> None:
        """A line of standard output that is the result itself, such as a link."""
        self._write(text)

    def fields(self, *values: object) -> None:
        """A line of standard output for programs, with tabs between its fields."""
        self._write("\t".join(words.visible(str(value)) for value in values))

    def paragraph(self, sign: str, text: str, colour: str | None = None) -> None:
        """A sign and a sentence behind it, broken at words where the terminal ends."""
        space = " " * (words.width_of(sign) + 1)
        lines = textwrap.wrap(
            words.visible(text), max(self.width - len(space), 20), break_long_words=False, break_on_hyphens=False
        )
        for place, line in enumerate(lines or [""]):
            self._write(f"{self._paint(sign, colour)} {line}" if not place else space + line)

    def document(self, document: Any) -> None:
        """One JSON document, or one line of several."""
        self._write(json_text(document))

    def say(self, text: str) -> None:
        """A remark on standard error; not with `--quiet`."""
        if not self.is_quiet:
            self._complain(words.visible(text))

    def acknowledge(self, text: str) -> None:
        """As `say`, where a person looks on: what a script has from the code that the program ends with."""
        if self.is_terminal and not self.is_json:
            self.say(text)

    def warn(self, text: str) -> None:
        """What went wrong and did not stop the rest."""
        shown = words.visible(text)
        self._complain(click.style(shown, fg=COLOURS["warn"]) if self._err_has_colour else shown)

    def fail(self, text: str, code: int, problem: Record | None = None) -> None:
        """What stopped it, and the code that the program ends with; with `--json` as a document, too, on standard error."""
        if self.is_json:
            self._complain(json_text({"error": {"message": text, "exit_code": code, "problem": problem}}))
            return
        label = "trivet: "
        painted = click.style(label, fg=COLOURS["bad"], bold=True) if self._err_has_colour else label
        self._complain(painted + words.visible(text))
        if problem and self.is_verbose:
            self._complain(json_text(problem))

    def fail_one(self, name: str, text: str, code: int, problem: Record | None = None) -> None:
        """As `fail`, for one of several files; the others go on."""
        if self.is_json:
            self._complain(json_text({"error": {"name": name, "message": text, "exit_code": code, "problem": problem}}))
            return
        self.warn(f"trivet: {name}: {text}")
        if problem and self.is_verbose:
            self._complain(json_text(problem))

    def paint(self, text: str, colour: str | None) -> str:
        """For `result`: with the colour of that name, where there are colours."""
        return self._paint(text, colour)

    def flush(self) -> None:
        """Raises BrokenPipeError: the reader went away."""
        self._out.flush()

    def _paint(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=COLOURS[colour]) if colour and self._has_colour else text

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")

    def _complain(self, text: str) -> None:
        # What is on standard output already comes first where both are one terminal.
        with suppress(BrokenPipeError):
            self._out.flush()
        self._err.write(text + "\n")
        self._err.flush()


class Table:
    """Rows as they come. On a terminal the widths are those of the first rows, and grow where later ones need more."""

    def __init__(self, output: Output, columns: Sequence[Column], *, has_heading: bool) -> None:
        self._output = output
        self._columns = list(columns)
        self._has_heading = has_heading
        self._waiting: list[Record] = []
        self._widths: list[int] = []

    def add(self, record: Record) -> None:
        """One row."""
        if self._output.is_json:
            self._output.document(record)
        elif not self._output.is_terminal:
            values = (_for_programs(record.get(column.field), column.kind) for column in self._columns)
            self._output.result("\t".join(values))
        else:
            self._waiting.append(record)
            if len(self._waiting) >= _ROWS_AT_ONCE:
                self.show()

    def show(self) -> None:
        """Print the rows that were kept back for their widths."""
        if not self._waiting:
            return
        is_first = not self._widths
        cells = [[_for_people(row.get(column.field), column.kind) for column in self._columns] for row in self._waiting]
        if is_first:
            self._choose_columns(cells)
        self._widths = [
            max([width, *(words.width_of(row[place]) for row in cells)])
            for place, width in enumerate(self._widths or [len(column.heading) for column in self._columns])
        ]
        if is_first and self._has_heading:
            headings = [column.heading for column in self._columns]
            self._output.result(self._output.paint(self._line(headings), "dim"))
        for record, row in zip(self._waiting, cells, strict=True):
            colours = [column.colour and column.colour(record.get(column.field)) for column in self._columns]
            self._output.result(self._line(row, colours))
        self._waiting.clear()

    def finish(self) -> None:
        """No more rows."""
        self.show()

    def _choose_columns(self, cells: list[list[str]]) -> None:
        """Leave minor columns out, the last first, until the rows fit; out of `cells`, too."""
        while True:
            widest = [
                max([len(column.heading), *(words.width_of(row[place]) for row in cells)])
                for place, column in enumerate(self._columns)
            ]
            minor = [place for place, column in enumerate(self._columns) if column.is_minor]
            if sum(widest) + _GAP * (len(widest) - 1) <= self._output.width or not minor:
                return
            del self._columns[minor[-1]]
            for row in cells:
                del row[minor[-1]]

    def _line(self, cells: Sequence[str], colours: Sequence[str | None] | None = None) -> str:
        parts = []
        for place, (column, text) in enumerate(zip(self._columns, cells, strict=True)):
            space = " " * (self._widths[place] - words.width_of(text))
            painted = self._output.paint(text, colours[place]) if colours else text
            is_last = place == len(cells) - 1
            parts.append(space + painted if column.is_right else painted + ("" if is_last else space))
        return (" " * _GAP).join(parts)


def json_text(value: Any) -> str:
    """On one line, with every character as it is that shows. Times as RFC 3339."""
    text = json.dumps(value, ensure_ascii=False, default=words.json_value, separators=(", ", ": "))
    return (
        text if text.isprintable() else "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    )


def _for_people(value: Any, kind: str) -> str:
    if value is None:
        return "-"
    if kind == "bytes":
        return words.size(value)
    if kind == "time":
        return words.moment(value)
    if kind == "count":
        return f"{value:,}"
    return _for_programs(value, kind)


def _for_programs(value: Any, kind: str) -> str:
    if value is None:
        return "-"
    if kind == "time":
        return words.rfc3339(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return words.visible(str(value))


def _is_dumb() -> bool:
    return os.environ.get("TERM", "") in {"dumb", ""}


def _may_colour() -> bool:
    return not os.environ.get("NO_COLOR") and not _is_dumb()
