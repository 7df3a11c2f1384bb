"""How far a transfer is: a bar with rate and estimate on standard error, on a terminal and nowhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from trivet.cli import words
from trivet.cli.output import Output

if TYPE_CHECKING:  # rich is imported when a bar is drawn
    import rich.progress

_WIDE: Final = 100
_NARROW: Final = 60
_LARGE_BYTES: Final = 1 << 20


class Progress:
    """Bytes and files that are done, of those that are known so far.

    Sources are listed while files are copied, so how much there is comes later, by `estimate`; until then nothing is guessed.
    """

    def __init__(self, output: Output, verb: str) -> None:
        self.done_bytes = 0
        self.total_bytes = 0
        self.resumed_bytes = 0
        self.done_files = 0
        self.total_files = 0
        self._known_bytes: int | None = None
        self._known_files: int | None = None
        self._output = output
        self._verb = verb
        self._started = time.monotonic()
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        if self._output.shows_progress:
            self._bar, self._task = _draw(self._output.width, self._verb)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def expect(self, size_bytes: int | None) -> None:
        """One more file is found; None is a stream of unknown length."""
        self.total_bytes += size_bytes or 0
        self.total_files += 1
        self._show()

    def estimate(self, size_bytes: int, files: int) -> None:
        """So much is there to be done in all."""
        self._known_bytes, self._known_files = size_bytes, files
        self._show()

    def advance(self, size_bytes: int) -> None:
        """So many bytes are done, fewer than none if some have to be sent again."""
        self.done_bytes += size_bytes
        self._show()

    def resume(self, size_bytes: int) -> None:
        """So many were done by an earlier call."""
        self.done_bytes += size_bytes
        self.resumed_bytes += size_bytes
        if self._bar and self._task is not None:
            # Else the rate would count them.
            self._bar.reset(self._task, total=self._known_bytes or None, completed=self.done_bytes)

    def finish_file(self) -> None:
        """One file is done."""
        self.done_files += 1
        self._show()

    def summary(self, past: str) -> str:
        """A sentence such as `Copied 3 files, 12.0 MiB in 2 s (6.0 MiB/s).`, which begins with `past`."""
        moved = self.done_bytes - self.resumed_bytes
        rate = f" in {words.duration(self.elapsed_s)}" if moved else ""
        if moved >= _LARGE_BYTES:
            rate += f" ({words.size(moved / max(self.elapsed_s, 1e-3))}/s)"
        resumed = f", {words.size(self.resumed_bytes)} of them before" if self.resumed_bytes else ""
        return f"{past} {words.count(self.done_files, 'file')}, {words.size(self.done_bytes)}{resumed}{rate}."

    def _show(self) -> None:
        if self._bar is None or self._task is None:
            return
        label = self._verb
        if max(self.total_files, self._known_files or 0) > 1:
            of = f"/{self._known_files}" if self._known_files else ""
            label = f"{self._verb} {self.done_files}{of}"
        total = self._known_bytes or None
        self._bar.update(self._task, description=label, completed=self.done_bytes, total=total)


def _draw(width: int, verb: str) -> tuple[rich.progress.Progress, rich.progress.TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        """In the units of the summary, which rich's own column has not."""

        def render(self, task: Task) -> Text:
            """Of the last seconds."""
            return Text("" if task.speed is None else f"{words.size(task.speed)}/s")

    class Sizes(ProgressColumn):
        """Bytes that are done, of those that are known."""

        def render(self, task: Task) -> Text:
            """Both."""
            known = "" if task.total is None else f" of {words.size(task.total)}"
            return Text(f"{words.size(task.completed)}{known}")

    columns: list[ProgressColumn] = [BarColumn(bar_width=None), TaskProgressColumn()]
    if width >= _NARROW:
        columns = [TextColumn("{task.description}"), *columns, Rate()]
    if width >= _WIDE:
        columns.append(Sizes())
    columns.append(TimeRemainingColumn(compact=True))
    # It vanishes at the end, and a summary takes its place.
    bar = Bar(*columns, console=Console(stderr=True), transient=True, expand=True, refresh_per_second=8)
    return bar, bar.add_task(verb, total=None)
