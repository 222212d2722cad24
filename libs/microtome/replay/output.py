"""What a person or a program reads on standard output.

Promises: into a terminal it fits the terminal; into a pipe or a file lines are never cut to 80 columns, and there is
no colour. JSON is one document, or one a line where there are many.
Refuses: to write anything but results there; remarks go to standard error.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 140

STATUS_STYLES = {
    "DRAFT": "dim",
    "PENDING": "yellow",
    "RUNNING": "cyan",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "CANCELLED": "magenta",
    "SKIPPED": "dim magenta",
}


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Let the program end in its own way."""
        raise BrokenPipeError


def terminal() -> Console:
    """Standard output for people."""
    console = _Terminal(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else _Terminal(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)


def remark(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print one document, indented."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def print_json_line(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print one document of many, on a line."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode())


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """A table in the style of all of them."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def status(name: str) -> Text:
    """A status in its colour."""
    return Text(name, style=STATUS_STYLES.get(name, ""))
