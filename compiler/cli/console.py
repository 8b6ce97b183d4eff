"""What all verbs share: where output goes, progress bars, errors without tracebacks, exit codes.

Standard output carries results only (text, or one JSON document with --json); progress and errors go to standard error.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

DONE, OVER_BUDGET, TOOL_FAILED, INTERRUPTED = 0, 1, 3, 130
SIGNALLED = 128
"""What shells add to the number of the signal that ended a process."""

Progress = Callable[[int, int | None, str], None]


def say(text: str) -> None:
    """Prints a line of the result."""
    sys.stdout.write(text + "\n")


def say_json(data: Any) -> None:
    """Prints the result as one JSON document; NaN and infinities become null."""
    say(json.dumps(_finite(data), indent=1, default=str))


def count(number: int, noun: str) -> str:
    """Returns `1 thread` or `2 threads`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def say_table(table: "Table") -> None:
    """Prints a table of the result."""
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(table)


def say_lines(lines: Iterable[str]) -> None:
    """Prints lines of a unified diff, coloured where standard output is a terminal; nothing in them is markup."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    for line in lines:
        if console.is_terminal:
            console.print(Text(line, _STYLES.get(line[:1], "")), soft_wrap=True)
        else:
            say(line)


_STYLES = {"-": "red", "+": "green", "@": "cyan"}


def warn(text: str) -> None:
    """Prints a warning on standard error."""
    sys.stderr.write(f"warning: {text}\n")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Progress]:
    """Yields a progress callback that draws on standard error, if that is a terminal and not `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    with bar:
        task = bar.add_task("start", total=None)

        def update(done: int, total: int | None, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield update
